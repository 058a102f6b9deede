"""A module for `--import`: in the processes DIVERGE_RANKS a part of the network is no longer finite at DIVERGE_AT.

DIVERGE_AT: frames for PPO, steps for cloning. DIVERGE_PART: `head`, whose loss is not finite in any of the processes
that train together then, or `features`, which the process itself notices before its peers do. Each process leaves its
number in DIVERGE_PIDS.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sideagents_policies.agent.ppo import SideTunedPPO
from sideagents_policies.train.cloner import Cloner

RANK = os.environ.get("RANK", "0")


def spoil(policy: Any, done: int) -> None:
    """Put nan into a part of the policy when it is time."""
    if done == int(os.environ["DIVERGE_AT"]) and RANK in os.environ["DIVERGE_RANKS"].split(","):
        part: nn.Module = policy.value_net if os.environ["DIVERGE_PART"] == "head" else policy.features_extractor
        with torch.no_grad():
            for weight in part.parameters():
                weight.fill_(float("nan"))


_train, _step = SideTunedPPO.train, Cloner._step


def _spoiled_train(self: Any) -> None:
    spoil(self.policy, self.num_timesteps)
    _train(self)


def _spoiled_step(self: Any, *args: Any) -> Any:
    spoil(self.policy, self.place.steps)
    return _step(self, *args)


SideTunedPPO.train, Cloner._step = _spoiled_train, _spoiled_step  # type: ignore[method-assign]
Path(os.environ["DIVERGE_PIDS"], f"pid{RANK}_{os.getpid()}").write_text(str(os.getpid()))
