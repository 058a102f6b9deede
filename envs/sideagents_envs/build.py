"""From settings to a running batch: which buildings, which episodes, which simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sideagents_envs.batch import PointNavBatch
from sideagents_envs.buildings import ensure_bundled, episodes_file, scenes_root
from sideagents_envs.config import CameraConfig, HabitatConfig, HabitatSimulator, ScenesConfig, TaskConfig
from sideagents_envs.episodes import Episode, read_episodes
from sideagents_envs.errors import EpisodeError, nearest
from sideagents_envs.simulator import EmbeddedWorld
from sideagents_envs.sources import EpisodeList, EpisodeSource, TrainingEpisodes
from sideagents_envs.stage import with_up


@dataclass(frozen=True)
class BatchSpec:
    """All that makes the environments `first_env ... first_env + n_envs` of `total_envs`; None means the default.

    With `habitat` they are habitat-lab's, on the simulator named by `habitat_simulator`; without it the embedded ones.
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


def make_batch(spec: BatchSpec) -> PointNavBatch:
    """Build buildings, episodes and environments.

    Training draws episodes at random, or picks them from `scenes.episodes`; a given `episodes_file` and held-out
    splits are fixed lists.

    Raises:
        SceneError, EpisodeError: buildings or episodes are missing or do not fit each other.
        EnvsError: habitat-lab is wanted and absent.
    """
    camera, task, scenes = spec.camera or CameraConfig(), spec.task or TaskConfig(), spec.scenes or ScenesConfig()
    file = _episodes_file(spec, scenes)
    training = spec.split == "train" and spec.episodes_file is None
    listed: list[tuple[int, Episode]] = []
    if file is None:
        paths = scenes_root(scenes, spec.split)
    else:
        episodes = read_episodes(file)
        if training and scenes.buildings:
            episodes = _limited(episodes, file, scenes)
        paths, listed = _place_in_buildings(episodes, file, scenes, spec.split)
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
            listed=_by_building(listed) if listed else None,
        )
    if spec.habitat is None:
        return PointNavBatch(world, source, spec.n_envs, camera, task)
    from sideagents_envs.habitat.batch import HabitatBatch  # needs habitat-lab

    return HabitatBatch(world, source, spec.n_envs, camera, task, spec.habitat, spec.habitat_simulator, spec.first_env)


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


def _limited(episodes: Sequence[Episode], file: Path, scenes: ScenesConfig) -> list[Episode]:
    """Keep the episodes in the training buildings that `scenes.buildings` leaves, told by their names."""
    names = {path.stem for path in scenes_root(scenes, "train")}
    kept = [episode for episode in episodes if PurePosixPath(episode.scene_id).stem in names]
    if not kept:
        raise EpisodeError(
            f"{file}: no episode is in the first {scenes.buildings} training buildings of {scenes.dataset!r} "
            "(scenes.buildings limits a list, too)"
        )
    return kept


def _place_in_buildings(
    episodes: Sequence[Episode], file: Path, scenes: ScenesConfig, split: str
) -> tuple[list[Path], list[tuple[int, Episode]]]:
    found: dict[str, Path] = {}
    for episode in episodes:
        if episode.scene_id not in found:
            found[episode.scene_id] = _find_building(episode, file, scenes, split)
    paths = list(dict.fromkeys(found.values()))
    index = {path: i for i, path in enumerate(paths)}
    return paths, [(index[found[episode.scene_id]], episode) for episode in episodes]


def _find_building(episode: Episode, file: Path, scenes: ScenesConfig, split: str) -> Path:
    """Find the scene_id beside the episode file, in the dataset's folder, or by name among the split's buildings."""
    folders = [file.parent, file.parent.parent, Path()]
    if scenes.folder is not None:
        folders.insert(0, scenes.folder)
    for folder in folders:
        candidate = folder / episode.scene_id
        if candidate.suffix == ".glb" and candidate.is_file():
            return candidate
    buildings = {path.stem: path for path in scenes_root(scenes, split)}
    name = PurePosixPath(episode.scene_id).stem
    if name not in buildings:
        raise EpisodeError(
            f"{file}, episode {episode.episode_id!r}: its building {episode.scene_id!r} is not among the "
            f"{len(buildings)} of {scenes.dataset!r}, split {split!r}{nearest(name, buildings)}; scenes.dataset "
            "(--scene-dir on the command line) names the folder of the file's buildings"
        )
    return buildings[name]


def _by_building(listed: Sequence[tuple[int, Episode]]) -> dict[int, list[Episode]]:
    groups: dict[int, list[Episode]] = {}
    for scene, episode in listed:
        groups.setdefault(scene, []).append(episode)
    return groups
