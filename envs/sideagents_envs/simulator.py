"""What PointNav asks of a simulator, and the embedded one: many buildings behind one batched renderer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sideagents_envs.config import CameraConfig, NavMeshConfig
from sideagents_envs.errors import SceneError
from sideagents_envs.navmesh import NavMesh, cached_navmesh
from sideagents_envs.render import Renderer
from sideagents_envs.scene import SceneMesh, load_scene

Float = NDArray[np.float64]

MAX_TRIANGLES = 2_000_000


class Field(Protocol):
    """Geodesic distances in metres to one goal."""

    def value(self, point: ArrayLike, /) -> float:
        """Return the distance from the point (3,); inf where the goal cannot be reached."""

    def values(self, points: ArrayLike, /) -> Float:
        """Return the distances (K,) from points (K, 3)."""


class Walkable(Protocol):
    """The walkable space of one building."""

    def try_step(self, start: ArrayLike, end: ArrayLike, allow_sliding: bool, /) -> tuple[Float, bool]:
        """Walk from start (3,) towards end (3,); return the point reached and whether something was in the way."""

    def is_navigable(self, point: ArrayLike, /) -> bool:
        """Tell whether the point (3,) can be stood on."""

    def snap(self, point: ArrayLike, /) -> Float:
        """Return the nearest walkable point (3,), NaN when there is none near."""

    def sample(self, rng: np.random.Generator, n: int, /) -> Float:
        """Return n random points (n, 3)."""

    def island(self, point: ArrayLike, /) -> int:
        """Return the number of the connected region that a point (3,) lies in, -1 for none."""

    def distance_field(self, goal: ArrayLike, /) -> Field:
        """Return the distances to the goal (3,)."""


class Simulator(Protocol):
    """Buildings that can be walked and seen; buildings are named by their index in `paths`."""

    @property
    def paths(self) -> Sequence[Path]:
        """The files of the buildings."""

    def navmesh(self, scene: int, /) -> Walkable:
        """Return the walkable space of one building."""

    def render(self, scenes: NDArray[np.int64], poses: Float, channels: Sequence[str], /) -> dict[str, NDArray[Any]]:
        """Return images (N, H, W, ...) per channel for poses (N, 4) in the buildings `scenes` (N,)."""


class EmbeddedWorld:
    """Buildings ray-cast on the CPU. Files are read when first needed and kept while they fit `max_triangles`.

    When a building is missing, as many of the next ones in `order` are read along with it as are already there, so
    that a long run rebuilds its ray structure a handful of times, not once per building.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        camera: CameraConfig,
        navmesh: NavMeshConfig,
        *,
        max_triangles: int = MAX_TRIANGLES,
    ) -> None:
        if not paths:
            raise SceneError("no buildings: the list of .glb files is empty")
        self.paths: Sequence[Path] = list(paths)
        self.camera = camera
        self.order: Sequence[int] = range(len(paths))
        self._navmesh_config = navmesh
        self._max_triangles = max_triangles
        self._navmeshes: dict[int, NavMesh] = {}
        self._meshes: dict[int, SceneMesh] = {}
        self._slots = np.full(len(paths), -1, np.int64)
        self._renderer: Renderer | None = None

    def navmesh(self, scene: int) -> NavMesh:
        """Return the walkable space of one building, from the cache when it was computed before."""
        if scene not in self._navmeshes:
            self._navmeshes[scene] = cached_navmesh(self.paths[scene], self._navmesh_config)
        return self._navmeshes[scene]

    def render(
        self, scenes: NDArray[np.int64], poses: Float, channels: Sequence[str] = ("rgb",)
    ) -> dict[str, NDArray[Any]]:
        """Render poses (N, 4) in the buildings `scenes` (N,) with one ray call."""
        slots = self._slots[scenes]
        if self._renderer is None or slots.min() < 0:
            self._load(sorted({int(s) for s in scenes}))
            slots = self._slots[scenes]
        assert self._renderer is not None
        return self._renderer.render(slots, poses, channels)

    def _load(self, needed: list[int]) -> None:
        kept = dict(self._meshes)
        for scene in needed:
            if scene not in kept:
                kept[scene] = load_scene(self.paths[scene])
        total = sum(m.n_triangles for m in kept.values())
        if total > self._max_triangles:
            kept = {scene: kept[scene] for scene in needed}
        else:
            start = max((self.order.index(s) for s in needed if s not in self._meshes and s in self.order), default=0)
            ahead = len(self._meshes)
            for scene in [s for s in self.order[start:] if s not in kept][:ahead]:
                mesh = load_scene(self.paths[scene])
                total += mesh.n_triangles
                if total > self._max_triangles:
                    break
                kept[scene] = mesh
        self._meshes = kept
        self._slots[:] = -1
        self._slots[list(kept)] = np.arange(len(kept))
        if self._renderer is None:
            self._renderer = Renderer(self.camera, list(kept.values()))
        else:
            self._renderer.set_scenes(list(kept.values()))
