"""Many PointNav environments as one stable-baselines3 `VecEnv`, in this process or spread over worker processes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from sideagents_envs.batch.build import BatchSpec, make_batch
from sideagents_envs.batch.navigation_batch import StepResult
from sideagents_envs.batch.shards import LocalShard, ProcessShard, Shard, split_spec, start_workers
from sideagents_envs.config import CameraConfig, HabitatConfig, HabitatSimulator, ScenesConfig, TaskConfig
from sideagents_envs.episodes.files import Episode
from sideagents_envs.episodes.sources import Name
from sideagents_envs.errors import EnvsError, nearest
from sideagents_envs.sensors.spaces import Observation, checked_actions
from sideagents_envs.task.navigation import Navigation
from sideagents_envs.task.tasks import task_class

_PER_ENV = ("poses", "tracks", "expert_actions")
_OURS = ("tickets", "next_episode", "next_seed")  # keys of a state that are not the batches'


def make_vec(
    n_envs: int = 8,
    *,
    split: str = "train",
    kind: Literal["dummy", "subproc"] = "dummy",
    seed: int = 0,
    camera: CameraConfig | None = None,
    task: TaskConfig | None = None,
    scenes: ScenesConfig | None = None,
    episodes_file: str | Path | None = None,
    first_env: int = 0,
    total_envs: int | None = None,
    workers: int = 2,
    habitat: HabitatConfig | None = None,
    habitat_simulator: HabitatSimulator = "auto",
) -> PointNavVecEnv:
    """Make `n_envs` environments that step together.

    `split` names the buildings; `train` draws episodes without end, held-out splits and an `episodes_file` are fixed
    lists (each episode once, then the environment idles). `kind` is `dummy` (all in this process) or `subproc`
    (`workers` processes): both give equal results. `first_env` and `total_envs` place these environments among those
    of several training processes. Settings that are None have their defaults. With `habitat` habitat-lab plays the
    episodes; habitat-sim wants a process for each environment: `kind="subproc", workers=n_envs`.

    Raises:
        SceneError, EpisodeError: buildings or episodes are missing or unusable.
        EnvsError: a number or name is out of range.
    """
    if kind not in ("dummy", "subproc"):
        raise EnvsError(f"kind must be 'dummy' or 'subproc', got {kind!r}{nearest(str(kind), ('dummy', 'subproc'))}")
    total = n_envs if total_envs is None else total_envs
    if n_envs < 1 or workers < 1 or not 0 <= first_env <= total - n_envs:
        raise EnvsError(
            f"n_envs and workers must be at least 1 and first_env + n_envs at most total_envs, got n_envs={n_envs}, "
            f"workers={workers}, first_env={first_env}, total_envs={total}"
        )
    spec = BatchSpec(
        n_envs,
        split,
        seed,
        camera,
        task,
        scenes,
        episodes_file,
        first_env,
        total,
        habitat,
        habitat_simulator,
        task_class((task or TaskConfig()).kind),
    )
    shards: Sequence[Shard]
    shards = start_workers(split_spec(spec, workers)) if kind == "subproc" else [LocalShard(make_batch(spec))]
    return PointNavVecEnv(shards, spec.make_task())


class PointNavVecEnv(VecEnv):
    """PointNav environments behind stable-baselines3's interface.

    Finished episodes are followed by the next one at once; `info` then holds the measures of the finished one,
    `terminal_observation`, `TimeLimit.truncated` and `episode` as SB3's Monitor writes it. When a fixed list is used
    up an environment idles: no reward, never done, `info["idle"]`, and False in `active`; `reset` starts the list
    anew. `entries`, when set, are the places in the list to play from the next `reset` on, in that order. `tickets`
    (N,) are the places in a fixed list of the present episodes, else their numbers in the order of their beginning from
    0; -1 while idle. `seed` takes effect at the next `reset` and is mixed with each environment's global index, so give
    all training processes the same one.
    """

    render_mode = "rgb_array"

    def __init__(self, shards: Sequence[Shard], task: Navigation) -> None:
        self._shards = list(shards)
        self.episode_names: list[Name] | None = self._ask("names")[0]
        self._bounds = np.cumsum([0] + [shard.n_envs for shard in self._shards])
        self.task = task
        super().__init__(int(self._bounds[-1]), self.task.observation_space, self.task.action_space)
        self.tickets = np.full(self.num_envs, -1)
        self.entries: Sequence[int] | None = None
        self._next_episode = 0
        self._reseed: int | None = None
        self._born = time.monotonic()

    def _ask(self, command: str, payloads: Sequence[Any] | None = None) -> list[Any]:
        for i, shard in enumerate(self._shards):
            shard.send(command, None if payloads is None else payloads[i])
        return _receive(self._shards)

    @property
    def episode_count(self) -> int | None:
        """Length of the fixed list; None when episodes never end."""
        return None if self.episode_names is None else len(self.episode_names)

    @property
    def active(self) -> NDArray[np.bool_]:
        """Which environments (N,) have an episode."""
        return np.asarray(self.tickets >= 0)

    def _shares(self, values: Any) -> list[Any]:
        return [values[a:b] for a, b in zip(self._bounds[:-1], self._bounds[1:], strict=True)]

    def reset(self) -> Observation:
        """Begin an episode everywhere; of a fixed list its `entries` are begun in their order, by default all."""
        if self._reseed is not None:
            self._ask("reseed", [self._reseed] * len(self._shards))
            self._reseed = None
        self._next_episode = 0
        return self._begin(np.arange(self.num_envs))

    def _begin(self, envs: NDArray[np.int64]) -> Observation:
        """Give the environments their next episodes, in order, and return their observations (K, ...)."""
        plan: list[list[tuple[int, int | None]]] = [[] for _ in self._shards]
        for env in envs:
            ticket = self._next_ticket()
            self.tickets[env] = -1 if ticket is None else ticket
            number = int(np.searchsorted(self._bounds, env, side="right")) - 1
            plan[number].append((int(env - self._bounds[number]), ticket))
        used = [(shard, tickets) for shard, tickets in zip(self._shards, plan, strict=True) if tickets]
        for shard, tickets in used:
            shard.send("begin", tickets)
        return _joined(_receive([shard for shard, _ in used]))

    def _next_ticket(self) -> int | None:
        """Return the number of the episode to begin next, None when a fixed list is used up."""
        place = self._next_episode
        if self.episode_count is not None:
            entries = range(self.episode_count) if self.entries is None else self.entries
            if place >= len(entries):
                return None
            place = entries[place]
        self._next_episode += 1
        return place

    def step_async(self, actions: NDArray[Any]) -> None:
        """Start a step; with workers it runs beside the caller.

        Raises:
            EnvsError: an action is not one of the action space; no environment has moved then.
        """
        actions = checked_actions(actions, self.num_envs, self.task.action_space)
        for shard, share in zip(self._shards, self._shares(actions), strict=True):
            shard.send("step", share)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step and begin new episodes where one ended."""
        replies = _receive(self._shards)
        observations = _joined([content for content, _ in replies])
        results: list[StepResult] = [result for _, result in replies]
        rewards = np.concatenate([result.rewards for result in results]).astype(np.float32)
        truncated = np.concatenate([result.truncated for result in results])
        dones = np.concatenate([result.terminated for result in results]) | truncated
        infos = [info for result in results for info in result.infos]
        for env in np.flatnonzero(~self.active):
            infos[env]["idle"] = True
        ended = np.flatnonzero(dones)
        if ended.size:
            for env in ended:
                info = infos[env]
                seconds = round(time.monotonic() - self._born, 6)
                info["episode"] = {"r": info["episode_return"], "l": info["steps"], "t": seconds}
                info["TimeLimit.truncated"] = bool(truncated[env])
                info["terminal_observation"] = {key: value[env].copy() for key, value in observations.items()}
            for key, value in self._begin(ended).items():
                observations[key][ended] = value
        return observations, rewards, dones, infos

    def observe(self) -> Observation:
        """Return the present observations (N, ...); after `set_state` they are those of the state."""
        return _joined([content for content, _ in self._ask("observe")])

    def poses(self) -> NDArray[np.float64]:
        """Return the poses (N, 4): x, y, z in metres, yaw in radians."""
        return np.concatenate(self._ask("poses"))

    def tracks(self) -> list[NDArray[np.float64]]:
        """Return per environment the places (T, 2) x, z where it has been in this episode."""
        return [track for tracks in self._ask("tracks") for track in tracks]

    def present(self) -> list[tuple[Path, Episode] | None]:
        """Return per environment the building's file and the episode that it plays; None while it idles."""
        return [present for replies in self._ask("present") for present in replies]

    def expert_actions(self) -> NDArray[np.int64]:
        """Return the shortest-path follower's actions (N,); 0 where an environment idles."""
        return np.concatenate(self._ask("expert_actions"))

    def get_state(self) -> dict[str, Any]:
        """Return all that the future depends on: arrays (N, ...), JSON-able lists of N, and the place in the list.

        It does not depend on how the environments are spread over processes.
        """
        states = self._ask("get_state")
        merged: dict[str, Any] = {}
        for key, first in states[0].items():
            parts = [state[key] for state in states]
            merged[key] = np.concatenate(parts) if isinstance(first, np.ndarray) else [*chain.from_iterable(parts)]
        own = {"tickets": self.tickets.copy(), "next_episode": self._next_episode, "next_seed": self._reseed}
        return merged | own

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state: what follows is bit-equal to what would have followed `get_state`.

        Raises:
            EnvsError: the state is of other environments.
        """
        for key in ("episodes", *_OURS):
            if key not in state:
                raise EnvsError(f"environment state: {key!r} is missing")
        if len(state["episodes"]) != self.num_envs:
            raise EnvsError(f"environment state: of {len(state['episodes'])} environments, these are {self.num_envs}")
        per_env = {key: self._shares(value) for key, value in state.items() if key not in _OURS}
        self._ask("set_state", [{key: parts[i] for key, parts in per_env.items()} for i in range(len(self._shards))])
        self._next_episode = int(state["next_episode"])
        self.tickets[:] = state["tickets"]
        self._reseed = state["next_seed"]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the episodes of the next `reset`."""
        if seed is not None:
            self._reseed = int(seed)
        return [self._reseed] * self.num_envs

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the workers."""
        return [shard.pid for shard in self._shards if isinstance(shard, ProcessShard)]

    def close(self) -> None:
        """End the workers."""
        for shard in self._shards:
            shard.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return the agents' views (H, W, 3)."""
        return [view for views in self._ask("views") for view in views]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return one of our attributes once per environment: the environments have none of their own."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: the environments have no attributes of their own."""
        raise AttributeError(f"cannot set {attr_name!r}: the environments have no attributes of their own")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Return per environment what `poses`, `tracks` or `expert_actions` says of it."""
        if method_name not in _PER_ENV:
            raise AttributeError(f"unknown method {method_name!r}: there are {', '.join(_PER_ENV)}")
        values = getattr(self, method_name)(*method_args, **method_kwargs)
        return [values[env] for env in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Say yes to SB3's Monitor, whose record `info["episode"]` is kept here."""
        return [issubclass(wrapper_class, Monitor) for _ in self._get_indices(indices)]


def _receive(shards: Sequence[Shard]) -> list[Any]:
    """Collect every shard's reply, also after one failed, so that all stay in step; then raise the first error."""
    replies: list[Any] = []
    failure: EnvsError | None = None
    for shard in shards:
        try:
            replies.append(shard.receive())
        except EnvsError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return replies


def _joined(parts: Sequence[Observation]) -> Observation:
    if len(parts) == 1:
        return parts[0]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
