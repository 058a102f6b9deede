"""Episode files in Habitat's layout, and the buildings that they play in.

A PointNav-v1 file holds its episodes, or none and `content/NAME.json.gz` beside it for each building: Habitat's
training splits have millions of episodes, so such a file is read when its building is first entered, into arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import overload

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.config import ScenesConfig
from sideagents_envs.episodes.bundled import chosen_buildings, scenes_root
from sideagents_envs.episodes.files import Episode, content_files, read_episodes
from sideagents_envs.errors import EpisodeError, nearest
from sideagents_envs.scenes.stage import SUFFIX

_BASIS = ".basis.glb"


def building_name(scene_id: str) -> str:
    """Return a building's name, however the file that holds it is packed: `hm3d/x/Name.basis.glb` is `Name`."""
    return PurePosixPath(scene_id).name.partition(".")[0]


class EpisodeFile(Sequence[Episode]):
    """The episodes of one building, read from its file when they are first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids: list[str] | None = None
        self._scene = ""
        self._numbers: NDArray[np.float64] = np.zeros((0, 12))  # start 3, rotation 4, goal 3, radius, distance

    def _load(self) -> list[str]:
        if self._ids is None:
            episodes = read_episodes(self.path)
            scenes = {episode.scene_id for episode in episodes}
            if len(scenes) > 1:
                raise EpisodeError(f"{self.path}: holds episodes of {len(scenes)} buildings, one is expected")
            self._numbers = np.array(
                [[*e.start_position, *e.start_rotation, *e.goal, e.radius, e.geodesic_distance] for e in episodes]
            )
            self._scene = scenes.pop()
            self._ids = [episode.episode_id for episode in episodes]
        return self._ids

    def __len__(self) -> int:
        return len(self._load())

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Episode]: ...
    def __getitem__(self, index: int | slice) -> Episode | Sequence[Episode]:
        ids = self._load()
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(ids)))]
        row = self._numbers[index]
        return Episode(
            ids[index], self._scene, row[:3].copy(), row[3:7].copy(), row[7:10].copy(), float(row[10]), float(row[11])
        )


def buildings_of_content(file: Path, scenes: ScenesConfig, split: str) -> tuple[list[Path], dict[int, EpisodeFile]]:
    """Return the training buildings of a file with a content folder, sorted by name, and their episodes.

    Raises EpisodeError when one of them is not below `scenes.dataset`, or one of `scenes.only` has no episodes.
    """
    content = content_files(file)
    names = chosen_buildings(sorted(content), scenes, str(file))
    known = known_buildings(scenes, split)
    missing = [name for name in names if name not in known]
    if missing:
        raise EpisodeError(
            f"{file}: {len(missing)} of its {len(names)} buildings are not below {scenes.dataset!r}, the first is "
            f"{missing[0]!r}; scenes.dataset names the folder of the scenes, scenes.buildings limits how many are used"
        )
    return [known[name] for name in names], {i: EpisodeFile(content[name]) for i, name in enumerate(names)}


def place_in_buildings(
    episodes: Sequence[Episode], file: Path, scenes: ScenesConfig, split: str
) -> tuple[list[Path], list[tuple[int, Episode]]]:
    """Return the buildings of a list of episodes and, for each episode, the number of its building.

    Raises EpisodeError when a building is not found.
    """
    found: dict[str, Path] = {}
    for episode in episodes:
        if episode.scene_id not in found:
            found[episode.scene_id] = _find_building(episode, file, scenes, split)
    paths = list(dict.fromkeys(found.values()))
    index = {path: i for i, path in enumerate(paths)}
    return paths, [(index[found[episode.scene_id]], episode) for episode in episodes]


def limited(episodes: Sequence[Episode], file: Path, scenes: ScenesConfig) -> list[Episode]:
    """Keep the episodes in the training buildings that `scenes.buildings` leaves, told by their names.

    These are the first ones of the dataset; where it has no `train` folder, as Habitat's have not, those of the list.
    """
    if scenes.folder is None or (scenes.folder / "train").is_dir():
        names = {path.stem for path in scenes_root(scenes, "train")}
    else:
        names = set(
            chosen_buildings(sorted({building_name(episode.scene_id) for episode in episodes}), scenes, str(file))
        )
    kept = [episode for episode in episodes if building_name(episode.scene_id) in names]
    if not kept:
        raise EpisodeError(
            f"{file}: no episode is in the first {scenes.buildings} training buildings of {scenes.dataset!r} "
            "(scenes.buildings limits a list, too)"
        )
    return kept


def count_training_buildings(scenes: ScenesConfig) -> int:
    """Return the number of training buildings: those of the listed episodes, or all that there are."""
    file = scenes.episodes_path("train")
    if file is None:
        return len(scenes_root(scenes, "train"))
    names = list(content_files(file)) or {building_name(episode.scene_id) for episode in read_episodes(file)}
    return len(chosen_buildings(sorted(names), scenes, str(file)))


def _find_building(episode: Episode, file: Path, scenes: ScenesConfig, split: str) -> Path:
    """Find the scene_id beside the episode file, in the dataset's folder, or by name among its buildings."""
    folders = [file.parent, file.parent.parent, Path()]
    if scenes.folder is not None:
        folders.insert(0, scenes.folder)
    for folder in folders:
        candidate = folder / episode.scene_id
        if candidate.suffix == ".glb" and candidate.is_file() and not candidate.name.endswith(_BASIS):
            return candidate
    buildings = known_buildings(scenes, split)
    name = building_name(episode.scene_id)
    if name not in buildings:
        raise EpisodeError(
            f"{file}, episode {episode.episode_id!r}: its building {episode.scene_id!r} is not among the "
            f"{len(buildings)} of {scenes.dataset!r}, split {split!r}{nearest(name, buildings)}; scenes.dataset "
            "(--scene-dir on the command line) names the folder of the file's buildings"
        )
    return buildings[name]


def known_buildings(scenes: ScenesConfig, split: str) -> dict[str, Path]:
    """Return the buildings of a dataset by name: those of the split, or all below a folder in Habitat's layout."""
    folder = scenes.folder
    if folder is None or (folder / split).is_dir():
        return {path.stem: path for path in scenes_root(scenes, split)}
    files = sorted(folder.rglob("*.glb"))
    # a file with compressed textures cannot be read; the plain one often lies beside it
    return {building_name(path.name): path for path in files if not path.name.endswith((_BASIS, SUFFIX))}
