"""Rewards as an environment must give them: finite. What is not would end in weights that are not."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sideagents.errors import SideAgentsError


def check_rewards(rewards: Any) -> None:
    """Raise `SideAgentsError` where a reward of environments (n_envs,) is nan or infinite: the environment's fault."""
    wrong = np.flatnonzero(~np.isfinite(rewards))
    if len(wrong):
        env = int(wrong[0])
        raise SideAgentsError(
            f"the environment gave a reward of {float(rewards[env])} ({env} of {len(rewards)}): the fault is "
            "the environment's, not the network's; rewards must be finite"
        )


class FiniteRewards(VecEnvWrapper):
    """Environments whose rewards are checked at each step; raises as `check_rewards` does."""

    def reset(self) -> VecEnvObs:
        """Reset all environments."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Return the step's result."""
        result = self.venv.step_wait()
        check_rewards(result[1])
        return result
