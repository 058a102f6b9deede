"""Where the environments get their episodes from: drawn in training buildings, or taken from a fixed list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.episodes import Episode, EpisodeSampler, place
from sideagents_envs.errors import EpisodeError
from sideagents_envs.simulator import Field, Simulator

Float = NDArray[np.float64]


class Start(NamedTuple):
    """A begun episode: building index, start pose (4,), goal (3,) on the walkable space, distances to the goal."""

    scene: int
    episode: Episode
    pose: Float
    goal: Float
    field: Field


class EpisodeSource(Protocol):
    """Gives each environment its next episode."""

    @property
    def count(self) -> int | None:
        """Length of the fixed list; None when episodes never end."""

    def take(self, env: int, ticket: int) -> Start:
        """Return the next episode of environment `env`; a fixed list gives its entry `ticket`."""

    def resume(self, scene: int, episode: Episode) -> Start:
        """Return a start that was given out before."""

    def reseed(self, seed: int) -> None:
        """Begin anew from another seed."""

    def get_state(self) -> dict[str, list[Any]]:
        """Return what `take` depends on: per key a JSON-able list with one entry per environment."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""


def _start(simulator: Simulator, scene: int, episode: Episode, where: str) -> Start:
    navmesh = simulator.navmesh(scene)
    pose, goal = place(navmesh, episode, where)
    return Start(scene, episode, pose, goal, navmesh.distance_field(goal))


class TrainingEpisodes:
    """Endless episodes; an environment stays in a building for `episodes_per_building` of them.

    Buildings are shuffled by the seed and dealt round-robin to all `total_envs` environments; each environment has a
    random generator of its own, seeded by (seed, its global index): how environments are spread over processes
    changes nothing. With `listed` the episodes are picked at random from a list instead of drawn.
    """

    count = None

    def __init__(
        self,
        simulator: Simulator,
        scene_ids: Sequence[str],
        n_envs: int,
        seed: int,
        *,
        episodes_per_building: int = 10,
        first_env: int = 0,
        total_envs: int | None = None,
        listed: Mapping[int, Sequence[Episode]] | None = None,
    ) -> None:
        self._simulator = simulator
        self._scene_ids = scene_ids
        self._envs = range(first_env, first_env + n_envs)
        self.total_envs = total_envs or n_envs
        self._stay = episodes_per_building
        self._listed = listed
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Begin anew: shuffle the buildings, seed every environment, count episodes from 0."""
        scenes = sorted(self._listed) if self._listed else range(len(self._scene_ids))
        self.order = [int(s) for s in np.random.default_rng([seed, 0]).permutation(scenes)]
        self._rngs = [np.random.default_rng([seed, 1, env]) for env in self._envs]
        self._taken = [0] * len(self._envs)

    def building(self, env: int, taken: int) -> int:
        """Return the building of the local environment `env` after it took `taken` episodes."""
        return self.order[(self._envs[env] + taken // self._stay * self.total_envs) % len(self.order)]

    def take(self, env: int, ticket: int = 0) -> Start:
        """Return the next episode of environment `env`."""
        taken = self._taken[env]
        scene = self.building(env, taken)
        rng = self._rngs[env]
        self._taken[env] += 1
        if self._listed is not None:
            episode = self._listed[scene][int(rng.integers(len(self._listed[scene])))]
            return _start(self._simulator, scene, episode, self._scene_ids[scene])
        sampler = EpisodeSampler(self._simulator.navmesh(scene), self._scene_ids[scene])
        episode, field = sampler.draw(rng, f"{self._envs[env]}-{taken}")
        return Start(scene, episode, episode.start_pose, episode.goal, field)

    def resume(self, scene: int, episode: Episode) -> Start:
        """Return a start that was given out before."""
        if self._listed is not None:
            return _start(self._simulator, scene, episode, self._scene_ids[scene])
        field = self._simulator.navmesh(scene).distance_field(episode.goal)
        return Start(scene, episode, episode.start_pose, episode.goal, field)

    def get_state(self) -> dict[str, list[Any]]:
        """Return generators and counters."""
        return {"rngs": [rng.bit_generator.state for rng in self._rngs], "taken": list(self._taken)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of an equally made source."""
        for rng, saved in zip(self._rngs, state["rngs"], strict=True):
            rng.bit_generator.state = saved
        self._taken = [int(n) for n in state["taken"]]


class EpisodeList:
    """A fixed list of (building index, episode), checked when made: every start and goal must be usable."""

    def __init__(self, simulator: Simulator, entries: Sequence[tuple[int, Episode]], where: str) -> None:
        if not entries:
            raise EpisodeError(f"{where}: holds no episodes")
        for scene, episode in entries:
            place(simulator.navmesh(scene), episode, where)
        self._simulator = simulator
        self._entries = entries
        self._where = where

    @property
    def count(self) -> int | None:
        """Length of the list."""
        return len(self._entries)

    def take(self, env: int, ticket: int) -> Start:
        """Return entry `ticket` of the list, whichever environment asks."""
        return self.resume(*self._entries[ticket])

    def resume(self, scene: int, episode: Episode) -> Start:
        """Return a start that was given out before."""
        return _start(self._simulator, scene, episode, self._where)

    def reseed(self, seed: int) -> None:
        """Do nothing: the list is fixed."""

    def get_state(self) -> dict[str, list[Any]]:
        """Return nothing: the list is fixed."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Do nothing: the list is fixed."""
