"""Walkable space of a building: made from its triangles, saved, sampled, walked on, measured."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sideagents_envs.cache import atomic_path, cache_dir
from sideagents_envs.config import NavMeshConfig
from sideagents_envs.errors import EpisodeError, SceneError
from sideagents_envs.reading import MEGABYTE, read_regular
from sideagents_envs.versions import NAVMESH_VERSION
from sideagents_envs.walk import clearance, motion, voxels
from sideagents_envs.walk.geodesic import REACH, DistanceField
from sideagents_envs.walk.motion import GAP, Grid, Y
from sideagents_envs.walk.points import settle_heights, snap, topdown

F64 = NDArray[np.float64]

_MAIN_SHARE = 0.1  # of the largest island: anything smaller is furniture, a ledge or a sealed cupboard
_MAIN_AREA = 1.0  # square metres
_FALL = 2.0  # metres: table tops and shelves end above a larger floor at most this much lower
_SNAP = 1.0  # metres
_SLOW_TRIANGLES = 400_000  # more of them take some seconds
_MOST_BYTES = 1024 * MEGABYTE  # of a file of ours
_MERGE_FLOORS = 0.5  # metres: floors closer in height than this are one storey


class NavMesh:
    """Where an agent can stand and walk; only main islands, so no table top, shelf or roof is part of it.

    Points are (3,) x, y, z in metres, y the floor's height; batches (N,3). Islands are numbered from 0, largest first.
    """

    def __init__(
        self,
        config: NavMeshConfig,
        grid: Grid,
        column: NDArray[np.int32],
        island: NDArray[np.int32],
        area: F64,
        left_out: F64,
    ) -> None:
        self.config = config
        self.grid = grid
        self._column = column
        self._island = island
        self._area = area
        used = np.flatnonzero(area > 0)
        self._cells = used
        self._islands = island[used]
        sizes = np.bincount(self._islands, weights=area[used]) if used.size else np.zeros(0)
        self.island_areas: tuple[float, ...] = tuple(float(a) for a in sizes)
        # areas of floors of at least a square metre that are too small for islands: rooms behind shut doors
        self.left_out_areas: tuple[float, ...] = tuple(float(a) for a in left_out)

    @classmethod
    def from_mesh(cls, vertices: ArrayLike, faces: ArrayLike, config: NavMeshConfig | None = None) -> NavMesh:
        """Make the walkable space of a mesh: vertices (V,3) in metres with y up, faces (F,3).

        Raises `SceneError` when nothing in it can be walked on, and `voxelise`'s errors.
        """
        config = config or NavMeshConfig()
        columns = voxels.voxelise(
            np.ascontiguousarray(vertices, dtype=np.float64), np.ascontiguousarray(faces, dtype=np.int32), config
        )
        tops = voxels.walkable_tops(columns, config)
        climb = config.max_climb_m + voxels.TOLERANCE
        nbr = voxels.link(tops.start, tops.column, tops.y, tops.ceiling, columns.nx, config.agent_height_m, climb)
        gap = clearance.gaps(columns, tops, nbr, config)
        surf = np.zeros((len(gap), 4), np.float32)
        surf[:, Y], surf[:, GAP] = tops.y, gap
        frame = np.array([columns.x0, columns.z0, config.cell_m, columns.nx, columns.nz])
        grid = Grid(frame, config.agent_radius_m, tops.start, surf, nbr, np.zeros(len(gap), np.uint16))
        clearance.place_nodes(grid, tops.column)
        island = clearance.label(nbr, grid.hops)
        area = clearance.areas(grid, tops.column, island)
        main, left_out = _main_islands(grid, tops, island, area)
        if main.size == 0:
            raise SceneError("no walkable floor was found: is the file in metres, with the y axis up?")
        return cls(config, *_keep(grid, tops.column, island, area, main), left_out)

    @property
    def navigable_area(self) -> float:
        """Area on which the agent's centre can be, square metres in plan."""
        return float(sum(self.island_areas))

    @property
    def bounds(self) -> F64:
        """Lowest and highest corner (2,3) of the walkable space, metres."""
        x, z = self._centres(self._cells)
        y = self.grid.surf[self._cells, Y]
        half = 0.5 * self.config.cell_m
        return np.array([[x.min() - half, y.min(), z.min() - half], [x.max() + half, y.max(), z.max() + half]])

    @property
    def floor_heights(self) -> tuple[float, ...]:
        """Heights of the storeys, metres, lowest first: levels of at least a square metre, half a metre apart."""
        level = np.round(self.grid.surf[self._cells, Y] / 0.05).astype(np.int64)
        low = int(level.min())
        share = np.bincount(level - low, weights=self._area[self._cells])
        found: list[float] = []
        for i in np.argsort(-share, kind="stable"):
            height = float(np.median(self.grid.surf[self._cells[level == i + low], Y])) if share[i] >= 1.0 else np.nan
            if share[i] < 1.0 and found:
                break
            if np.isnan(height):
                height = float((i + low) * 0.05)
            if all(abs(height - other) > _MERGE_FLOORS for other in found):
                found.append(height)
        return tuple(sorted(found))

    def _centres(self, cells: NDArray[np.intp]) -> tuple[F64, F64]:
        x0, z0, cell, nx, _ = self.grid.frame
        iz, ix = np.divmod(self._column[cells], int(nx))
        return x0 + (ix + 0.5) * cell, z0 + (iz + 0.5) * cell

    def is_navigable(self, point: ArrayLike) -> bool:
        """Return whether the agent can stand at a point (within half a metre of the floor's height)."""
        return self.island(point) >= 0

    def island(self, point: ArrayLike) -> int:
        """Return the island on which a point lies, or -1 where the agent cannot stand."""
        x, y, z = np.asarray(point, np.float64)
        s = motion.locate(self.grid, x, y, z, REACH)
        return int(self._island[s]) if motion.free(self.grid, s, x, z) else -1

    def island_radius(self, island: int) -> float:
        """Return how far an island reaches in plan from its middle, metres; 0 for an island that is none."""
        x, z = self._centres(self._cells[self._islands == island])
        return float(np.hypot(x - x.mean(), z - z.mean()).max()) if x.size else 0.0

    def clearance(self, point: ArrayLike) -> float:
        """Return the distance in plan from a point to the nearest obstacle or ledge, metres; 0 off the floor."""
        x, y, z = np.asarray(point, np.float64)
        s = motion.locate(self.grid, x, y, z, REACH)
        return float(motion.probe(self.grid, s, x, z)[0]) if s >= 0 else 0.0

    def snap(self, point: ArrayLike) -> F64:
        """Return the navigable point (3,) nearest to a point, nan where there is none within a metre in plan."""
        out = np.full(3, np.nan)
        snap(self.grid, self._island, np.asarray(point, np.float64), _SNAP, out)
        return out

    def try_step(self, start: ArrayLike, end: ArrayLike, allow_sliding: bool = True) -> tuple[F64, bool]:
        """Walk from `start` (3,) towards `end` (3,): the position reached, and whether something was in the way.

        As habitat-sim's `try_step`: it slides along obstacles (or stops at the first contact), the height of `end` is
        ignored, and a start off the walkable space goes nowhere.
        """
        out = np.empty(3)
        hit = motion.step(
            self.grid, np.asarray(start, np.float64), np.asarray(end, np.float64), bool(allow_sliding), out
        )
        return out, bool(hit)

    def try_steps(
        self, starts: ArrayLike, ends: ArrayLike, allow_sliding: bool = True
    ) -> tuple[F64, NDArray[np.bool_]]:
        """Run `try_step` for a batch: (N,3), (N,3) -> (N,3), bool (N,)."""
        begin = np.ascontiguousarray(starts, dtype=np.float64).reshape(-1, 3)
        out, hit = np.empty_like(begin), np.empty(len(begin), np.bool_)
        motion.steps(self.grid, begin, np.ascontiguousarray(ends, dtype=np.float64), bool(allow_sliding), out, hit)
        return out, hit

    def sample(self, rng: np.random.Generator, n: int) -> F64:
        """Return `n` navigable points (n,3), uniform by area over all islands; the same for an equal generator."""
        found: list[F64] = []
        missing = n
        while missing > 0:
            cells = self._cells[rng.integers(0, len(self._cells), size=2 * missing + 8)]
            x, z = self._centres(cells)
            shift = (rng.random((2, len(cells))) - 0.5) * self.config.cell_m
            points = np.stack([x + shift[0], self.grid.surf[cells, Y], z + shift[1]], axis=1)
            kept = points[settle_heights(self.grid, cells, points)][:missing]
            found.append(kept)
            missing -= len(kept)
        return np.concatenate(found) if found else np.empty((0, 3))

    def distance_field(self, goal: ArrayLike) -> DistanceField:
        """Return the distances to a goal (3,); a goal just off the walkable space is moved onto it.

        Raises `EpisodeError` when no navigable point lies within a metre.
        """
        point = np.array(goal, np.float64)
        x, y, z = point
        s = motion.locate(self.grid, x, y, z, REACH)
        if not self.is_navigable(point):
            point = self.snap(point)
            if np.isnan(point[0]):
                where = ", ".join(f"{v:.2f}" for v in (x, y, z))
                raise EpisodeError(f"the goal ({where}) is not within {_SNAP:g} m of walkable space")
            s = motion.locate(self.grid, point[0], point[1], point[2], REACH)
        point[1] = motion.height(self.grid, s, point[0], point[2])
        return DistanceField(self.grid, point, s)

    def geodesic(self, start: ArrayLike, goal: ArrayLike) -> float:
        """Return the walking distance between two points, metres; inf when there is no way or no floor."""
        if np.isnan(self.snap(goal)[0]):
            return float("inf")
        return self.distance_field(goal).value(start)

    def topdown(self, metres_per_pixel: float, height: float) -> tuple[NDArray[np.bool_], tuple[float, float]]:
        """Return what is navigable within half a metre of `height`: bool [z, x], and (x, z) of the corner of [0, 0]."""
        low, high = self.bounds
        size = np.ceil((high - low)[[2, 0]] / metres_per_pixel).astype(int)
        image = np.zeros(tuple(size), np.bool_)
        topdown(self.grid, self._island, float(low[0]), float(low[2]), metres_per_pixel, height, image)
        return image, (float(low[0]), float(low[2]))

    def save(self, path: Path | str) -> None:
        """Write the arrays to an `.npz` file, whole or not at all."""
        meta = json.dumps({"version": NAVMESH_VERSION, "config": dataclasses.asdict(self.config)})
        with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file, meta=np.frombuffer(meta.encode(), np.uint8), frame=self.grid.frame, start=self.grid.start,
                surf=self.grid.surf, nbr=self.grid.nbr, hops=self.grid.hops,
                column=self._column, island=self._island, area=self._area, left_out=np.array(self.left_out_areas),
            )  # fmt: skip

    @classmethod
    def load(cls, path: Path | str) -> NavMesh:
        """Read a file written by `save`; raises `SceneError` when it is not one or is of another version."""
        try:
            content = io.BytesIO(read_regular(Path(path), "a navmesh", _MOST_BYTES, SceneError))
            with np.load(content, allow_pickle=False) as data:
                arrays = {name: data[name] for name in data.files}
            meta = json.loads(arrays["meta"].tobytes())
            if meta["version"] != NAVMESH_VERSION:
                raise SceneError(f"{path}: navmesh of version {meta['version']}, expected {NAVMESH_VERSION}")
            config = NavMeshConfig(**meta["config"])
            grid = Grid(arrays["frame"], config.agent_radius_m, *(arrays[k] for k in ("start", "surf", "nbr", "hops")))
            return cls(config, grid, *(arrays[k] for k in ("column", "island", "area", "left_out")))
        except SceneError:
            raise
        except Exception as error:  # numpy, zipfile and json fail in many ways on a damaged file
            raise SceneError(f"{path}: not a readable navmesh ({type(error).__name__}: {error})") from error


def cached_navmesh(scene_path: Path | str, config: NavMeshConfig | None = None) -> NavMesh:
    """Return the walkable space of a building's file, from the cache folder where it was made before."""
    from sideagents_envs.scenes.scene import load_scene, scene_digest

    config = config or NavMeshConfig()
    settings = json.dumps([NAVMESH_VERSION, dataclasses.asdict(config)])
    key = hashlib.sha256(f"{scene_digest(scene_path)}{settings}".encode()).hexdigest()[:24]
    path = cache_dir() / f"navmesh-v{NAVMESH_VERSION}" / f"{key}.npz"
    if path.is_file():
        try:
            return NavMesh.load(path)
        except SceneError:
            path.unlink(missing_ok=True)  # a damaged cache is made again
    scene = load_scene(scene_path)
    if scene.n_triangles > _SLOW_TRIANGLES:
        name, count = Path(scene_path).name, f"{scene.n_triangles:,}"
        print(f"{name}: looking for the walkable space among {count} triangles (once)", file=sys.stderr, flush=True)
    try:
        navmesh = NavMesh.from_mesh(scene.vertices, scene.faces, config)
    except SceneError as error:
        raise SceneError(f"{scene_path}: {error}") from error
    navmesh.save(path)
    return navmesh


def _main_islands(
    grid: Grid, tops: voxels.Surfaces, island: NDArray[np.int32], area: F64
) -> tuple[NDArray[np.intp], F64]:
    """Return the islands worth walking on, largest first: large, no roof, no furniture top.

    And the areas of those that are too small beside the largest, yet large enough for a room.
    """
    count = int(island.max(initial=-1)) + 1
    sizes = np.bincount(island[island >= 0], weights=area[island >= 0], minlength=count).astype(np.float64)
    cells, above, border, falls = clearance.lower_neighbours(
        tops.start, tops.column, tops.y, grid.nbr, island, area, sizes, int(grid.frame[3]), _FALL
    )
    seen = (island >= 0) & (area > 0)
    sky = np.bincount(island[seen & np.isinf(tops.ceiling)], minlength=count)
    roof = (sky > 0.9 * cells) & (above > 0.5 * cells)
    furniture = falls > 0.5 * border
    good = (sizes > 0) & ~roof & ~furniture
    if not good.any():
        return np.empty(0, np.intp), np.empty(0)
    large = good & (sizes >= min(max(_MAIN_AREA, _MAIN_SHARE * sizes[good].max()), sizes[good].max()))
    order = np.argsort(-sizes, kind="stable")
    left_out = sizes[order[(good & ~large & (sizes >= _MAIN_AREA))[order]]]
    return np.asarray(order[large[order]], np.intp), left_out


def _keep(
    grid: Grid, column: NDArray[np.int32], island: NDArray[np.int32], area: F64, main: NDArray[np.intp]
) -> tuple[Grid, NDArray[np.int32], NDArray[np.int32], F64]:
    """Renumber everything to the main islands and the surfaces that border on them."""
    rename = np.full(int(island.max()) + 2, -1, np.int32)
    rename[main] = np.arange(len(main), dtype=np.int32)
    island = rename[island]
    keep = island >= 0
    for _ in range(int(np.ceil(grid.radius / grid.frame[2])) + 1):
        reached = grid.nbr[keep]
        keep[reached[reached >= 0]] = True
    number = np.full(len(keep) + 1, -1, np.int32)
    number[:-1][keep] = np.arange(int(keep.sum()), dtype=np.int32)
    start = np.zeros(len(grid.start), np.int32)
    np.cumsum(np.bincount(column[keep], minlength=len(start) - 1), out=start[1:])
    hops = np.where(island >= 0, grid.hops, 0).astype(np.uint16)[keep]
    kept = Grid(grid.frame, grid.radius, start, grid.surf[keep], number[grid.nbr[keep]], hops)
    return kept, column[keep], island[keep], np.where(island >= 0, area, 0.0)[keep]
