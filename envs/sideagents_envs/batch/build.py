"""From settings to a running batch: which buildings, which episodes, which simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sideagents_envs.batch.navigation_batch import NavigationBatch
from sideagents_envs.bodies.bodies import Bodies
from sideagents_envs.bodies.embedded_bodies import EmbeddedBodies
from sideagents_envs.config import CameraConfig, HabitatConfig, HabitatSimulator, ScenesConfig, TaskConfig
from sideagents_envs.episodes.bundled import ensure_bundled, episodes_file, scenes_root
from sideagents_envs.episodes.files import Episode, content_files, dealt, read_episodes
from sideagents_envs.episodes.listed import buildings_of_content, limited, place_in_buildings
from sideagents_envs.episodes.sources import EpisodeList, EpisodeSource, TrainingEpisodes
from sideagents_envs.errors import EpisodeError
from sideagents_envs.scenes.stage import with_up
from sideagents_envs.simulators.embedded import EmbeddedWorld
from sideagents_envs.task.navigation import Navigation
from sideagents_envs.task.tasks import task_class


@dataclass(frozen=True)
class BatchSpec:
    """All that makes the environments `first_env ... first_env + n_envs` of `total_envs`; None means the default.

    `task_type`: the class of the task, by default the one that `task.kind` names; by it a worker process is told of a
    task that only a module of the user's registers. With `habitat` the environments are habitat-lab's, on the simulator
    named by `habitat_simulator`; without it the embedded ones.
    """

    n_envs: int = 1
    split: str = "train"
    seed: int = 0
    camera: CameraConfig | None = None
    task: TaskConfig | None = None
    scenes: ScenesConfig | None = None
    episodes_file: str | Path | None = None
    first_env: int = 0
    total_envs: int | None = None
    habitat: HabitatConfig | None = None
    habitat_simulator: HabitatSimulator = "auto"
    task_type: type[Navigation] | None = None

    def make_task(self) -> Navigation:
        """Return the task; raises `EnvsError` for an unknown one."""
        config = self.task or TaskConfig()
        return (self.task_type or task_class(config.kind))(self.camera or CameraConfig(), config)


def make_batch(spec: BatchSpec) -> NavigationBatch:
    """Build buildings, episodes and environments.

    Training draws episodes at random, or picks them from `scenes.episodes`; a given `episodes_file` and held-out
    splits are fixed lists, dealt round their buildings.

    Raises:
        SceneError, EpisodeError: buildings or episodes are missing or do not fit each other.
        EnvsError: habitat-lab is wanted and absent.
    """
    if spec.habitat is not None:  # asked before buildings are made
        from sideagents_envs.habitat.lab import chosen_simulator

        chosen_simulator(spec.habitat_simulator)
    camera, task, scenes = spec.camera or CameraConfig(), spec.task or TaskConfig(), spec.scenes or ScenesConfig()
    file = _episodes_file(spec, scenes)
    training = spec.split == "train" and spec.episodes_file is None
    listed: list[tuple[int, Episode]] = []
    groups: Mapping[int, Sequence[Episode]] = {}
    if file is None:
        paths = scenes_root(scenes, spec.split)
    elif training and content_files(file):
        paths, groups = buildings_of_content(file, scenes, spec.split)
    else:
        episodes = read_episodes(file)
        if not training:
            episodes = dealt(episodes)
        elif scenes.buildings or scenes.only:
            episodes = limited(episodes, file, scenes)
        paths, listed = place_in_buildings(episodes, file, scenes, spec.split)
        groups = _by_building(listed)
    world = EmbeddedWorld([with_up(path, scenes.up) for path in paths], camera, scenes.navmesh)
    source: EpisodeSource
    if not training:
        source = EpisodeList(world, listed, str(file))
    else:
        source = TrainingEpisodes(
            world,
            [f"{spec.split}/{path.name}" for path in paths],
            spec.n_envs,
            spec.seed,
            episodes_per_building=scenes.episodes_per_building,
            first_env=spec.first_env,
            total_envs=spec.total_envs,
            listed=groups or None,
        )
    bodies: Bodies
    if spec.habitat is None:
        bodies = EmbeddedBodies(world, spec.n_envs, task)
    else:
        from sideagents_envs.habitat.lab_bodies import HabitatBodies  # needs habitat-lab

        bodies = HabitatBodies(world, spec.n_envs, camera, task, spec.habitat, spec.habitat_simulator, spec.first_env)
    return NavigationBatch(bodies, source, spec.n_envs, spec.make_task())


def _episodes_file(spec: BatchSpec, scenes: ScenesConfig) -> Path | None:
    if spec.episodes_file is not None:
        return Path(spec.episodes_file)
    if scenes.episodes is not None or spec.split == "train":
        return scenes.episodes_path(spec.split)
    if scenes.folder is None:
        ensure_bundled((spec.split,))
        return episodes_file(spec.split)
    file = scenes.folder / "episodes" / f"{spec.split}.json.gz"
    if not file.is_file():
        raise EpisodeError(
            f"{file}: no such episode file; a held-out split needs a fixed list "
            "(make one with `sideagents scenes episodes`, name it in scenes.episodes)"
        )
    return file


def _by_building(listed: Sequence[tuple[int, Episode]]) -> dict[int, list[Episode]]:
    groups: dict[int, list[Episode]] = {}
    for scene, episode in listed:
        groups.setdefault(scene, []).append(episode)
    return groups
