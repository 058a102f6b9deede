"""Where the environments get their episodes from: drawn in training buildings, or taken from a fixed list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.episodes.files import Episode, EpisodeSampler, place
from sideagents_envs.episodes.listed import EpisodeFile, building_name
from sideagents_envs.errors import EnvsError, EpisodeError
from sideagents_envs.simulators.embedded import Field, Simulator

Float = NDArray[np.float64]
Name = tuple[str, str]  # scene_id, episode_id: what an episode is known by, wherever it stands in a list

_PICKS = 20  # unusable episodes of a training list that are passed over in a row


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
    def names(self) -> list[Name] | None:
        """The episodes of the fixed list, in order; None when episodes never end."""

    def take(self, env: int, ticket: int) -> Start:
        """Return the next episode of environment `env`; a fixed list gives its entry `ticket`."""

    def resume(self, episode: Episode) -> Start:
        """Return a start that was given out before; raises EnvsError when its building is not among ours."""

    def reseed(self, seed: int) -> None:
        """Begin anew from another seed."""

    def get_state(self) -> dict[str, list[Any]]:
        """Return what `take` depends on: per key a JSON-able list with one entry per environment."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; raises EnvsError, having changed nothing, when it is not of an equally made source."""


def _start(simulator: Simulator, scene: int, episode: Episode, where: str) -> Start:
    navmesh = simulator.navmesh(scene)
    pose, goal = place(navmesh, episode, where)
    return Start(scene, episode, pose, goal, navmesh.distance_field(goal))


def _building(numbers: Mapping[str, int], episode: Episode) -> int:
    scene = numbers.get(episode.scene_id, numbers.get(building_name(episode.scene_id)))
    if scene is None:
        raise EnvsError(f"environment state: the building {episode.scene_id!r} is not among those loaded")
    return scene


class TrainingEpisodes:
    """Endless episodes; an environment stays in a building for `episodes_per_building` of them.

    Buildings are shuffled by the seed and dealt round-robin to all `total_envs` environments; each environment has a
    random generator of its own, seeded by (seed, its global index): how environments are spread over processes
    changes nothing. With `listed` the episodes are picked at random from a list instead of drawn.
    """

    names = None

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
        self._numbers = {name: i for i, name in enumerate(scene_ids)}
        for scene, group in (listed or {}).items():
            if isinstance(group, EpisodeFile):  # not read yet; it holds one building, known by its name
                self._numbers[building_name(scene_ids[scene])] = scene
            else:
                self._numbers |= {episode.scene_id: scene for episode in group}
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
            return self._pick(self._listed[scene], scene, rng)
        sampler = EpisodeSampler(self._simulator.navmesh(scene), self._scene_ids[scene])
        episode, field = sampler.draw(rng, f"{self._envs[env]}-{taken}")
        return Start(scene, episode, episode.start_pose, episode.goal, field)

    def _pick(self, group: Sequence[Episode], scene: int, rng: np.random.Generator) -> Start:
        """Return an episode of a list at random.

        Lists made for another walkable space may hold a few that do not fit ours: training passes over them. Raises
        EpisodeError when it is more than a few.
        """
        tries = 0
        while True:
            episode = group[int(rng.integers(len(group)))]
            tries += 1
            try:
                return _start(self._simulator, scene, episode, self._scene_ids[scene])
            except EpisodeError:
                if tries >= min(_PICKS, len(group)):
                    raise

    def resume(self, episode: Episode) -> Start:
        """Return a start that was given out before; raises EnvsError when its building is not among ours."""
        scene = _building(self._numbers, episode)
        if self._listed is not None:
            return _start(self._simulator, scene, episode, self._scene_ids[scene])
        field = self._simulator.navmesh(scene).distance_field(episode.goal)
        return Start(scene, episode, episode.start_pose, episode.goal, field)

    def get_state(self) -> dict[str, list[Any]]:
        """Return generators, counters and the order of the buildings, which is the same for all environments."""
        return {
            "rngs": [rng.bit_generator.state for rng in self._rngs],
            "taken": list(self._taken),
            "orders": [list(self.order) for _ in self._rngs],
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; raises EnvsError, having changed nothing, when it is not of an equally made source."""
        missing = [key for key in ("rngs", "taken", "orders") if key not in state]
        if missing:
            raise EnvsError(
                f"environment state: has no {missing[0]!r}, it is of a fixed list, not of training episodes"
            )
        rngs = [np.random.default_rng() for _ in self._envs]
        try:
            for rng, saved in zip(rngs, state["rngs"], strict=True):
                rng.bit_generator.state = saved
            taken = [int(n) for n in state["taken"]]
            orders = [[int(scene) for scene in order] for order in state["orders"]]
        except (KeyError, TypeError, ValueError) as error:
            raise EnvsError(f"environment state: malformed rngs, taken or orders ({error})") from None
        if len(taken) != len(rngs) or len(orders) != len(rngs) or min(taken) < 0:
            raise EnvsError(f"environment state: rngs, taken and orders must be those of {len(rngs)} environments")
        if any(order != orders[0] for order in orders) or sorted(orders[0]) != sorted(self.order):
            raise EnvsError(
                f"environment state: deals {len(orders[0])} other buildings, these environments {len(self.order)}"
            )
        self._rngs, self._taken, self.order = rngs, taken, orders[0]


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
        self._numbers = {episode.scene_id: scene for scene, episode in entries}

    @property
    def names(self) -> list[Name] | None:
        """The episodes of the list, in order."""
        return [(episode.scene_id, episode.episode_id) for _, episode in self._entries]

    def take(self, env: int, ticket: int) -> Start:
        """Return entry `ticket` of the list, whichever environment asks."""
        return _start(self._simulator, *self._entries[ticket], self._where)

    def resume(self, episode: Episode) -> Start:
        """Return a start that was given out before; raises EnvsError when its building is not among ours."""
        return _start(self._simulator, _building(self._numbers, episode), episode, self._where)

    def reseed(self, seed: int) -> None:
        """Do nothing: the list is fixed."""

    def get_state(self) -> dict[str, list[Any]]:
        """Return nothing: the list is fixed."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Check that the state is one of a fixed list, of which there is nothing to restore."""
        if "rngs" in state:
            raise EnvsError("environment state: it is of training episodes, not of a fixed list")
