"""Episodes of point navigation: Habitat's PointNav-v1 files, and drawing new ones with Gibson's detour filter."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.cache import atomic_path
from sideagents_envs.errors import EpisodeError
from sideagents_envs.reading import MEGABYTE, read_regular, shortened, unpacked

if TYPE_CHECKING:
    from sideagents_envs.simulators.embedded import Field, Walkable

Float = NDArray[np.float64]

# Habitat's generator of the Gibson episodes: distances in metres, a floor is told from another by 0.5 m of height.
NEAREST_M = 1.0
FURTHEST_M = 30.0
DETOUR_RATIO = 1.1
SAME_FLOOR_M = 0.5
# keys that only episodes of Habitat's other tasks have
_OTHER_TASKS = {
    "object_category": "ObjectNav",
    "instruction": "vision-and-language navigation",
    "question": "question answering",
    "goal_image_id": "InstanceImageNav",
    "ao_states": "rearrangement",
}
# of one file, unpacked: 250,000 episodes; Habitat's own larger lists are a file for each building
_MOST_BYTES = 128 * MEGABYTE
_LONGEST_NAME = 1000  # characters of a path; what a system opens is about as long
_STARTS_PER_GOAL = 32
_GOALS_TRIED = 300
# Another simulator's mesh may end a cell or two elsewhere; the middle of the thinnest wall is further off than this.
SNAP_TOLERANCE_M = 0.1


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode: positions (3,) in metres, rotation (4,) as x, y, z, w; `geodesic_distance` is NaN when unknown."""

    episode_id: str
    scene_id: str
    start_position: Float
    start_rotation: Float
    goal: Float
    radius: float = 0.2
    geodesic_distance: float = math.nan

    @property
    def start_pose(self) -> Float:
        """The pose (4,) x, y, z, yaw in radians: the rotation's heading in the horizontal plane."""
        return np.array([*self.start_position, yaw_of(*self.start_rotation)], np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return the episode as PointNav-v1 writes it."""
        known = math.isfinite(self.geodesic_distance)
        return {
            "episode_id": self.episode_id,
            "scene_id": self.scene_id,
            "start_position": [float(v) for v in self.start_position],
            "start_rotation": [float(v) for v in self.start_rotation],
            "info": {"geodesic_distance": float(self.geodesic_distance)} if known else None,
            "goals": [{"position": [float(v) for v in self.goal], "radius": self.radius}],
            "shortest_paths": None,
            "start_room": None,
        }

    @staticmethod
    def from_json(row: Any, where: str = "episode") -> Episode:
        """Read one entry of a PointNav-v1 list.

        Raises:
            EpisodeError: something is missing or not a finite number; the line begins with `where`.
        """
        if not isinstance(row, dict):
            raise EpisodeError(f"{where}: an episode must be an object, got {type(row).__name__}")
        episode_id = row.get("episode_id", "?")
        if not isinstance(episode_id, (str, int, float)):
            raise EpisodeError(f"{where}: episode_id must be text or a number, got {shortened(episode_id)}")
        episode_id = str(episode_id)
        where = f"{where}, episode {shortened(episode_id)}"
        other = next((task for key, task in _OTHER_TASKS.items() if row.get(key)), None)
        if other is not None:
            raise EpisodeError(f"{where}: is of {other}, episodes of PointNav are needed")
        try:
            goals = row["goals"]
            info = row.get("info") or {}
            episode = Episode(
                episode_id=episode_id,
                scene_id=_text_of(row["scene_id"], "scene_id", where),
                start_position=_vector(row["start_position"], 3, "start_position", where),
                start_rotation=_vector(row["start_rotation"], 4, "start_rotation", where),
                goal=_vector(goals[0]["position"], 3, "goals[0].position", where),
                radius=_number(goals[0].get("radius"), 0.2, "goals[0].radius", where),
                geodesic_distance=_number(info.get("geodesic_distance"), math.nan, "info.geodesic_distance", where),
            )
        except KeyError as error:
            raise EpisodeError(f"{where}: the key {error} is missing") from None
        except (TypeError, IndexError, AttributeError):
            raise EpisodeError(f"{where}: goals must be a list of objects with a position, info an object") from None
        if not 1e-6 < math.hypot(*episode.start_rotation) < 1e6:
            got = shortened(episode.start_rotation.tolist())
            raise EpisodeError(f"{where}: start_rotation must be a unit quaternion x, y, z, w, got {got}")
        return episode


def _text_of(value: Any, name: str, where: str) -> str:
    if not (isinstance(value, str) and value and len(value) <= _LONGEST_NAME and "\0" not in value):
        raise EpisodeError(f"{where}: {name} must be the name of a building's file, got {shortened(value)}")
    return value


def _vector(value: Any, size: int, name: str, where: str) -> Float:
    try:
        vector = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        vector = np.full(0, math.nan)
    if vector.shape != (size,) or not np.isfinite(vector).all():
        raise EpisodeError(f"{where}: {name} must be {size} finite numbers, got {shortened(value)}")
    return vector


def _number(value: Any, default: float, name: str, where: str) -> float:
    """Return a finite number, or `default` where the file says nothing (null)."""
    if value is None:
        return default
    try:
        number = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise EpisodeError(f"{where}: {name} must be a finite number or null, got {shortened(value)}")
    return number


def yaw_of(x: float, y: float, z: float, w: float) -> float:
    """Return the heading in radians, to the left, of a quaternion x, y, z, w: its turn in the horizontal plane."""
    return math.atan2(2.0 * (x * z + w * y), 1.0 - 2.0 * (x * x + y * y))


def rotation_of(yaw: float) -> Float:
    """Return the quaternion (4,) x, y, z, w of a turn by `yaw` radians about +Y."""
    return np.array([0.0, math.sin(yaw / 2), 0.0, math.cos(yaw / 2)], np.float64)


def read_episodes(path: str | Path) -> list[Episode]:
    """Read a PointNav-v1 `.json.gz` (or plain `.json`); an empty one refers to `content/*.json.gz` beside it.

    Raises:
        EpisodeError: the file is missing, cut off, not JSON, without episodes, or one of them is malformed.
    """
    path = Path(path)
    files = list(content_files(path).values()) or [path]
    episodes = [Episode.from_json(row, str(file)) for file in files for row in _rows(file)]
    if not episodes:
        raise EpisodeError(f"{path}: holds no episodes")
    return episodes


def content_files(path: Path) -> dict[str, Path]:
    """Return the files of single buildings, by the buildings' names, that an empty episode file refers to; else none.

    Raises EpisodeError when the file cannot be read.
    """
    folder = path.parent / "content"
    if not folder.is_dir() or _rows(path):
        return {}
    return {file.name.removesuffix(".json.gz"): file for file in sorted(folder.glob("*.json.gz"))}


def _rows(path: Path) -> list[Any]:
    data = read_regular(path, "an episode file", _MOST_BYTES, EpisodeError)
    text = unpacked(path, data, _MOST_BYTES, EpisodeError)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):  # not text, not JSON, a number of thousands of digits, or nested too deeply
        raise EpisodeError(f"{path}: is not JSON, expected a PointNav-v1 .json.gz") from None
    except MemoryError:
        raise EpisodeError(f"{path}: needs more memory than there is") from None
    rows = content.get("episodes") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise EpisodeError(f"{path}: has no list 'episodes', expected a PointNav-v1 .json.gz")
    return rows


def write_episodes(path: str | Path, episodes: Iterable[Episode]) -> None:
    """Write a PointNav-v1 `.json.gz`; equal episodes give equal bytes."""
    text = json.dumps({"episodes": [episode.to_json() for episode in episodes]}, allow_nan=False)
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))


def dealt(episodes: Iterable[Episode]) -> list[Episode]:
    """Return episodes dealt round their buildings: the first one of each building, then the second of each, and so on.

    Buildings (scene_ids) come in the order in which they first appear, and a building's episodes stay in theirs. Any
    prefix then visits the buildings evenly, for as long as all of them have episodes left; dealing again changes
    nothing.
    """
    piles: dict[str, list[Episode]] = {}
    for episode in episodes:
        piles.setdefault(episode.scene_id, []).append(episode)
    return [episode for round_ in zip_longest(*piles.values()) for episode in round_ if episode is not None]


class EpisodeSampler:
    """Draws training episodes in one building as Habitat's generator of the Gibson episodes does.

    A pair is kept when the geodesic distance lies in [1, 30] m on one floor; pairs that are nearly straight
    (geodesic / Euclidean < 1.1) are kept with probability 20 (ratio - 0.98)^2 only. The goal's distance field is
    computed once per goal and returned with the episode. Points are drawn on the main islands of the walkable space;
    they stand in for Habitat's condition on an island's radius, which keeps points off tables and ledges as well.
    """

    def __init__(self, navmesh: Walkable, scene_id: str) -> None:
        self.navmesh = navmesh
        self.scene_id = scene_id

    def draw(self, rng: np.random.Generator, episode_id: str) -> tuple[Episode, Field]:
        """Return one episode and the distance field of its goal.

        Raises:
            EpisodeError: the building has no two points that make an episode.
        """
        for _ in range(_GOALS_TRIED):
            goal = self.navmesh.sample(rng, 1)[0]
            starts = self.navmesh.sample(rng, _STARTS_PER_GOAL)
            luck = rng.random(_STARTS_PER_GOAL)
            yaw = rng.uniform(-math.pi, math.pi)
            field = self.navmesh.distance_field(goal)
            distances = field.values(starts)
            kept = np.flatnonzero(suitable(starts, goal, distances, luck))
            if kept.size:
                first = int(kept[0])
                distance = float(distances[first])
                found = Episode(episode_id, self.scene_id, starts[first], rotation_of(yaw), goal, 0.2, distance)
                return found, field
        raise EpisodeError(
            f"{self.scene_id}: no start and goal between {NEAREST_M:g} and {FURTHEST_M:g} m apart were found "
            f"in {_GOALS_TRIED} tries; is the walkable area large enough?"
        )


def suitable(starts: Float, goal: Float, distances: Float, luck: Float) -> NDArray[np.bool_]:
    """Apply Gibson's filter to starts (K, 3) with geodesic `distances` (K,) and uniform random numbers `luck` (K,)."""
    straight = np.maximum(np.linalg.norm(starts - goal, axis=1), 1e-9)
    in_range = np.isfinite(distances) & (distances >= NEAREST_M) & (distances <= FURTHEST_M)
    same_floor = np.abs(starts[:, 1] - goal[1]) <= SAME_FLOOR_M
    ratio = np.where(in_range, distances, 0.0) / straight
    detour = (ratio >= DETOUR_RATIO) | (luck <= 20.0 * (ratio - 0.98) ** 2)
    return np.asarray(in_range & same_floor & detour)


def generate_episodes(navmesh: Walkable, scene_id: str, count: int, seed: int, *, first_id: int = 0) -> list[Episode]:
    """Return `count` episodes of one building, the same ones for the same seed, numbered from `first_id`."""
    sampler = EpisodeSampler(navmesh, scene_id)
    rng = np.random.default_rng(seed)
    return [sampler.draw(rng, str(number))[0] for number in range(first_id, first_id + count)]


def place(navmesh: Walkable, episode: Episode, where: str) -> tuple[Float, Float]:
    """Return start pose (4,) and goal (3,) of an episode on the walkable space of its building.

    Raises:
        EpisodeError: start or goal lies more than 0.1 m off the walkable space, or they are not connected.
    """
    where = f"{where}, episode {shortened(episode.episode_id)}"
    start = _on_mesh(navmesh, episode.start_position, f"{where}: the start")
    goal = _on_mesh(navmesh, episode.goal, f"{where}: the goal")
    if navmesh.island(start) != navmesh.island(goal):
        raise EpisodeError(f"{where}: the goal {_text(episode.goal)} cannot be reached from the start")
    pose = episode.start_pose
    pose[:3] = start
    return pose, goal


def _on_mesh(navmesh: Walkable, point: Float, what: str) -> Float:
    snapped = navmesh.snap(point)
    off = math.hypot(snapped[0] - point[0], snapped[2] - point[2])
    if off <= SNAP_TOLERANCE_M and abs(snapped[1] - point[1]) <= SAME_FLOOR_M:
        return snapped
    raise EpisodeError(f"{what} {off_mesh(point, snapped)}")


def off_mesh(point: Float, snapped: Float) -> str:
    """Say that a point (3,) is off the walkable space; `snapped` (3,) is the nearest on it, NaN where none is near."""
    if not np.isfinite(snapped).all():
        return f"{_text(point)} is not on the walkable space, of which nothing is within a metre"
    away = float(np.linalg.norm(snapped - point))
    return f"{_text(point)} is not on the walkable space, whose nearest point {_text(snapped)} is {away:.2f} m away"


def _text(point: Float) -> str:
    return "(" + ", ".join(f"{v:.2f}" for v in point) + ")"
