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

from sideagents.errors import ConfigError
from sideagents.ram import disk_line, memory_line
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
    are kept in memory-mapped files instead of memory. processes: how many on this machine keep as much. Raises
    `ConfigError` where there is no room for them.
    """

    def __init__(
        self,
        space: spaces.Dict,
        capacity: int,
        stacks: Mapping[str, Stacking] | None = None,
        gap: int = 1,
        folder: Path | None = None,
        processes: int = 1,
    ) -> None:
        if (line := room_line(space, capacity, stacks, gap, folder, processes)) is not None:
            raise ConfigError(line)
        self._stacks = dict(stacks or {})
        self._reach = _reach(stacks)
        self._shapes = {key: _single(key, box.shape or (), stacks) for key, box in space.items()}
        self.capacity = capacity
        self.total = 0  # frames ever added
        self._folder = folder
        self.margin = self._reach * gap  # frames: what the oldest look back on is kept as well
        size = capacity + self.margin
        rows = _rows(space, stacks)
        self._arrays = {key: self._allocate(key, (size, *row), kind) for key, (row, kind) in rows.items()}
        self._labels = np.full(size, NO_ACTION, np.int8)
        self._returns = np.zeros(size, np.float32)
        self._ages = np.zeros(size, np.uint16)
        self._gaps = np.zeros(size, np.uint16)

    @staticmethod
    def frame_bytes(space: spaces.Dict, stacks: Mapping[str, Stacking] | None = None) -> int:
        """Return the bytes of one frame."""
        return sum(math.prod(row) * np.dtype(kind).itemsize for row, kind in _rows(space, stacks).values()) + 9

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


def room_line(
    space: spaces.Dict,
    capacity: int,
    stacks: Mapping[str, Stacking] | None,
    gap: int,
    folder: Path | None,
    processes: int = 1,
) -> str | None:
    """Return the line that says that the frames of a `FrameStore` have no room, before hours of work; None if they do.

    All but `space` is as there; nothing is made.
    """
    size = processes * (capacity + _reach(stacks) * gap) * FrameStore.frame_bytes(space, stacks)
    what, less = "the frames to learn from", "fewer demonstrations or smaller images take less"
    if folder is None:
        return memory_line(size, what, f"clone.frames_in=disk keeps them in files, {less}")
    return disk_line(folder, size, what, f"`runs` names another place, {less}")


def _reach(stacks: Mapping[str, Stacking] | None) -> int:
    """Return how many steps back the stacked keys look."""
    return max((stacking.reach for stacking in (stacks or {}).values()), default=0)


def _single(key: str, shape: tuple[int, ...], stacks: Mapping[str, Stacking] | None) -> tuple[int, ...]:
    """Return the shape of one reading."""
    return stacks[key].single(shape) if stacks and key in stacks else shape


def _rows(space: spaces.Dict, stacks: Mapping[str, Stacking] | None) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return the shape and type that one reading of each key is kept in."""
    rows: dict[str, tuple[tuple[int, ...], Any]] = {}
    for key, box in space.items():
        shape = _single(key, box.shape or (), stacks)
        if key == "map":
            rows[key] = ((-(-math.prod(shape) // 8),), np.uint8)
        else:
            rows[key] = (shape, np.float16 if key == "base" else box.dtype)
    return rows
