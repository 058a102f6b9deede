"""Image-goal navigation: point navigation's rules, another goal: a picture, and nothing else that tells the place."""

from __future__ import annotations

import numpy as np
import pytest

from sideagents_envs.batch.env import PointNavEnv
from sideagents_envs.batch.navigation_batch import NavigationBatch
from sideagents_envs.config import ScenesConfig, TaskConfig
from sideagents_envs.episodes.sources import TrainingEpisodes
from sideagents_envs.errors import EnvsError
from sideagents_envs.sensors.goal_image import goal_pose
from sideagents_envs.sensors.spaces import MAP_BACKGROUND
from sideagents_envs.task.tasks import TASKS, make_task, observation_space
from square_room import CAMERA, SquareSimulator, batch_of


def batch(kind: str, n: int = 3) -> NavigationBatch:
    simulator = SquareSimulator(["a", "b"])
    task = TaskConfig(kind=kind, max_steps=25)
    made = batch_of(simulator, TrainingEpisodes(simulator, ["a", "b"], n, 4), n, task)
    for env in range(n):
        made.begin(env)
    return made


def test_it_is_point_navigation_but_for_what_is_observed() -> None:
    image, point = batch("imagenav"), batch("pointnav")
    rng = np.random.default_rng(0)
    for _ in range(25):
        ours, theirs = image.observe(), point.observe()
        assert set(ours) == {"goal_image", "map", "rgb"}
        assert set(theirs) == {"goal", "map", "rgb"}
        np.testing.assert_array_equal(ours["rgb"], theirs["rgb"])
        np.testing.assert_array_equal(ours["map"][..., 0], theirs["map"][..., 0])
        assert (ours["map"][..., 1:] == MAP_BACKGROUND).all()
        actions = rng.integers(0, 3, 3)
        for a, b in zip(image.step(actions)[:3], point.step(actions)[:3], strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_picture_is_what_is_seen_at_the_goal_and_stays() -> None:
    made = batch("imagenav")
    poses = np.stack([goal_pose(goal) for goal in made.goals])
    expected = made.bodies.view(np.arange(3), poses)
    np.testing.assert_array_equal(made.observe()["goal_image"], expected)
    made.step(np.zeros(3, np.int64))
    np.testing.assert_array_equal(made.observe([1])["goal_image"], expected[[1]])
    assert np.unique(poses[:, 3]).size == 3
    assert (np.abs(poses[:, 3]) <= np.pi).all()
    np.testing.assert_array_equal(goal_pose(made.goals[0]), goal_pose(made.goals[0].copy()))


def test_the_picture_is_rendered_once_in_an_episode() -> None:
    made = batch("imagenav")
    calls = made.bodies.simulator.calls
    assert calls == [1, 1, 1]  # at the beginning of each, and nothing of what is seen from the start
    made.observe()
    assert calls == [1, 1, 1, 3]


def test_a_state_brings_the_picture_back() -> None:
    made, again = batch("imagenav"), batch("imagenav")
    made.step(np.array([0, 1, 2]))
    made.retire(2)
    again.set_state(made.get_state())
    for key, value in made.observe().items():
        np.testing.assert_array_equal(again.observe()[key], value, key)
    assert not made.observe()["goal_image"][2].any()


def test_the_goal_is_seen_before_the_first_step_in_a_real_building() -> None:
    env = PointNavEnv("val", task=TaskConfig(kind="imagenav"), scenes=ScenesConfig())
    observation, _ = env.reset()
    assert observation["goal_image"].std() > 1
    following = env.step(np.int64(1))[0]
    np.testing.assert_array_equal(following["goal_image"], observation["goal_image"])
    assert (following["rgb"] != observation["rgb"]).any()


def test_an_unknown_task_is_told_in_a_line() -> None:
    with pytest.raises(EnvsError, match=r"task\.kind: there is no task 'imagenva', did you mean 'imagenav'"):
        make_task(CAMERA, TaskConfig(kind="imagenva"))


def test_who_sees_nothing_gets_no_picture_of_the_goal() -> None:
    assert set(make_task(CAMERA, TaskConfig(kind="imagenav", rgb=False)).observation_space) == {"map"}


@pytest.mark.parametrize("kind", TASKS)
def test_every_sensor_says_what_it_shows(kind: str) -> None:
    """What holds for all of them: the space is that of the readings, idle ones included."""
    made = batch(kind)
    made.retire(0)
    observed = made.observe()
    space = observation_space(CAMERA, TaskConfig(kind=kind))
    assert set(observed) == set(space.spaces)
    for env in range(3):
        assert space.contains({key: value[env] for key, value in observed.items()})
    for sensor in made.task.sensors:
        assert (observed[sensor.key][0] == sensor.blank).all()
