"""What a training run says before it starts."""

from __future__ import annotations

from contextlib import closing

import pytest

from sideagents_policies.agent.build import build_agent, build_policy
from sideagents_policies.agent.checks import default_config
from sideagents_policies.train.summary import describe, rollout_bytes
from sideagents_policies.views.environments import build_venv
from sideagents_policies.views.plan import agent_base, observation_space, stacked_keys


def test_the_processes_are_those_that_really_train(homes):
    config = default_config([*homes, "model.use_rgb=false", "workers=2"])
    policy = build_policy(config, None)
    assert describe(policy, {"rollout": 3_000_000}).splitlines()[-1] == "memory: rollout 3 MB"
    several = describe(policy, {"rollout": 3_000_000, "frames": 2_500_000_000}, 4).splitlines()
    assert several[-1] == "memory in each of 4 processes: rollout 3 MB, frames 2.50 GB"
    trained = sum(p.numel() for p in policy.parameters())
    assert several[-2].split() == ["total", f"{trained:,}", "0", f"{trained:,}"]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("coefficient", [0.0, 0.5])
def test_the_rollout_takes_the_memory_that_is_announced(homes, coefficient, stride):
    words = [f"ppo.expert_coef={coefficient}", "model.frames=3", f"model.frame_stride={stride}"]
    config = default_config([*homes, *words])
    base = agent_base(config)
    with closing(build_venv(config, base=base)) as venv:
        buffer = build_agent(config, venv, base).rollout_buffer
    assert ("expert" in buffer.observations) == (coefficient > 0)
    scalars = (
        buffer.actions,
        buffer.rewards,
        buffer.episode_starts,
        buffer.values,
        buffer.log_probs,
        buffer.advantages,
        buffer.returns,
    )
    stored = sum(array.nbytes for array in (*buffer.observations.values(), *scalars))
    assert rollout_bytes(config, observation_space(config, base), stacked_keys(config, base)) == stored
