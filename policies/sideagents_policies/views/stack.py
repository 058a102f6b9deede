"""Vector wrappers that add memory and labels to observations, and the state of a whole stack of wrappers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sideagents.errors import SideAgentsError, nearest

Observation = dict[str, NDArray[Any]]
StepReturn = tuple[Observation, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]
LABEL = np.int64  # type of obs["expert"]
_MOST_CHANNELS = 4  # of one image


def dict_space(venv: VecEnv, wrapper: str) -> spaces.Dict:
    """Return the Dict observation space of `venv`; raises `SideAgentsError` for any other space."""
    if not isinstance(venv.observation_space, spaces.Dict):
        raise SideAgentsError(f"{wrapper} needs a Dict observation space, got {venv.observation_space}")
    return venv.observation_space


@dataclass(frozen=True)
class Stacking:
    """How a key's readings are joined: `count` of them, `stride` steps apart, along `axis` of one, newest last.

    What is stacked can so be stored as single readings: `newest` before storing, `gather` after.
    """

    count: int
    stride: int
    axis: int

    @property
    def reach(self) -> int:
        """Steps back to the oldest reading."""
        return (self.count - 1) * self.stride

    def single(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one reading, given that of a stack."""
        return *shape[: self.axis], shape[self.axis] // self.count, *shape[self.axis + 1 :]

    def split(self, stacks: NDArray[Any]) -> list[NDArray[Any]]:
        """Return views of the readings (B, ...) in stacks (B, ...), oldest first."""
        return np.split(stacks, self.count, axis=self.axis + 1)

    def gather(self, kept: NDArray[Any], rows: NDArray[np.int64], ages: NDArray[Any], gaps: Any) -> NDArray[Any]:
        """Return the stacks (B, ...) that end at `rows` (B,) of the readings (N, ...) kept in a ring.

        ages (B,): steps since the episode began, before which readings are zero; gaps: rows from one step to the next.
        """
        shape = list(kept.shape[1:])
        shape[self.axis] *= self.count
        stacks = np.empty((len(rows), *shape), kept.dtype)
        for back, part in zip(range(self.reach, -1, -self.stride), self.split(stacks), strict=True):
            part[...] = kept[(rows - back * gaps) % len(kept)]
            part[ages < back] = 0
        return stacks


def stackings(space: spaces.Dict, counts: Mapping[str, int], strides: Mapping[str, int]) -> dict[str, Stacking]:
    """Return how the keys of a space of stacked observations are stacked, those of one reading left out."""
    return {
        key: Stacking(count, strides.get(key, 1), _channel_axis(key, box))
        for key, count in counts.items()
        if count > 1 and isinstance(box := space.spaces.get(key), spaces.Box)
    }


class StackKeys(VecEnvWrapper):
    """Replace chosen keys by k of their last readings, newest last, zeros before the start of the episode.

    `StackKeys(venv, {"goal": 4, "base": 2})` turns goal (3,) into (12,) and base (C, h, w) into (2C, h, w). Vectors and
    channel-first arrays grow along their first axis, channel-last images along their last. `strides` says how many
    steps lie between the readings of a key (1). Terminal observations are stacked with the readings of the episode
    that ended. The paper stacks the last four frames of everything.
    Raises `SideAgentsError` for an unknown key or a count or stride below 1.
    """

    def __init__(self, venv: VecEnv, frames: Mapping[str, int], strides: Mapping[str, int] | None = None) -> None:
        space = dict_space(venv, "StackKeys")
        stacked: dict[str, spaces.Space[Any]] = dict(space.spaces)
        self._axes: dict[str, int] = {}  # of a single observation
        self._strides: dict[str, int] = {}
        self._kept: Observation = {}  # (readings kept, n_envs, ...), oldest first
        for key, count in frames.items():
            box = space.spaces.get(key)
            stride = (strides or {}).get(key, 1)
            if not isinstance(box, spaces.Box):
                boxes = [k for k, s in space.spaces.items() if isinstance(s, spaces.Box)]
                raise SideAgentsError(f"StackKeys: no array {key!r} in the observation{nearest(key, boxes)} ({boxes})")
            if count < 1 or stride < 1:
                raise SideAgentsError(
                    f"StackKeys: {key} must keep at least 1 reading, at least 1 step apart, got {count} and {stride}"
                )
            if count == 1:
                continue
            self._axes[key], self._strides[key] = _channel_axis(key, box), stride
            stacked[key] = stacked_space(box, count, self._axes[key])
            self._kept[key] = np.zeros(((count - 1) * stride + 1, venv.num_envs, *box.shape), dtype=box.dtype)
        super().__init__(venv, observation_space=spaces.Dict(stacked))

    def reset(self) -> Observation:
        """Reset all environments; every stack holds zeros and the first reading."""
        observation = self.venv.reset()
        assert isinstance(observation, dict)
        for kept in self._kept.values():
            kept[:] = 0
        return self._push(observation, np.zeros(self.num_envs, dtype=bool), [])

    def step_wait(self) -> StepReturn:
        """Return the step's result with stacked readings, those in `terminal_observation` included."""
        observation, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(observation, dict)
        return self._push(observation, dones, infos), rewards, dones, infos

    def get_state(self) -> dict[str, Any]:
        """Return the readings kept, for `set_state`; the wrapped environments keep their own state."""
        return {"kept": {key: kept.copy() for key, kept in self._kept.items()}}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore `get_state()`; raises `SideAgentsError` when keys or shapes differ."""
        saved = {key: np.asarray(kept) for key, kept in state["kept"].items()}
        if {k: s.shape for k, s in saved.items()} != {k: s.shape for k, s in self._kept.items()}:
            raise SideAgentsError("StackKeys: the saved state belongs to other keys, counts or environments")
        self._kept = {key: kept.astype(self._kept[key].dtype) for key, kept in saved.items()}

    def _push(self, observation: Observation, dones: NDArray[np.bool_], infos: list[dict[str, Any]]) -> Observation:
        result = dict(observation)
        ended = np.flatnonzero(dones)
        for key, axis in self._axes.items():
            kept, stride = self._kept[key], self._strides[key]
            kept[:-1] = kept[1:]
            for env in ended:
                terminal = infos[env].get("terminal_observation")
                if terminal is not None:
                    readings = [*kept[:-1:stride, env], terminal[key]]
                    infos[env]["terminal_observation"] = {**terminal, key: np.concatenate(readings, axis=axis)}
            kept[:-1, ended] = 0
            kept[-1] = observation[key]
            result[key] = np.concatenate(kept[::stride], axis=axis + 1)
        return result


def stacked_space(box: spaces.Box, count: int, axis: int) -> spaces.Box:
    """Return the space of `count` readings joined along an axis; an empty slot is zero, whatever a reading's bounds."""
    low, high = (np.concatenate([bound] * count, axis=axis) for bound in (box.low, box.high))
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    return spaces.Box(low.astype(box.dtype), high.astype(box.dtype), dtype=box.dtype.type)


def _channel_axis(key: str, box: spaces.Box) -> int:
    """Return the axis along which readings of a key are put together; float images are told by their few channels."""
    if len(box.shape) != 3 or key == "base":
        return 0
    if is_image_space(box):
        return 0 if is_image_space_channels_first(box) else 2
    return 2 if box.shape[2] <= _MOST_CHANNELS and box.shape[2] < min(box.shape[:2]) else 0


class ExpertLabels(VecEnvWrapper):
    """Add obs["expert"], int64 (1,): the action the shortest-path expert would take now (-1 in terminal observations).

    `SideTunedPolicy` never reads this key; losses such as `expert_cross_entropy` do. The environments must offer
    `expert_actions() -> (n_envs,)`.
    """

    def __init__(self, venv: VecEnv) -> None:
        space = dict_space(venv, "ExpertLabels")
        if not isinstance(venv.action_space, spaces.Discrete) or not hasattr(venv, "expert_actions"):
            raise SideAgentsError("ExpertLabels needs discrete actions and an environment with expert_actions()")
        label = spaces.Box(-1, int(venv.action_space.n) - 1, (1,), LABEL)
        super().__init__(venv, observation_space=spaces.Dict({**space.spaces, "expert": label}))

    def reset(self) -> Observation:
        """Reset all environments and label their first observations."""
        return self._label(self.venv.reset())

    def step_wait(self) -> StepReturn:
        """Return the step's result with labels."""
        observation, rewards, dones, infos = self.venv.step_wait()
        for env in np.flatnonzero(dones):
            terminal = infos[env].get("terminal_observation")
            if terminal is not None:
                infos[env]["terminal_observation"] = {**terminal, "expert": np.array([-1], LABEL)}
        return self._label(observation), rewards, dones, infos

    def _label(self, observation: Any) -> Observation:
        assert isinstance(observation, dict)
        labels = np.asarray(self.venv.expert_actions(), dtype=LABEL)  # type: ignore[attr-defined]
        return {**observation, "expert": labels.reshape(-1, 1)}


def layers(venv: VecEnv) -> Iterator[VecEnv]:
    """Yield the wrappers from the outermost to the environments themselves."""
    yield venv
    while isinstance(venv, VecEnvWrapper):
        venv = venv.venv
        yield venv


def environment_state(venv: VecEnv) -> list[Any]:
    """Return the state of every layer that has one, outermost first: JSON values and numpy arrays.

    Raises `SideAgentsError` when the environments themselves cannot be saved.
    """
    found = [layer for layer in layers(venv) if hasattr(type(layer), "get_state")]
    if not found or isinstance(found[-1], VecEnvWrapper):
        raise SideAgentsError(f"{type(venv.unwrapped).__name__} has no get_state(): its episodes cannot be resumed")
    return [layer.get_state() for layer in found]  # type: ignore[attr-defined]


def restore_environment(venv: VecEnv, states: list[Any]) -> None:
    """Give every layer its state back; raises `SideAgentsError` when the wrappers are not those that were saved."""
    found = [layer for layer in layers(venv) if hasattr(type(layer), "set_state")]
    if len(found) != len(states):
        raise SideAgentsError(f"saved state of {len(states)} environment layers, but {len(found)} are in use")
    for layer, state in zip(found, states, strict=True):
        layer.set_state(state)  # type: ignore[attr-defined]
