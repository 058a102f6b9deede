"""What a training run says before it starts."""

from __future__ import annotations

from small_agent import _leave_generators_as_they_were, homes  # noqa: F401

from sideagents_policies.build import build_policy
from sideagents_policies.checks import default_config
from sideagents_policies.summary import describe


def test_the_processes_are_those_that_really_train(homes):  # noqa: F811
    config = default_config([*homes, "model.use_rgb=false", "workers=2"])
    policy = build_policy(config, None)
    assert describe(policy, {"rollout": 3_000_000}).splitlines()[-1] == "memory: rollout 3 MB"
    several = describe(policy, {"rollout": 3_000_000, "frames": 2_500_000_000}, 4).splitlines()
    assert several[-1] == "memory in each of 4 processes: rollout 3 MB, frames 2.50 GB"
    trained = sum(p.numel() for p in policy.parameters())
    assert several[-2].split() == ["total", f"{trained:,}", "0", f"{trained:,}"]
