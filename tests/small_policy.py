"""A policy on tiny images, and what it observes."""

import numpy as np
import torch
from gymnasium import spaces

from sideagents_policies import SideTunedPolicy
from tiny_env import tiny_base

SPACE = spaces.Dict(rgb=spaces.Box(0, 255, (3, 32, 32), np.uint8), goal=spaces.Box(-9, 9, (3,), np.float32))


def make_policy(action_space=None, seed=0, **kwargs):
    torch.manual_seed(seed)
    kwargs.setdefault("features_extractor_kwargs", {"base": tiny_base(), "hidden": 32})
    return SideTunedPolicy(SPACE, action_space or spaces.Discrete(3), lambda _: 3e-4, **kwargs)


def observations(n=4, seed=0):
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    return {"rgb": rgb, "goal": rng.random((n, 3), dtype=np.float32)}


def tensors(n=4, seed=0):
    return {key: torch.from_numpy(value) for key, value in observations(n, seed).items()}
