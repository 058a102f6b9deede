"""What a sensor of one's own gets wrong is one line, not a broadcast or a cast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from sideagents_envs.batch.navigation_batch import NavigationBatch
from sideagents_envs.bodies.embedded_bodies import EmbeddedBodies
from sideagents_envs.config import TaskConfig
from sideagents_envs.episodes.sources import TrainingEpisodes
from sideagents_envs.errors import EnvsError
from sideagents_envs.sensors.sensor import Look, Sensor, Walk, checked
from sideagents_envs.task.pointnav import PointNav
from square_room import CAMERA, SquareSimulator

Read = Callable[[NDArray[Any]], Any]


def compass(poses: NDArray[Any]) -> NDArray[Any]:
    return np.stack([np.cos(poses[:, 3]), np.sin(poses[:, 3])], axis=1)


def task_with(read_poses: Read, name: str = "compass", box: spaces.Space[Any] | None = None) -> type[PointNav]:
    class Own(Sensor):
        key = name

        def space(self) -> Any:
            return spaces.Box(-1.0, 1.0, (2,), np.float32) if box is None else box

        def read(self, look: Look) -> Any:
            return read_poses(look.poses)

        def replay(self, walk: Walk) -> Any:
            return read_poses(walk.poses)

    class Task(PointNav):
        @classmethod
        def kinds(cls, config: TaskConfig) -> Sequence[type[Sensor]]:
            return (*PointNav.kinds(config), Own)

    return Task


def observed(read: Read, box: spaces.Space[Any] | None = None) -> NDArray[Any]:
    simulator = SquareSimulator(["a", "b"])
    config = TaskConfig(max_steps=25)
    source = TrainingEpisodes(simulator, ["a", "b"], 3, 4)
    task = task_with(read, box=box)(CAMERA, config)
    made = NavigationBatch(EmbeddedBodies(simulator, 3, config), source, 3, task)
    for env in range(3):
        made.begin(env)
    return np.asarray(made.observe()["compass"])


def test_a_reading_becomes_its_spaces_type() -> None:
    found = observed(compass)  # float64
    assert (found.shape, found.dtype) == ((3, 2), np.float32)
    assert len(np.unique(found, axis=0)) == 3


@pytest.mark.parametrize(
    ("read", "box", "line"),
    [
        (lambda p: compass(p)[:, :1], None, r"read gave float64 \(3, 1\), its space says float32 \(3, 2\)"),
        (lambda p: compass(p)[0], None, r"read gave float64 \(2,\), its space says float32 \(3, 2\)"),
        (lambda p: compass(p).T, None, r"read gave float64 \(2, 3\), its space says float32 \(3, 2\)"),
        (lambda p: None, None, r"read gave object \(\), its space says float32 \(3, 2\)"),
        (compass, spaces.Box(0, 255, (2,), np.uint8), r"read gave float64 \(3, 2\), its space says uint8 \(3, 2\)"),
    ],
)
def test_other_shapes_and_types_are_one_line(read: Read, box: Any, line: str) -> None:
    with pytest.raises(EnvsError, match=f"^sensor 'compass': {line}$"):
        observed(read, box)


def test_a_stored_episode_is_held_to_the_space_too() -> None:
    sensor = task_with(compass)(CAMERA, TaskConfig()).sensors[-1]
    with pytest.raises(EnvsError, match=r"sensor 'compass': replay gave float64 \(4, 1\), its space says float32"):
        checked(sensor, sensor.space(), np.zeros((4, 1)), 4, "replay")


@pytest.mark.parametrize(
    ("name", "box", "line"),
    [
        ("goal", None, "sensor Own: its key 'goal' is that of PointGoal already"),
        ("expert", None, "sensor Own: its key 'expert' must be a plain name, and base, expert are taken"),
        ("my.compass", None, "sensor Own: its key 'my.compass' must be a plain name"),
        ("compass", spaces.Discrete(2), r"sensor Own: its space must be a Box, got Discrete\(2\)"),
    ],
)
def test_keys_and_spaces_are_checked_before_anything_is_made(name: str, box: Any, line: str) -> None:
    with pytest.raises(EnvsError, match=f"^{line}$"):
        task_with(compass, name, box)(CAMERA, TaskConfig())
