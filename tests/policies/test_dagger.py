"""DAgger's rounds: how long they are, what lies beyond a time limit, seeds of their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from stable_baselines3.common.distributions import CategoricalDistribution

from sideagents_policies.agent.policy import PerEnvNoise
from sideagents_policies.config import AgentConfig
from sideagents_policies.parallel import World
from sideagents_policies.train.dagger import Explorer, dagger_seed, round_steps


def config(**clone: int) -> AgentConfig:
    return AgentConfig.model_validate({"vec": {"n_envs": 2}, "ppo": {"gamma": 0.5}, "clone": clone})


@pytest.mark.parametrize(
    ("frames", "each", "processes", "steps"),
    [
        (128, 64, 1, [32, 32]),
        (100, 64, 1, [32, 18]),  # the last round is cut
        (100, 64, 2, [16, 9]),
        (101, 64, 1, [32, 19]),  # to whole steps of all environments
        (10, 64, 1, [5]),
        (4, 1, 2, [1]),
        (0, 64, 1, []),
    ],
)
def test_rounds_add_up_to_the_frames_asked_for(frames, each, processes, steps):
    assert round_steps(config(dagger_frames=frames, dagger_round_frames=each), processes) == steps


class Steps:
    """Two environments whose observation counts their steps; the first is cut by the time limit at its third."""

    num_envs = 2

    def __init__(self) -> None:
        self.time = np.zeros(2, np.float32)

    @property
    def unwrapped(self) -> Steps:
        return self

    def expert_actions(self) -> np.ndarray:
        return np.zeros(2, np.int64)

    def reset(self) -> dict[str, np.ndarray]:
        return {"x": self.time.copy()[:, None]}

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        self.time += 1
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False}, {}]
        done = np.array([self.time[0] == 3, False])
        if done[0]:
            last = {"x": self.time[:1].copy()}
            infos[0] = {"TimeLimit.truncated": True, "terminal_observation": last, "is_success": False}
            self.time[0] = 0
        return self.reset(), np.ones(2, np.float32), done, infos


class Critic:
    """Values a state at ten times its number."""

    def set_training_mode(self, mode: bool) -> None:
        """Need nothing."""

    def obs_to_tensor(self, observations: dict[str, np.ndarray]) -> tuple[torch.Tensor, bool]:
        return torch.from_numpy(observations["x"]), True

    def evaluate(self, x: torch.Tensor) -> tuple[CategoricalDistribution, torch.Tensor]:
        distribution = CategoricalDistribution(3)
        return distribution.proba_distribution(torch.zeros(len(x), 3)), 10.0 * x[:, 0]


def test_beyond_the_time_limit_lies_the_value_of_the_state_reached():
    explorer = Explorer(config(), cast(Any, Steps()), cast(Any, Critic()), World())
    store = SimpleNamespace(newest=dict, pack=lambda readings: {"x": readings["x"].copy()})
    stop = SimpleNamespace(agreed=lambda device: False)
    found = explorer.collect(4, cast(Any, store), cast(Any, stop))
    assert found is not None
    # environment 0: three rewards of 1, then half of V(3) = 30; its new episode: 1 and half of V(1) = 10
    # environment 1: four rewards of 1, then half of V(4) = 40
    expected = [[1 + (1 + (1 + 15) / 2) / 2, 4.375], [1 + (1 + 15) / 2, 6.75], [16.0, 11.5], [6.0, 21.0]]
    assert found.frames.returns.reshape(4, 2).tolist() == expected
    assert found.frames.packed["x"].reshape(4, 2).tolist() == [[0, 0], [1, 1], [2, 2], [0, 3]]
    assert found.frames.ages.reshape(4, 2).tolist() == [[0, 0], [1, 1], [2, 2], [0, 3]]
    assert found.frames.gap == 2


def test_chance_is_other_than_that_of_ppo():
    settings = config()
    noise = Explorer(settings, cast(Any, Steps()), cast(Any, Critic()), World())._noise
    assert dagger_seed(settings) != settings.seed
    assert (noise.gumbel(3) != PerEnvNoise(settings.seed, range(2)).gumbel(3)).all()
    assert dagger_seed(settings) == dagger_seed(config(dagger_frames=9))
    assert dagger_seed(settings) != dagger_seed(settings.model_copy(update={"seed": 2}))
