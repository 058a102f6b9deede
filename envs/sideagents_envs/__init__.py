"""Gymnasium environments of navigation: scenes, ray-cast renderer, tasks, occupancy map, expert."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

from sideagents_envs.cache import keep_kernels
from sideagents_envs.habitat.importing import quiet_gym, stand_in

if TYPE_CHECKING:
    from sideagents_envs.batch.env import PointNavEnv
    from sideagents_envs.batch.habitat_env import HabitatPointNavEnv
    from sideagents_envs.batch.navigation_batch import NavigationBatch
    from sideagents_envs.batch.vec import PointNavVecEnv, make_vec

__all__ = ["HabitatPointNavEnv", "NavigationBatch", "PointNavEnv", "PointNavVecEnv", "make_vec"]

# Loaded when asked for: `vec` needs stable-baselines3, and with it torch, which nothing else here does.
_LAZY = {
    "HabitatPointNavEnv": "sideagents_envs.batch.habitat_env",
    "NavigationBatch": "sideagents_envs.batch.navigation_batch",
    "PointNavEnv": "sideagents_envs.batch.env",
    "PointNavVecEnv": "sideagents_envs.batch.vec",
    "make_vec": "sideagents_envs.batch.vec",
}

keep_kernels()  # before any of our kernels is made
quiet_gym()  # before stable-baselines3 imports it
stand_in()  # before anyone imports habitat-lab
gymnasium.register(id="PointNav-v0", entry_point="sideagents_envs.batch.env:PointNavEnv")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
