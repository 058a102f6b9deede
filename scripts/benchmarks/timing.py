"""What is timed: whole updates of an agent, and the parts of an update alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sideagents.core.base import FrozenBase
from sideagents_policies.agent.build import build_agent
from sideagents_policies.config import AgentConfig
from sideagents_policies.parallel import ALONE, World
from sideagents_policies.views.stack import layers

Seconds = NDArray[np.float64]  # (2,): of the wall clock, of the processor
PARTS = ("environment", "base", "act", "learn")
_STRAY = 0.3  # of the expert's actions, so that episodes take different times


def timed(run: Callable[[], object], times: int = 1) -> Seconds:
    """Return the seconds that `times` runs take together."""
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(times):
        run()
    return np.array([time.perf_counter() - wall, time.process_time() - processor])


def scatter(bare: VecEnv, steps: int) -> None:
    """Let the expert walk, sometimes astray, until the environments are at different places in their episodes."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        actions: NDArray[np.int64] = bare.expert_actions()  # type: ignore[attr-defined]
        stray = rng.random(bare.num_envs) < _STRAY
        actions[stray] = rng.integers(0, 3, int(stray.sum()))
        bare.step(actions)


class Trainer:
    """A PPO agent that is timed update by update; `frames` are those of one update in this process."""

    def __init__(self, config: AgentConfig, venv: VecEnv, base: FrozenBase, world: World = ALONE) -> None:
        self.agent = build_agent(config, venv, base, world)
        env = self.agent.get_env()
        assert env is not None
        self.venv = env  # SB3 has put a wrapper around it that moves the channels of images first
        self.frames = venv.num_envs * config.ppo.n_steps
        self._scatter_steps = config.task.max_steps

    def warm_up(self) -> None:
        """Run everything once, and leave the environments in the middle of their episodes."""
        epochs, self.agent.n_epochs = self.agent.n_epochs, 1
        self.agent.learn(self.frames)
        self.agent.n_epochs = epochs
        bare = list(layers(self.venv))[-1]
        scatter(bare, self._scatter_steps)
        # where the next rollout begins; SB3 would reset all environments to the start of an episode
        self.agent._last_obs = self.venv.step(np.zeros(bare.num_envs, dtype=np.int64))[0]  # type: ignore[assignment]

    def update(self) -> None:
        """Collect a rollout and learn from it."""
        self.agent.learn(self.frames, reset_num_timesteps=False)

    def close(self) -> None:
        """End the environments."""
        self.venv.close()


class Parts:
    """The parts of an update alone: bare environments, and the agent's base and networks on one of its mini-batches.

    Use it on an agent that is not trained any more: the learning that is timed leads nowhere.
    """

    def __init__(self, config: AgentConfig, trainer: Trainer, base: FrozenBase, bare: VecEnv) -> None:
        self._config, self._base, self._bare = config, base, bare
        self._policy = trainer.agent.policy
        batch = next(trainer.agent.rollout_buffer.get(config.ppo.batch_size))
        self._batch: dict[str, Tensor] = dict(batch.observations)
        self._few = {key: part[: config.vec.n_envs] for key, part in self._batch.items()}
        self._rng = np.random.default_rng(0)
        bare.reset()
        scatter(bare, config.task.max_steps)
        self.measure()

    def measure(self) -> dict[str, Seconds]:
        """Return the seconds that each part takes of an update for one frame."""
        ppo, n_envs = self._config.ppo, self._config.vec.n_envs
        few = max(4, ppo.n_steps // 2)
        return {
            "environment": timed(self._step, ppo.n_steps) / ppo.n_steps / n_envs,
            "base": timed(lambda: self._base(self._few["rgb"]), few) / few / n_envs,
            "act": timed(self._act, few) / few / n_envs,
            "learn": timed(self._learn, 8) / 8 / ppo.batch_size * ppo.n_epochs,
        }

    def _step(self) -> None:
        self._bare.step(self._rng.integers(0, 3, self._bare.num_envs))

    @torch.no_grad()
    def _act(self) -> None:
        self._policy(self._few)

    def _learn(self) -> None:
        features = self._policy.extract_features(self._batch)
        loss = self._policy.action_net(features).square().mean() + self._policy.value_net(features).square().mean()
        self._policy.optimizer.zero_grad()
        loss.backward()
        self._policy.optimizer.step()
