"""Baselines: chance belongs to episodes, straight turns towards the goal, sampling follows the logits."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from sideagents.errors import SideAgentsError
from sideagents_envs.config import CameraConfig, TaskConfig
from sideagents_envs.task.tasks import observation_space
from sideagents_policies.evaluate.agents import (
    FORWARD,
    LEFT,
    RIGHT,
    STOP,
    EpisodeChance,
    PolicyAgent,
    RandomAgent,
    StraightAgent,
    baseline,
)


class TwoEnvs:
    num_envs = 2
    observation_space = observation_space(CameraConfig(), TaskConfig())


VENV = cast(Any, TwoEnvs())


def goal(r: float, degrees: float) -> list[float]:
    return [r, np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]


@pytest.mark.parametrize(
    ("degrees", "action"), [(0, FORWARD), (4.9, FORWARD), (-4.9, FORWARD), (6, LEFT), (-6, RIGHT), (179, LEFT)]
)
def test_straight_turns_towards_the_goal(degrees: float, action: int) -> None:
    agent = StraightAgent(VENV, TaskConfig(), 0)
    older = goal(9.0, 90.0)  # a stacked observation: only the newest reading counts
    seen = {"goal": np.array([older + goal(3.0, degrees)] * 2, dtype=np.float32)}
    assert agent.act(seen).tolist() == [action, action]


def test_straight_stops_only_where_that_is_asked() -> None:
    seen = {"goal": np.array([goal(0.1, 0.0)], dtype=np.float32)}
    assert StraightAgent(VENV, TaskConfig(stop="explicit"), 0).act(seen).tolist() == [STOP]
    assert StraightAgent(VENV, TaskConfig(), 0).act(seen).tolist() == [FORWARD]


def test_chance_belongs_to_the_episode() -> None:
    one, other = EpisodeChance(7), EpisodeChance(7)
    one.begin(0, "val/Room.glb", "5")
    drawn = one.gumbel(0, 3).tolist()
    other.begin(3, "val/Room.glb", "5")
    assert other.gumbel(3, 3).tolist() == drawn
    for scene_id, episode_id in (("val/Room.glb", "6"), ("val/Hall.glb", "5"), ("val/Room.glb5", "")):
        other.begin(3, scene_id, episode_id)
        assert other.gumbel(3, 3).tolist() != drawn
    third = EpisodeChance(8)
    third.begin(0, "val/Room.glb", "5")
    assert third.gumbel(0, 3).tolist() != drawn


def test_sampling_follows_the_softmax() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1]], dtype=np.float32))
    agent = PolicyAgent(lambda _: logits, seed=1)
    agent.begin(0, "room", "0")
    counts = np.bincount([int(agent.act({})[0]) for _ in range(4000)], minlength=3) / 4000
    assert np.abs(counts - [0.7, 0.2, 0.1]).max() < 0.03


def test_temperature_sharpens_and_argmax_needs_no_chance() -> None:
    logits = np.log(np.array([[0.6, 0.3, 0.1]], dtype=np.float32))
    cold = PolicyAgent(lambda _: logits, seed=1, temperature=0.25)
    cold.begin(0, "room", "0")
    share = np.mean([int(cold.act({})[0]) == 0 for _ in range(2000)])
    assert share == pytest.approx(0.6**4 / (0.6**4 + 0.3**4 + 0.1**4), abs=0.03)
    greedy = PolicyAgent(lambda _: logits, seed=1, deterministic=True)
    assert greedy.act({}).tolist() == [0]


def test_random_uses_all_actions_of_the_task() -> None:
    for task, n in ((TaskConfig(), 3), (TaskConfig(stop="explicit"), 4)):
        agent = RandomAgent(VENV, task, 0)
        agent.begin(0, "room", "0")
        agent.begin(1, "room", "1")
        drawn = np.stack([agent.act({}) for _ in range(300)])
        assert set(np.unique(drawn)) == set(range(n))


def test_unknown_baseline() -> None:
    with pytest.raises(SideAgentsError, match="did you mean 'expert'"):
        baseline("exprt")


def test_straight_needs_to_know_where_the_goal_is() -> None:
    class Blind(TwoEnvs):
        observation_space = observation_space(CameraConfig(), TaskConfig(kind="imagenav"))

    with pytest.raises(SideAgentsError, match=r"straight: task\.kind=imagenav does not tell where the goal is"):
        StraightAgent(cast(Any, Blind()), TaskConfig(kind="imagenav"), 0)
