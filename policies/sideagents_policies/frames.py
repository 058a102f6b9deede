"""Labelled frames in memory: demonstrations and DAgger's own, ready to be indexed into mini-batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError
from sideagents_envs.batch import FURTHEST_DEPTH_M
from sideagents_envs.occupancy import BACKGROUND, MARK, draw_map, goal_readings
from sideagents_policies.config import AgentConfig
from sideagents_policies.demos import NO_ACTION, ImageSource, Trajectory

Arrays = dict[str, NDArray[Any]]
_BYTES_OF_BITS = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1), np.uint8(MARK), np.uint8(BACKGROUND)
)  # (256, 8): eight map values for each byte of eight bits
_ENCODED_AT_ONCE = 256


class FrameStore:
    """The newest `capacity` labelled frames: observations as the policy reads them, actions, returns to go.

    Images stay uint8, codes are kept as float16, maps (two values only) as bits: a frame of the default agent takes
    16 KB. Frames are numbered by age, 0 the oldest kept.
    """

    def __init__(self, space: spaces.Dict, capacity: int) -> None:
        self._shapes = {key: box.shape or () for key, box in space.items()}
        self._arrays = {key: np.zeros((capacity, *self._row(key)), self._dtype(key, box)) for key, box in space.items()}
        self._labels = np.full(capacity, NO_ACTION, np.int8)
        self._returns = np.zeros(capacity, np.float32)
        self.capacity = capacity
        self.total = 0  # frames ever added

    @staticmethod
    def frame_bytes(space: spaces.Dict) -> int:
        """Return the bytes of one frame."""
        store = FrameStore(space, 1)
        return sum(array.nbytes for array in store._arrays.values()) + 5

    def _row(self, key: str) -> tuple[int, ...]:
        shape = self._shapes[key]
        return (-(-math.prod(shape) // 8),) if key == "map" else shape

    @staticmethod
    def _dtype(key: str, box: spaces.Space[Any]) -> Any:
        return np.uint8 if key == "map" else np.float16 if key == "base" else box.dtype

    def __len__(self) -> int:
        return min(self.total, self.capacity)

    def pack(self, observations: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return observations (B, ...) in the form they are kept in."""
        packed: Arrays = {}
        for key, kept in self._arrays.items():
            values = observations[key]
            if key == "map":
                values = np.packbits(values.reshape(len(values), -1) == MARK, axis=1)
            packed[key] = values.astype(kept.dtype, copy=False)
        return packed

    def add(self, packed: Arrays, labels: NDArray[np.int8], returns: NDArray[np.float32]) -> None:
        """Add packed frames, oldest first; the oldest kept make room."""
        surplus = max(0, len(labels) - self.capacity)
        rows = (self.total + np.arange(surplus, len(labels))) % self.capacity
        for key, kept in self._arrays.items():
            kept[rows] = packed[key][surplus:]
        self._labels[rows] = labels[surplus:]
        self._returns[rows] = returns[surplus:]
        self.total += len(labels)

    def take(self, ages: NDArray[np.int64], device: torch.device) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return observations, labels int64 (B,) and returns (B,) of frames numbered by age."""
        rows = (ages + self.total - len(self)) % self.capacity
        observations: dict[str, Tensor] = {}
        for key, kept in self._arrays.items():
            values = kept[rows]
            if key == "map":
                size = math.prod(self._shapes[key])
                values = _BYTES_OF_BITS[values].reshape(len(rows), -1)[:, :size].reshape(-1, *self._shapes[key])
            observations[key] = torch.from_numpy(values).to(device)
        labels = torch.from_numpy(self._labels[rows].astype(np.int64)).to(device)
        return observations, labels, torch.from_numpy(self._returns[rows]).to(device)


def returns_to_go(rewards: NDArray[np.float32], gamma: float, last: float = 0.0) -> NDArray[np.float32]:
    """Return the discounted sums of rewards (T,) from each step on; `last` is the value after the final one."""
    result = np.empty(len(rewards), np.float64)
    for t in range(len(rewards) - 1, -1, -1):
        last = float(rewards[t]) + gamma * last
        result[t] = last
    return result.astype(np.float32)


class DemoReader:
    """Turns trajectories into the very observations that the environments and their wrappers would have given."""

    def __init__(self, config: AgentConfig, space: spaces.Dict, base: FrozenBase | None, device: torch.device) -> None:
        self._config = config
        self._keys = tuple(space)
        self._base = base.to(device) if base is not None and "base" in self._keys else None
        self._device = device
        self._images = ImageSource(config)

    def fill(self, store: FrameStore, trajectories: Iterable[Trajectory]) -> int:
        """Add all labelled frames to the store; return how many trajectories there were."""
        count = 0
        for trajectory in trajectories:
            kept = trajectory.actions != NO_ACTION
            packed = store.pack({key: values[kept] for key, values in self.observations(trajectory).items()})
            returns = returns_to_go(trajectory.rewards, self._config.ppo.gamma)
            store.add(packed, trajectory.actions[kept], returns[kept])
            count += 1
        return count

    def observations(self, trajectory: Trajectory) -> Arrays:
        """Return the observations (T, ...) of every step."""
        model, task = self._config.model, self._config.task
        parts: Arrays = {}
        if "goal" in self._keys:
            goals = np.broadcast_to(trajectory.goal, (len(trajectory.poses), 3))
            parts["goal"] = stacked(goal_readings(trajectory.poses, goals), model.goal_history, axis=1)
        if "map" in self._keys:
            parts["map"] = _maps(trajectory, task.map_cells, task.map_size_m)
        if "rgb" in self._keys or "base" in self._keys:
            images = self._images.images(trajectory)
            if "base" in self._keys:
                parts["base"] = stacked(self._encode(images), model.frames, 1, model.frame_stride)
            if "rgb" in self._keys:
                parts["rgb"] = images if "base" in self._keys else stacked(images, model.frames, 3, model.frame_stride)
        if "depth" in self._keys:
            parts["depth"] = np.minimum(self._images.depth(trajectory), FURTHEST_DEPTH_M)[..., None]
        if set(parts) != set(self._keys):
            raise SideAgentsError(f"demonstrations hold {sorted(parts)}, the agent reads {sorted(self._keys)}")
        return parts

    def _encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert self._base is not None
        codes = []
        for i in range(0, len(images), _ENCODED_AT_ONCE):
            tensor = torch.from_numpy(images[i : i + _ENCODED_AT_ONCE]).to(self._device).permute(0, 3, 1, 2)
            with torch.no_grad():
                codes.append(self._base(tensor).float().cpu().numpy())
        return np.concatenate(codes)


def stacked(readings: NDArray[Any], count: int, axis: int, stride: int = 1) -> NDArray[Any]:
    """Join each step's reading (T, ...) with `count - 1` earlier ones, `stride` steps apart, newest last, as StackKeys.

    What lies before the start is zero.
    """
    shifted = []
    for back in range((count - 1) * stride, 0, -stride):
        older = np.zeros_like(readings)
        older[back:] = readings[: len(readings) - back] if back < len(readings) else 0
        shifted.append(older)
    return np.concatenate([*shifted, readings], axis=axis) if shifted else readings


def _maps(trajectory: Trajectory, cells: int, size_m: float) -> NDArray[np.uint8]:
    maps = np.empty((len(trajectory.poses), cells, cells, 3), np.uint8)
    track = np.ascontiguousarray(trajectory.poses[:, [0, 2]])
    for t, pose in enumerate(trajectory.poses):
        draw_map(maps[t], track[: t + 1], pose, trajectory.goal, size_m)
    return maps
