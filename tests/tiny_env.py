"""A tiny image environment with episodes, time limits and a saved state, and a small base with every frozen trap."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sideagents.core.base import FrozenBase

SIZE = 32


class TinyEnv(gym.Env):
    """Action 0 brings the goal nearer; it is reached after a few steps, or time runs out after `limit`."""

    def __init__(self, number: int = 0, limit: int = 6, keys: tuple[str, ...] = ("rgb", "map", "goal")) -> None:
        every = {
            "rgb": spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
            "map": spaces.Box(0, 255, (84, 84, 3), np.uint8),
            "goal": spaces.Box(-100.0, 100.0, (3,), np.float32),
        }
        self.observation_space = spaces.Dict({key: every[key] for key in keys})
        self.action_space = spaces.Discrete(3)
        self.limit = limit
        self.rng = np.random.default_rng(number)
        self.steps, self.distance, self.phase = 0, 1.0, 0.0

    def observe(self) -> dict[str, np.ndarray]:
        image = np.full((SIZE, SIZE, 3), int(40 * self.distance) % 256, np.uint8)
        image[:, : SIZE // 2] += self.rng.integers(0, 64, (SIZE, SIZE // 2, 3), dtype=np.uint8)
        cells = np.full((84, 84, 3), 128, np.uint8)
        cells[42, min(83, int(42 + 10 * self.distance)), 0] = 255
        goal = np.array([self.distance, np.cos(self.phase), np.sin(self.phase)], np.float32)
        every = {"rgb": image, "map": cells, "goal": goal}
        return {key: every[key] for key in self.observation_space.spaces}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        self.steps, self.distance = 0, float(self.rng.uniform(0.5, 2.0))
        self.phase = float(self.rng.uniform(-np.pi, np.pi))
        return self.observe(), {}

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        before = self.distance
        self.distance -= 0.3 if action == 0 else -0.1
        done = self.distance <= 0.0
        return self.observe(), before - self.distance + 2.0 * done, done, not done and self.steps >= self.limit, {}


class PlainImageEnv(TinyEnv):
    """The image alone, channels first or last."""

    def __init__(self, number: int = 0, first: bool = False) -> None:
        super().__init__(number)
        self.first = first
        shape = (3, SIZE, SIZE) if first else (SIZE, SIZE, 3)
        self.inner = self.observation_space
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)

    def observe(self) -> Any:
        space, self.observation_space = self.observation_space, self.inner
        image = super().observe()["rgb"]
        self.observation_space = space
        return image.transpose(2, 0, 1) if self.first else image


class TinyVec(DummyVecEnv):
    """Environments `first .. first + n - 1`, whose state can be saved."""

    def __init__(self, n: int, first: int = 0, limit: int = 6, keys: tuple[str, ...] = ("rgb", "map", "goal")) -> None:
        super().__init__([lambda i=i: TinyEnv(first + i, limit, keys) for i in range(n)])

    def expert_actions(self) -> np.ndarray:
        return np.array([env.steps % 3 for env in self.envs])

    def get_state(self) -> dict[str, Any]:
        return {
            "envs": [
                {"rng": e.rng.bit_generator.state, "steps": e.steps, "distance": e.distance, "phase": e.phase}
                for e in self.envs
            ]
        }

    def set_state(self, state: dict[str, Any]) -> None:
        for env, saved in zip(self.envs, state["envs"], strict=True):
            env.rng.bit_generator.state = saved["rng"]
            env.steps, env.distance, env.phase = saved["steps"], saved["distance"], saved["phase"]


class TrapEncoder(nn.Module):
    """BatchNorm and dropout: what SB3 would change in a base that is merely said to be frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 4, 1)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        code: torch.Tensor = self.body(images)
        return code


def tiny_base(seed: int = 3) -> FrozenBase:
    """(3, 32, 32) -> (4, 8, 8)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = TrapEncoder()
        encoder.body[1].running_mean.uniform_(-1, 1)
    return FrozenBase(encoder, "tiny", (SIZE, SIZE))
