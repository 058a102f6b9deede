"""Agents that act on batches of observations: a trained policy and the baselines it is measured against."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from sideagents.errors import SideAgentsError
from sideagents.registry import Registry
from sideagents_envs.config import TaskConfig

Observations = Mapping[str, NDArray[Any]]
FORWARD, LEFT, RIGHT, STOP = 0, 1, 2, 3


class Agent(Protocol):
    """Chooses one action for each environment; told when an episode begins, so that chance belongs to the episode."""

    def begin(self, env: int, scene_id: str, episode_id: str) -> None:
        """An episode, known by its building and its name there, starts in environment `env`."""

    def act(self, observations: Observations) -> NDArray[np.int64]:
        """Return one action for each environment, shape (n_envs,)."""


class EpisodeChance:
    """One random stream for each episode, by its names.

    Results then depend neither on how many environments run at once nor on what else is played, and in which order.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._streams: dict[int, np.random.Generator] = {}

    def begin(self, env: int, scene_id: str, episode_id: str) -> None:
        """Give environment `env` the stream of an episode."""
        name = json.dumps([scene_id, episode_id]).encode()
        self._streams[env] = np.random.default_rng((self._seed, int.from_bytes(hashlib.sha256(name).digest())))

    def gumbel(self, env: int, n: int) -> NDArray[np.float64]:
        """Draw `n` standard Gumbel values; adding them to logits and taking the largest samples the softmax."""
        return self._streams[env].gumbel(size=n)


class PolicyAgent:
    """A trained policy; actions are sampled at a temperature, or the most likely ones when `deterministic`.

    `logits` maps a batch of observations to action scores, shape (n_envs, n_actions).
    """

    def __init__(
        self,
        logits: Callable[[Observations], NDArray[np.float32]],
        seed: int,
        deterministic: bool = False,
        temperature: float = 1.0,
    ) -> None:
        self._logits = logits
        self._chance = EpisodeChance(seed)
        self._deterministic = deterministic
        self._temperature = temperature

    def begin(self, env: int, scene_id: str, episode_id: str) -> None:
        """Start the random stream of the episode."""
        self._chance.begin(env, scene_id, episode_id)

    def act(self, observations: Observations) -> NDArray[np.int64]:
        """Return the sampled or the most likely actions."""
        scores = self._logits(observations) / self._temperature
        if not self._deterministic:
            scores = scores + np.stack([self._chance.gumbel(env, scores.shape[1]) for env in range(len(scores))])
        return np.asarray(scores.argmax(axis=1), dtype=np.int64)


class RandomAgent:
    """Every action equally likely."""

    def __init__(self, venv: VecEnv, task: TaskConfig, seed: int) -> None:
        self._n_actions = 3 if task.stop == "auto" else 4
        self._n_envs = venv.num_envs
        self._chance = EpisodeChance(seed)

    def begin(self, env: int, scene_id: str, episode_id: str) -> None:
        """Start the random stream of the episode."""
        self._chance.begin(env, scene_id, episode_id)

    def act(self, observations: Observations) -> NDArray[np.int64]:
        """Return uniform actions."""
        return np.array(
            [int(self._chance.gumbel(env, self._n_actions).argmax()) for env in range(self._n_envs)], dtype=np.int64
        )


class ForwardAgent:
    """Always forward."""

    def __init__(self, venv: VecEnv, task: TaskConfig, seed: int) -> None:
        self._n_envs = venv.num_envs

    def begin(self, env: int, scene_id: str, episode_id: str) -> None:
        """Do nothing: it acts alike in all episodes."""

    def act(self, observations: Observations) -> NDArray[np.int64]:
        """Return forward for all."""
        return np.full(self._n_envs, FORWARD, dtype=np.int64)


class StraightAgent:
    """Turns towards the goal and walks straight at it, whatever stands between."""

    def __init__(self, venv: VecEnv, task: TaskConfig, seed: int) -> None:
        space = venv.observation_space
        if not isinstance(space, spaces.Dict) or "goal" not in space.spaces:
            raise SideAgentsError(f"straight: task.kind={task.kind} does not tell where the goal is")
        self._task = task

    def begin(self, env: int, scene_id: str, episode_id: str) -> None:
        """Do nothing: it acts alike in all episodes."""

    def act(self, observations: Observations) -> NDArray[np.int64]:
        """Turn while the goal is further aside than half a turn, else walk; stop at the goal where that is asked."""
        goal = observations["goal"][:, -3:]  # the newest reading comes last
        angle = np.arctan2(goal[:, 2], goal[:, 1])
        half_turn = np.radians(self._task.turn_deg) / 2
        actions = np.where(angle > half_turn, LEFT, np.where(angle < -half_turn, RIGHT, FORWARD))
        if self._task.stop == "explicit":
            actions = np.where(goal[:, 0] < self._task.success_distance_m, STOP, actions)
        return actions.astype(np.int64)


class ExpertAgent:
    """The shortest-path follower, which knows the building."""

    def __init__(self, venv: VecEnv, task: TaskConfig, seed: int) -> None:
        self._venv = venv

    def begin(self, env: int, scene_id: str, episode_id: str) -> None:
        """Do nothing: it acts alike in all episodes."""

    def act(self, observations: Observations) -> NDArray[np.int64]:
        """Ask the simulator."""
        simulator: Any = self._venv.unwrapped
        return np.asarray(simulator.expert_actions(), dtype=np.int64)


BASELINES: Registry[Callable[[VecEnv, TaskConfig, int], Agent]] = Registry("agent")
BASELINES.register("random", RandomAgent)
BASELINES.register("forward", ForwardAgent)
BASELINES.register("straight", StraightAgent)
BASELINES.register("expert", ExpertAgent)


def baseline(name: str) -> Callable[[VecEnv, TaskConfig, int], Agent]:
    """Return what makes the baseline of that name of environments, task and seed; raises `SideAgentsError`."""
    try:
        return BASELINES.get(name)
    except SideAgentsError as error:
        raise SideAgentsError(f"--agent: {error}") from None
