"""Rollout buffers that keep observations as they came (uint8 images) and never copy the whole rollout."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples
from torch import Tensor

from sideagents_policies.views.stack import Stacking, stackings

_SAMPLED = ("actions", "values", "log_probs", "advantages", "returns")  # in the order of SB3's samples


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    """View (steps, environments, ...) as (steps * environments, ...)."""
    return array.reshape(-1, *array.shape[2:])


class _Batches:
    """Mini-batches in random order, cut from views of a full buffer (SB3 copies the whole rollout into a new order)."""

    def __init__(self, buffer: RolloutBuffer, batch_size: int | None) -> None:
        assert buffer.full, "the rollout is not complete"
        self._arrays = [_flat(getattr(buffer, name)) for name in _SAMPLED]
        self._device = buffer.device
        self._size = batch_size or len(self._arrays[0])
        # numpy's global generator, as in SB3: `set_random_seed` seeds it and a resumed run restores it
        self._order = np.random.permutation(len(self._arrays[0]))  # noqa: NPY002

    def rows(self) -> Generator[NDArray[np.int64], None, None]:
        """Yield the rows of each mini-batch."""
        for start in range(0, len(self._order), self._size):
            yield self._order[start : start + self._size]

    def take(self, array: NDArray[Any], rows: NDArray[np.int64]) -> Tensor:
        """Return the rows of an array as a tensor on the buffer's device."""
        return torch.from_numpy(array[rows]).to(self._device)

    def samples(self, rows: NDArray[np.int64]) -> tuple[Tensor, ...]:
        """Return actions (B, dim), and flat values, log-probabilities, advantages and returns."""
        actions, *rest = (self.take(array, rows) for array in self._arrays)
        return (actions.float(), *(tensor.flatten() for tensor in rest))


class Rollout(RolloutBuffer):
    """SB3's rollout buffer without its copies; allocated once."""

    def reset(self) -> None:
        """Start over; the arrays are written again from the beginning."""
        if not hasattr(self, "observations"):
            super().reset()
        self.pos, self.full = 0, False

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Yield one epoch of mini-batches in random order."""
        batches = _Batches(self, batch_size)
        observations = _flat(self.observations)
        for rows in batches.rows():
            yield RolloutBufferSamples(batches.take(observations, rows), *batches.samples(rows))


def rollout_stacks(stacks: Mapping[str, Stacking]) -> dict[str, int]:
    """Return how many readings each key holds that a rollout keeps singly: those with one step between them."""
    return {key: stacking.count for key, stacking in stacks.items() if stacking.stride == 1}


class DictRollout(DictRolloutBuffer):
    """SB3's rollout buffer for Dict observations without its copies; allocated once.

    `stacks` says how many readings, one step apart, `StackKeys` put into a key: they are kept once and stacked when
    mini-batches are cut. What was read before the rollout is in its first observation.
    """

    def __init__(self, *args: Any, stacks: Mapping[str, int] | None = None, **kwargs: Any) -> None:
        self._counts = dict(stacks or {})
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Start over; the arrays are written again from the beginning."""
        if not hasattr(self, "observations"):
            super().reset()
            self._stacks = stackings(self.observation_space, self._counts, {})
            for key, stacking in self._stacks.items():
                stacked = self.observations[key]
                # the readings from before the rollout come last: counting back from its first ends there
                shape = (len(stacked) + stacking.reach, self.n_envs, *stacking.single(stacked.shape[2:]))
                self.observations[key] = np.zeros(shape, stacked.dtype)
        self.pos, self.full = 0, False

    def add(self, obs: dict[str, NDArray[Any]], *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Add one step of all environments, as SB3's buffer does."""
        single = dict(obs)
        for key, stacking in self._stacks.items():
            *earlier, single[key] = stacking.split(np.asarray(obs[key]))
            if self.pos == 0:
                self.observations[key][self.buffer_size :] = np.stack(earlier)
        super().add(single, *args, **kwargs)

    def get(self, batch_size: int | None = None) -> Generator[DictRolloutBufferSamples, None, None]:  # type: ignore[override]
        """Yield one epoch of mini-batches in random order."""
        batches = _Batches(self, batch_size)
        views = {key: _flat(array) for key, array in self.observations.items()}
        ages = self._ages().reshape(-1)
        for rows in batches.rows():
            observations = {}
            for key, view in views.items():
                if key in self._stacks:
                    stacked = self._stacks[key].gather(view, rows, ages[rows], self.n_envs)
                    observations[key] = torch.from_numpy(stacked).to(self.device)
                else:
                    observations[key] = batches.take(view, rows)
            yield DictRolloutBufferSamples(observations, *batches.samples(rows))

    def _ages(self) -> NDArray[np.int64]:
        """Return the steps since the last start of an episode (steps, n_envs); many where none is in the rollout."""
        before = max((stacking.reach for stacking in self._stacks.values()), default=0)
        steps = np.arange(self.buffer_size)[:, None]
        starts = np.where(self.episode_starts > 0, steps, -before)
        return np.asarray(steps - np.maximum.accumulate(starts, axis=0))
