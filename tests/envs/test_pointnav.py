"""The rules of the task, worked by hand in an empty room."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sideagents_envs.config import TaskConfig
from sideagents_envs.episodes.sources import TrainingEpisodes
from sideagents_envs.errors import EnvsError, EpisodeError
from sideagents_envs.sensors.spaces import FORWARD, LEFT, RIGHT, STOP
from square_room import SquareRoom, SquareSimulator, StraightField, batch_of, play, room


def test_automatic_stop_spends_one_step():
    batch = room((0, 0), (0, -0.9))
    steps = play(batch, [FORWARD, FORWARD, FORWARD])
    assert [s.rewards[0] for s in steps] == pytest.approx([0.24] * 3)
    assert not any(s.terminated[0] for s in steps)
    # 0.15 m to go: whatever is chosen now is a stop
    (last,) = play(batch, [LEFT])
    assert last.rewards[0] == pytest.approx(9.99)
    assert last.terminated[0]
    assert not last.truncated[0]
    info = last.infos[0]
    assert info["is_success"] is True
    assert info["steps"] == 4
    assert info["distance_to_goal"] == pytest.approx(0.15)
    assert info["episode_return"] == pytest.approx(10 + (0.9 - 0.15) - 0.01 * 4)
    assert info["spl"] == 1.0  # walked 0.75 m, less than the 0.9 m to the goal
    assert batch.poses[0, 3] == 0.0  # the turn was not made
    assert not batch.active[0]


def test_reaching_the_goal_on_the_last_step_is_too_late():
    batch = room((0, 0), (0, -0.4), max_steps=1)
    (step,) = play(batch, [FORWARD])
    assert not step.terminated[0]
    assert step.truncated[0]
    assert step.infos[0]["is_success"] is False
    batch = room((0, 0), (0, -0.4), max_steps=2)
    step = play(batch, [FORWARD, FORWARD])[-1]
    assert step.terminated[0]
    assert not step.truncated[0]


def test_explicit_stop_near_and_far():
    far = play(room((0, 0), (0, -0.9), stop="explicit"), [STOP])[0]
    assert far.terminated[0]
    assert far.rewards[0] == pytest.approx(-0.01)
    assert far.infos[0]["is_success"] is False
    assert far.infos[0]["spl"] == 0.0
    near = play(room((0, 0), (0, -0.9), stop="explicit"), [FORWARD] * 3 + [LEFT, STOP])
    assert [s.terminated[0] for s in near] == [False] * 4 + [True]
    assert near[-1].rewards[0] == pytest.approx(9.99)
    assert near[-1].infos[0]["is_success"] is True


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stop", ["auto", "explicit"])
def test_return_has_its_closed_form(seed, stop):
    rng = np.random.default_rng(seed)
    simulator = SquareSimulator()
    task = TaskConfig(stop=stop, max_steps=60, success_reward=7.0, distance_reward=2.0, slack_reward=-0.03)
    batch = batch_of(simulator, TrainingEpisodes(simulator, ["room"], 1, seed), 1, task)
    batch.begin(0)
    rewards, info = [], {}
    while batch.active[0]:
        result = batch.step(rng.integers(0, 4 if stop == "explicit" and rng.random() < 0.05 else 3, 1))
        rewards.append(result.rewards[0])
        info = result.infos[0]
    expected = 7.0 * info["is_success"] + 2.0 * (info["start_geodesic"] - info["distance_to_goal"])
    assert sum(rewards) == pytest.approx(expected - 0.03 * len(rewards))
    assert info["episode_return"] == pytest.approx(sum(rewards))
    assert info["steps"] == len(rewards)


def test_measures_of_a_detour():
    # left about, 1 m; right about, back 1 m; then 1 m ahead to the goal: 3 m walked for 1 m
    batch = room((0, 0), (0, -1), turn_deg=90.0)
    steps = play(batch, [LEFT, *[FORWARD] * 4, LEFT, LEFT, *[FORWARD] * 4, LEFT, *[FORWARD] * 4, FORWARD])
    info = steps[-1].infos[0]
    assert info["is_success"] is True
    assert info["spl"] == pytest.approx(1 / 3)
    assert info["soft_spl"] == pytest.approx(1 / 3)
    assert info["collisions"] == 0


def test_soft_spl_of_a_failure():
    batch = room((0, 0), (0, -1), max_steps=2)
    info = play(batch, [FORWARD, FORWARD])[-1].infos[0]
    assert info["spl"] == 0.0
    assert info["soft_spl"] == pytest.approx(0.5)  # half the way done, 0.5 m walked: less than the distance


def test_walls_are_slid_along_and_counted():
    yaw = math.radians(-60)  # to the right and a little ahead
    batch = room((4.9, 0), (-4, 0), yaw, collision_penalty=0.5)
    (step,) = play(batch, [FORWARD])
    np.testing.assert_allclose(batch.poses[0, :3], [5.0, 0.0, -0.125])
    gained = 8.9 - math.hypot(9.0, 0.125)
    assert step.rewards[0] == pytest.approx(gained - 0.01 - 0.5)
    assert batch.summary(0)["collisions"] == 1
    stuck = room((4.9, 0), (-4, 0), yaw, allow_sliding=False)
    play(stuck, [FORWARD])
    np.testing.assert_allclose(stuck.poses[0, :3], [4.9, 0.0, 0.0])


def test_turns_are_ten_degrees_and_wrap():
    batch = room((0, 0), (0, -4))
    play(batch, [LEFT] * 19)
    assert batch.poses[0, 3] == pytest.approx(math.radians(-170))
    play(batch, [RIGHT] * 19)
    assert batch.poses[0, 3] == pytest.approx(0.0, abs=1e-12)


def test_goal_reading_and_track():
    batch = room((0, 0), (-2, 0))
    np.testing.assert_allclose(batch.observe()["goal"], [[2, 0, 1]], atol=1e-6)  # to the left
    play(batch, [FORWARD, LEFT, FORWARD])
    assert batch.tracks()[0].shape == (3, 2)
    np.testing.assert_allclose(batch.tracks()[0][:2], [[0, 0], [0, -0.25]])


def test_depth_on_request_and_one_render_call():
    batch = room((0, 0), (0, -4), n=3, depth=True)
    observation = batch.observe()
    assert observation["depth"].shape == (3, 36, 36, 1)
    assert observation["depth"].dtype == np.float32
    assert batch.bodies.simulator.calls == [3]
    assert batch.observation_space.contains({key: value[0] for key, value in observation.items()})


def test_blind_agents_cost_no_rendering_but_can_be_watched():
    batch = room((0, 0), (0, -4), n=2, rgb=False)
    assert set(batch.observe()) == {"goal", "map"}
    assert batch.bodies.simulator.calls == []
    views = batch.views()
    assert views.shape == (2, 36, 36, 3)
    np.testing.assert_array_equal(views, room((0, 0), (0, -4), n=2).observe()["rgb"])


def test_idle_environments_do_nothing():
    batch = room((0, 0), (0, -4), n=2)
    batch.retire(1)
    before = batch.poses[1].copy()
    result = batch.step(np.array([FORWARD, FORWARD]))
    np.testing.assert_array_equal(batch.poses[1], before)
    assert result.rewards[1] == 0.0
    assert not result.terminated[1]
    observation = batch.observe()
    assert not observation["rgb"][1].any()
    assert (observation["map"][1] == 128).all()
    assert batch.bodies.simulator.calls == [1]


@pytest.mark.parametrize("actions", [[3], [-1], [0, 1], [0.5]])
def test_wrong_actions_are_refused(actions):
    with pytest.raises(EnvsError, match="integers from 0 to 2"):
        room((0, 0), (0, -4)).step(np.array(actions))


def test_start_on_the_goal_has_finite_measures():
    info = play(room((1, 1), (1, 1)), [FORWARD])[0].infos[0]
    assert info["is_success"] is True
    assert info["spl"] == 1.0


class Ledge(SquareRoom):
    """The goal cannot be reached from where z < -1: a ledge that one can fall from but not climb."""

    def distance_field(self, goal):
        class Field(StraightField):
            def value(self, point):
                return math.inf if point[2] < -1.0 else super().value(point)

        return Field(goal)


def test_a_place_without_a_way_to_the_goal_ends_the_episode_by_truncation(monkeypatch):
    monkeypatch.setattr(SquareSimulator, "navmesh", lambda self, scene: Ledge())
    batch = room((0, -0.5), (0, 3), max_steps=6)
    results = play(batch, [FORWARD] * 6)
    rewards = [result.rewards[0] for result in results]
    np.testing.assert_allclose(rewards, [-0.26, -0.26, -0.01, -0.01, -0.01, -0.01])  # from z = -1.25 on nothing changes
    assert [bool(result.truncated[0]) for result in results] == [False] * 5 + [True]
    info = results[-1].infos[0]
    assert (info["is_success"], info["distance_to_goal"]) == (False, 4.0)
    with pytest.raises(EpisodeError, match="episode 'e': the goal cannot be reached from"):
        room((0, -1.5), (0, 3))
