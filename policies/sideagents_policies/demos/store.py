"""Labelled frames in memory or on disk, ready to be indexed into mini-batches."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from sideagents.ram import require_disk, require_memory
from sideagents_envs.sensors.spaces import MAP_BACKGROUND, MAP_MARK, NO_ACTION
from sideagents_policies.views.stack import Stacking

Arrays = dict[str, NDArray[Any]]
_BYTES_OF_BITS = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1), np.uint8(MAP_MARK), np.uint8(MAP_BACKGROUND)
)  # (256, 8): eight map values for each byte of eight bits


@dataclass(frozen=True)
class Frames:
    """Labelled frames in the form a `FrameStore` keeps, oldest first.

    packed: single readings (N, ...); labels (N,), -1 for none; returns (N,); ages (N,): steps since the episode began;
    gap: rows from one step of an episode to its next.
    """

    packed: Arrays
    labels: NDArray[np.int8]
    returns: NDArray[np.float32]
    ages: NDArray[Any]
    gap: int

    def __len__(self) -> int:
        return len(self.labels)


class FrameStore:
    """The newest `capacity` labelled frames: observations as the policy reads them, actions, returns to go.

    Readings are kept once, those in `stacks` stacked when they are taken; images stay uint8, codes are float16, maps
    (two values only) bits: a frame of the default agent takes 16 KB. Frames are numbered by age, 0 the oldest kept.
    space: that of the policy. gap: the most rows from one step of an episode to its next. folder: where the readings
    are kept in memory-mapped files instead of memory. Raises `SideAgentsError` where there is no room for them.
    """

    def __init__(
        self,
        space: spaces.Dict,
        capacity: int,
        stacks: Mapping[str, Stacking] | None = None,
        gap: int = 1,
        folder: Path | None = None,
    ) -> None:
        self._stacks = dict(stacks or {})
        self._reach = max((stacking.reach for stacking in self._stacks.values()), default=0)
        self._shapes = {key: self._single(key, box.shape or ()) for key, box in space.items()}
        self.capacity = capacity
        self.total = 0  # frames ever added
        self._folder = folder
        self.margin = self._reach * gap  # frames: what the oldest look back on is kept as well
        size = capacity + self.margin
        rows = {key: (self._row(key), self._dtype(key, box)) for key, box in space.items()}
        _require_room(size * sum(math.prod(row) * np.dtype(kind).itemsize for row, kind in rows.values()), folder)
        self._arrays = {key: self._allocate(key, (size, *row), kind) for key, (row, kind) in rows.items()}
        self._labels = np.full(size, NO_ACTION, np.int8)
        self._returns = np.zeros(size, np.float32)
        self._ages = np.zeros(size, np.uint16)
        self._gaps = np.zeros(size, np.uint16)

    @staticmethod
    def frame_bytes(space: spaces.Dict, stacks: Mapping[str, Stacking] | None = None) -> int:
        """Return the bytes of one frame."""
        store = FrameStore(space, 1, stacks, gap=0)
        return sum(array.nbytes for array in store._arrays.values()) + 9

    def _single(self, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self._stacks[key].single(shape) if key in self._stacks else shape

    def _row(self, key: str) -> tuple[int, ...]:
        shape = self._shapes[key]
        return (-(-math.prod(shape) // 8),) if key == "map" else shape

    @staticmethod
    def _dtype(key: str, box: spaces.Space[Any]) -> Any:
        return np.uint8 if key == "map" else np.float16 if key == "base" else box.dtype

    def _allocate(self, key: str, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        if self._folder is None:
            return np.zeros(shape, kind)
        self._folder.mkdir(parents=True, exist_ok=True)
        mapped: NDArray[Any] = np.memmap(self._folder / f"{key}.bin", mode="w+", dtype=kind, shape=shape)
        return mapped.view(np.ndarray)

    def remove_files(self) -> None:
        """Remove the memory-mapped files, where there are any."""
        self._arrays.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __len__(self) -> int:
        return min(self.total, self.capacity)

    def newest(self, observations: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return the newest readings of stacked observations (B, ...)."""
        return {
            key: self._stacks[key].split(values)[-1] if key in self._stacks else values
            for key, values in observations.items()
        }

    def pack(self, readings: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return single readings (B, ...) in the form they are kept in."""
        packed: Arrays = {}
        for key, kept in self._arrays.items():
            values = readings[key]
            if key == "map":
                values = np.packbits(values.reshape(len(values), -1) == MAP_MARK, axis=1)
            packed[key] = values.astype(kept.dtype, copy=False)
        return packed

    def add(self, frames: Frames) -> None:
        """Add frames, oldest first; the oldest kept make room."""
        size = len(self._labels)
        surplus = max(0, len(frames) - size)
        rows = (self.total + np.arange(surplus, len(frames))) % size
        for key, kept in self._arrays.items():
            kept[rows] = frames.packed[key][surplus:]
        self._labels[rows] = frames.labels[surplus:]
        self._returns[rows] = frames.returns[surplus:]
        self._ages[rows] = np.minimum(frames.ages[surplus:], self._reach)
        self._gaps[rows] = frames.gap
        self.total += len(frames)

    def take(self, ages: NDArray[np.int64], device: torch.device) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return observations, labels int64 (B,) and returns (B,) of frames numbered by age."""
        rows = (ages + self.total - len(self)) % len(self._labels)
        observations: dict[str, Tensor] = {}
        for key, kept in self._arrays.items():
            if key in self._stacks:
                values = self._stacks[key].gather(kept, rows, self._ages[rows], self._gaps[rows].astype(np.int64))
            else:
                values = kept[rows]
            if key == "map":
                size = math.prod(self._shapes[key])
                values = _BYTES_OF_BITS[values].reshape(len(rows), -1)[:, :size].reshape(-1, *self._shapes[key])
            observations[key] = torch.from_numpy(values).to(device)
        labels = torch.from_numpy(self._labels[rows].astype(np.int64)).to(device)
        return observations, labels, torch.from_numpy(self._returns[rows]).to(device)


def _require_room(size: int, folder: Path | None) -> None:
    """Raise `ConfigError` where `size` bytes of frames have no place: before hours of work, not after."""
    what, less = "the frames to learn from", "fewer demonstrations or smaller images take less"
    if folder is None:
        require_memory(size, what, f"clone.frames_in=disk keeps them in files, {less}")
    else:
        require_disk(folder, size, what, f"`runs` names another place, {less}")
