"""What a sensor is: it owns everything about one key of the observation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sideagents_envs.config import CameraConfig, TaskConfig
from sideagents_envs.errors import EnvsError


@dataclass(frozen=True)
class Look:
    """What is known of K bodies at one moment.

    poses (K, 4): x, y, z in metres, y up, and yaw in radians, where 0 looks along -z and to the left is more; goals
    (K, 3); tracks (K, T, 2): places x, z where they have been, of which the first `lengths` (K,) count; images: (K, H,
    W, ...) of each camera channel that a sensor names; goal_readings() -> (K, 3), see `PointGoal`; view(poses) -> uint8
    (K, H, W, 3), what they would see from other poses.
    """

    poses: NDArray[Any]
    goals: NDArray[Any]
    tracks: NDArray[Any]
    lengths: NDArray[Any]
    images: Mapping[str, NDArray[Any]]
    goal_readings: Callable[[], NDArray[Any]]
    view: Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Walk:
    """One stored episode: poses (T, 4), goal (3,), images(channel) -> (T, H, W, ...), view(poses) as in `Look`."""

    poses: NDArray[Any]
    goal: NDArray[Any]
    images: Callable[[str], NDArray[Any]]
    view: Callable[[NDArray[Any]], NDArray[Any]]


class Sensor(ABC):
    """One key of the observation: its space, how it is read from a batch of bodies, and from a stored episode.

    key: its name; channels: what it reads of `Look.images` (`rgb`, `depth`); camera: a blind agent does without it;
    blank: what an environment without an episode observes; fixed: it is read once, when an episode begins.
    """

    key: ClassVar[str]
    channels: ClassVar[tuple[str, ...]] = ()
    camera: ClassVar[bool] = False
    blank: ClassVar[int] = 0
    fixed: ClassVar[bool] = False

    def __init__(self, camera: CameraConfig, task: TaskConfig) -> None:
        self.image_shape = (camera.height, camera.width)
        self.task = task

    @abstractmethod
    def space(self) -> spaces.Box:
        """Return the space of one reading."""

    @abstractmethod
    def read(self, look: Look) -> NDArray[Any]:
        """Return the readings (K, ...) of K bodies."""

    @abstractmethod
    def replay(self, walk: Walk) -> NDArray[Any]:
        """Return the readings (T, ...) of a stored episode: those that `read` would have given."""


def checked(sensor: Sensor, box: spaces.Box, reading: Any, count: int, method: str) -> NDArray[Any]:
    """Return what `method` of a sensor gave for `count` bodies or steps.

    Raises `EnvsError` for another shape than its space's, which NumPy would broadcast, and for a type that loses by
    becoming its space's.
    """
    array = np.asarray(reading)
    shape = (count, *box.shape)
    if array.shape != shape or not np.can_cast(array.dtype, box.dtype, "same_kind"):
        raise EnvsError(
            f"sensor {sensor.key!r}: {method} gave {array.dtype} {array.shape}, its space says {box.dtype} {shape}"
        )
    return array
