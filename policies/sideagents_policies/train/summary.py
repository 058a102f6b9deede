"""What a training run is about to do: which weights learn, and how much memory the buffers take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import nn

from sideagents_envs.task.tasks import observation_space
from sideagents_policies.agent.policy import SideTunedPolicy
from sideagents_policies.agent.rollout import rollout_stacks
from sideagents_policies.config import AgentConfig
from sideagents_policies.views.stack import LABEL, Stacking

_SCALARS_BYTES = 8 + 6 * 4  # action int64; reward, episode start, value, log-probability, advantage, return float32


def rollout_bytes(config: AgentConfig, space: spaces.Dict, stacks: Mapping[str, Stacking]) -> int:
    """Return the bytes of PPO's rollout buffer in one process.

    space: that of what the network reads; stacks: how its keys are stacked.
    """
    steps = config.ppo.n_steps
    once = rollout_stacks(stacks)
    total = 0
    for key, box in space.items():
        size = math.prod(box.shape or ()) * np.dtype(box.dtype).itemsize
        count = once.get(key, 1)
        total += (steps + count - 1) * size // count
    label = np.dtype(LABEL).itemsize if config.ppo.expert_coef > 0.0 else 0
    return config.vec.n_envs * (total + steps * (label + _SCALARS_BYTES))


def reading_bytes(config: AgentConfig) -> int:
    """Return the bytes that one environment's sensors give at a step."""
    spaces_ = observation_space(config.camera, config.task).spaces.values()
    return sum(math.prod(box.shape or ()) * np.dtype(box.dtype).itemsize for box in spaces_)


def weight_table(policy: SideTunedPolicy) -> str:
    """Return trainable, frozen and in-optimiser weights of each part as lines for people."""
    optimised = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
    lines = [f"{'':22}{'trainable':>12}{'frozen':>12}{'in optimiser':>14}"]
    total = (0, 0, 0)
    for name, parameters in _parts(policy):
        counts = _counts(parameters, optimised)
        total = (total[0] + counts[0], total[1] + counts[1], total[2] + counts[2])
        lines.append(_line(name, counts))
    return "\n".join([*lines, _line("total", total)])


def describe(policy: SideTunedPolicy, buffers: dict[str, int], processes: int = 1) -> str:
    """Return the table of weights and a line with the memory of each buffer in each of the training processes."""
    memory = ", ".join(f"{name} {size_text(size)}" for name, size in buffers.items())
    each = f" in each of {processes} processes" if processes > 1 else ""
    return f"{weight_table(policy)}\nmemory{each}: {memory}"


def _parts(policy: SideTunedPolicy) -> Iterable[tuple[str, list[nn.Parameter]]]:
    extractor: Any = policy.features_extractor
    perception = extractor.perception
    parts: dict[str, list[nn.Parameter]] = {}
    if perception is not None:
        for name in ("base", "side", "merge", "alpha"):
            module = getattr(perception, name)
            parts[name] = list(module.parameters()) if module is not None else []
    seen = {id(p) for parameters in parts.values() for p in parameters}
    rest = {id(p): p for p in policy.parameters() if id(p) not in seen}
    heads = {id(p) for head in (policy.action_net, policy.value_net) for p in head.parameters()}
    parts["map, goal and trunk"] = [p for key, p in rest.items() if key not in heads]
    parts["actor and critic"] = [p for key, p in rest.items() if key in heads]
    return parts.items()


def _counts(parameters: list[nn.Parameter], optimised: set[int]) -> tuple[int, int, int]:
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = sum(p.numel() for p in parameters if not p.requires_grad)
    return trainable, frozen, sum(p.numel() for p in parameters if id(p) in optimised)


def _line(name: str, counts: tuple[int, int, int]) -> str:
    return f"{name:22}{counts[0]:>12,}{counts[1]:>12,}{counts[2]:>14,}"


def size_text(count: int) -> str:
    """Return a number of bytes as MB or GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
