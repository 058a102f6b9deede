"""Can a building be used? Units, up axis, holes, walkable area, sealed rooms, and whether episodes fit into it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.config import CameraConfig, NavMeshConfig
from sideagents_envs.episodes.files import generate_episodes
from sideagents_envs.errors import EpisodeError, SceneError
from sideagents_envs.render.rays import Renderer
from sideagents_envs.scenes.scene import SceneMesh, load_scene
from sideagents_envs.scenes.stage import UpAxis, find_stage, with_up
from sideagents_envs.walk.navmesh import NavMesh, cached_navmesh

F64 = NDArray[np.float64]

SMALLEST_AREA_M2 = 4.0
_LARGEST_M = 500.0  # across; more is most likely another unit
_SMALLEST_M = 1.5
_COVERED = 0.2  # share of the plan that should be walkable; below it the up axis is questioned
_MORE = 1.5  # times the area that would have to be walkable with another axis up
_OPEN = 0.05  # share of view rays that may hit nothing
_VIEWS = 64
_TRIED_EPISODES = 5


@dataclass
class BuildingReport:
    """What was found, in Habitat's terms: navigable area, islands (largest first), floor heights.

    `problems` make a building unusable, `warnings` should be looked at; areas in square metres. What comes after
    `size_m` is measured only where the size is a building's. `left_out_m2` are floors as large as rooms that are no
    islands: nobody gets there, as behind shut doors.
    """

    file: str
    triangles: int
    textures: int
    objects: int
    size_m: list[float]
    navigable_area_m2: float = 0.0
    islands: int = 0
    island_areas_m2: list[float] = field(default_factory=list)
    left_out_m2: list[float] = field(default_factory=list)
    floor_heights_m: list[float] = field(default_factory=list)
    open_share: float = 0.0
    longest_path_m: float = 0.0
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether an agent can be trained or evaluated in it."""
        return not self.problems

    def as_json(self) -> str:
        """Return the report as a JSON object."""
        return json.dumps(asdict(self) | {"usable": self.usable}, indent=2)

    def as_text(self) -> str:
        """Return what was measured as lines for people; `refusal` has what makes a building unusable."""
        x, y, z = self.size_m
        lines = [
            f"{self.file}: {self.triangles:,} triangles, {self.textures} textures, {self.objects} objects",
            f"size            {x:.2f} x {z:.2f} m in plan, {y:.2f} m high (Y up)",
        ]
        if self.islands:
            floors = ", ".join(f"{height:.2f}" for height in self.floor_heights_m)
            where = f"on {self.islands} island(s), floors at {floors} m"
            lines.append(f"navigable area  {self.navigable_area_m2:.1f} m2 {where}")
        if self.usable:
            lines.append(f"open views      {100 * self.open_share:.1f} % of the rays hit nothing")
            lines.append(f"longest path    {self.longest_path_m:.1f} m among {_TRIED_EPISODES} random episodes")
        lines += [f"warning: {text}" for text in self.warnings]
        return "\n".join([*lines, "usable"] if self.usable else lines)

    def refusal(self) -> str:
        """Return the line that says why the building cannot be used."""
        return f"{self.file}: cannot be used: {'; '.join(self.problems)}"


def inspect_building(path: str | Path, config: NavMeshConfig | None = None, up: UpAxis = "auto") -> BuildingReport:
    """Look a building over, with the axis `up` upwards.

    Raises `SceneError` when the file itself cannot be read.
    """
    file = with_up(Path(path), up)
    scene = load_scene(file)
    low, high = scene.bounds.astype(np.float64)
    report = BuildingReport(
        str(path), scene.n_triangles, len(scene.textures), len(scene.objects), (high - low).round(3).tolist()
    )
    _check_size(report)
    if report.usable:
        _check_floor(report, scene, file, config or NavMeshConfig(), up)
    return report


def require_upright(path: Path, up: UpAxis, config: NavMeshConfig | None = None) -> NavMesh:
    """Return the walkable space of a building that is about to be used as it stands.

    Raises `SceneError` when it lies on its side, cannot be walked in, or cannot be read.
    """
    config = config or NavMeshConfig()
    file = with_up(path, up)
    navmesh = cached_navmesh(file, config)
    hint = _axis_hint(load_scene(file), navmesh.navigable_area, file, config) if up == "auto" else ""
    if hint:
        raise SceneError(f"{path}: {hint}")
    return navmesh


def _check_size(report: BuildingReport) -> None:
    across, most = max(report.size_m[0], report.size_m[2]), max(report.size_m)
    if most > _LARGEST_M:
        report.problems.append(
            f"{most:.0f} m across: the unit must be the metre (scale by 0.01 or 0.001 when exporting)"
        )
    elif across < _SMALLEST_M:
        report.problems.append(f"{across:.3f} m across: too small for an agent; the unit must be the metre")


def _check_floor(report: BuildingReport, scene: SceneMesh, file: Path, config: NavMeshConfig, up: UpAxis) -> None:
    try:
        navmesh = cached_navmesh(file, config)
    except SceneError as error:
        hint = _axis_hint(scene, 0.0, file, config)
        report.problems.append(hint or f"nowhere to stand ({str(error).removeprefix(f'{file}: ')})")
        return
    report.navigable_area_m2 = round(navmesh.navigable_area, 2)
    report.islands = len(navmesh.island_areas)
    report.island_areas_m2 = [round(area, 2) for area in navmesh.island_areas]
    report.floor_heights_m = [round(height, 3) for height in navmesh.floor_heights]
    report.left_out_m2 = [round(area, 2) for area in navmesh.left_out_areas]
    hint = _axis_hint(scene, navmesh.navigable_area, file, config)
    if hint and up == "auto":
        report.problems.append(hint)
    elif report.navigable_area_m2 < SMALLEST_AREA_M2:
        few = f"only {report.navigable_area_m2:.1f} m2 are walkable, {SMALLEST_AREA_M2:.0f} m2 are needed"
        report.problems.append(f"{few}; {hint}" if hint else few)
    if report.problems:
        return
    if hint:
        report.warnings.append(hint)
    if report.left_out_m2:
        area, count = sum(report.left_out_m2), len(report.left_out_m2)
        report.warnings.append(f"{area:.1f} m2 in {count} piece(s) are left out, nobody gets there: are doors shut?")
    _check_views(report, scene, navmesh)
    _check_episodes(report, navmesh)


def _axis_hint(scene: SceneMesh, area: float, file: Path, config: NavMeshConfig) -> str:
    """Say which axis should be up if far more could be walked on then, which is asked only where it may be so."""
    x, y, z = (scene.bounds[1] - scene.bounds[0]).tolist()
    if area >= _COVERED * x * z and y <= min(x, z):
        return ""
    vertices, rotation = scene.vertices.astype(np.float64), find_stage(file).rotation
    if rotation is None:
        axis, turned = "z", vertices[:, [0, 2, 1]] * [1, 1, -1]
    else:
        axis, turned = "y", vertices @ rotation  # as they stand in the file
    try:
        other = NavMesh.from_mesh(turned, scene.faces, config).navigable_area
    except SceneError:
        return ""
    if other < _MORE * area + 1.0:
        return ""
    remedy = f"--up {axis} of scenes check and episodes, scenes.up={axis} in a configuration, or export it with Y up"
    return f"it lies on its side: {area:.1f} m2 are walkable, with {axis.upper()} up {other:.1f} m2 ({remedy})"


def _check_views(report: BuildingReport, scene: SceneMesh, navmesh: NavMesh) -> None:
    """Count rays that leave the building: a scan's holes, or a missing ceiling."""
    rng = np.random.default_rng(0)
    points = navmesh.sample(rng, _VIEWS)
    poses = np.column_stack([points, rng.uniform(-math.pi, math.pi, len(points))])
    camera = CameraConfig(width=32, height=32)
    depth = Renderer(camera, scene).render(poses, ("depth",))["depth"]
    report.open_share = round(float((depth == 0).mean()), 4)
    if report.open_share > _OPEN:
        share = 100 * report.open_share
        report.warnings.append(f"{share:.0f} % of what an agent sees is open space: are walls or ceilings missing?")


def _check_episodes(report: BuildingReport, navmesh: NavMesh) -> None:
    try:
        episodes = generate_episodes(navmesh, Path(report.file).name, _TRIED_EPISODES, seed=0)
    except EpisodeError as error:
        report.problems.append(str(error))
        return
    report.longest_path_m = round(max(float(episode.geodesic_distance or 0.0) for episode in episodes), 2)
