"""Rollout buffers that keep observations as they came (uint8 images) and never copy the whole rollout."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples
from torch import Tensor

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


class DictRollout(DictRolloutBuffer):
    """SB3's rollout buffer for Dict observations without its copies; allocated once."""

    def reset(self) -> None:
        """Start over; the arrays are written again from the beginning."""
        if not hasattr(self, "observations"):
            super().reset()
        self.pos, self.full = 0, False

    def get(self, batch_size: int | None = None) -> Generator[DictRolloutBufferSamples, None, None]:  # type: ignore[override]
        """Yield one epoch of mini-batches in random order."""
        batches = _Batches(self, batch_size)
        views = {key: _flat(array) for key, array in self.observations.items()}
        for rows in batches.rows():
            observations = {key: batches.take(view, rows) for key, view in views.items()}
            yield DictRolloutBufferSamples(observations, *batches.samples(rows))
