"""Can a building be used? Units, up axis, holes, walkable area, and whether episodes fit into it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.config import CameraConfig, NavMeshConfig
from sideagents_envs.episodes import generate_episodes
from sideagents_envs.errors import EpisodeError, SceneError
from sideagents_envs.navmesh import NavMesh, cached_navmesh
from sideagents_envs.render import Renderer
from sideagents_envs.scene import SceneMesh, load_scene

F64 = NDArray[np.float64]

SMALLEST_AREA_M2 = 4.0
_LARGEST_M = 500.0  # across; more is most likely another unit
_SMALLEST_M = 1.5
_COVERED = 0.2  # share of the plan that should be walkable; below it the up axis is questioned
_OPEN = 0.05  # share of view rays that may hit nothing
_VIEWS = 64
_TRIED_EPISODES = 5


@dataclass
class BuildingReport:
    """What was found, in Habitat's terms: navigable area, islands (largest first), floor heights.

    `problems` make a building unusable, `warnings` should be looked at; areas in square metres.
    """

    file: str
    triangles: int
    textures: int
    objects: int
    size_m: list[float]
    navigable_area_m2: float = 0.0
    islands: int = 0
    island_areas_m2: list[float] = field(default_factory=list)
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
        """Return the report as lines for people."""
        x, y, z = self.size_m
        floors = ", ".join(f"{height:.2f}" for height in self.floor_heights_m) or "none"
        lines = [
            f"{self.file}: {self.triangles:,} triangles, {self.textures} textures, {self.objects} objects",
            f"size            {x:.2f} x {z:.2f} m in plan, {y:.2f} m high (Y up)",
            f"navigable area  {self.navigable_area_m2:.1f} m2 on {self.islands} island(s), floors at {floors} m",
            f"open views      {100 * self.open_share:.1f} % of the rays hit nothing",
            f"longest path    {self.longest_path_m:.1f} m among {_TRIED_EPISODES} random episodes",
        ]
        lines += [f"warning: {text}" for text in self.warnings] + [f"problem: {text}" for text in self.problems]
        return "\n".join([*lines, "usable" if self.usable else "not usable"])


def inspect_building(path: str | Path, config: NavMeshConfig | None = None) -> BuildingReport:
    """Look a building over; raises `SceneError` when the file itself cannot be read."""
    scene = load_scene(path)
    low, high = scene.bounds.astype(np.float64)
    report = BuildingReport(
        str(path), scene.n_triangles, len(scene.textures), len(scene.objects), (high - low).round(3).tolist()
    )
    _judge_size(report)
    if report.usable:
        _judge_floor(report, scene, Path(path), config or NavMeshConfig())
    return report


def _judge_size(report: BuildingReport) -> None:
    across = max(report.size_m[0], report.size_m[2])
    if across > _LARGEST_M or report.size_m[1] > _LARGEST_M:
        report.problems.append(
            f"{across:.0f} m across: the unit must be the metre (scale by 0.01 or 0.001 when exporting)"
        )
    elif across < _SMALLEST_M:
        report.problems.append(f"{across:.3f} m across: too small for an agent; the unit must be the metre")


def _judge_floor(report: BuildingReport, scene: SceneMesh, path: Path, config: NavMeshConfig) -> None:
    try:
        navmesh = cached_navmesh(path, config)
    except SceneError as error:
        report.problems.append(
            f"nowhere to stand ({str(error).removeprefix(f'{path}: ')})" + _axis_hint(scene, 0.0, config)
        )
        return
    report.navigable_area_m2 = round(navmesh.navigable_area, 2)
    report.islands = len(navmesh.island_areas)
    report.island_areas_m2 = [round(area, 2) for area in navmesh.island_areas]
    report.floor_heights_m = [round(height, 3) for height in navmesh.floor_heights]
    hint = ""
    x, y, z = report.size_m
    if report.navigable_area_m2 < _COVERED * x * z or y > min(x, z):
        hint = _axis_hint(scene, report.navigable_area_m2, config)
    if report.navigable_area_m2 < SMALLEST_AREA_M2:
        report.problems.append(
            f"only {report.navigable_area_m2:.1f} m2 are walkable, {SMALLEST_AREA_M2:.0f} m2 are needed{hint}"
        )
        return
    if hint:
        report.warnings.append(hint.lstrip("; "))
    _judge_views(report, scene, navmesh)
    _judge_episodes(report, navmesh)


def _axis_hint(scene: SceneMesh, area: float, config: NavMeshConfig) -> str:
    """Ask how much could be walked on if Z were up."""
    x, y, z = scene.vertices.astype(np.float64).T
    try:
        turned = NavMesh.from_mesh(np.stack([x, z, -y], axis=1), scene.faces, config).navigable_area
    except SceneError:
        return ""
    if turned < 1.2 * area + 1.0:
        return ""
    return f"; with Z up {turned:.1f} m2 would be: --up z here, scenes.up=z in a configuration, or export with Y up"


def _judge_views(report: BuildingReport, scene: SceneMesh, navmesh: NavMesh) -> None:
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


def _judge_episodes(report: BuildingReport, navmesh: NavMesh) -> None:
    try:
        episodes = generate_episodes(navmesh, Path(report.file).name, _TRIED_EPISODES, seed=0)
    except EpisodeError as error:
        report.problems.append(str(error))
        return
    report.longest_path_m = round(max(float(episode.geodesic_distance or 0.0) for episode in episodes), 2)
