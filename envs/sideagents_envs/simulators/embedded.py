"""What PointNav asks of a simulator, and the embedded one: ray-cast buildings, seen from many poses at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sideagents_envs.config import CameraConfig, NavMeshConfig
from sideagents_envs.errors import SceneError
from sideagents_envs.render.rays import Renderer
from sideagents_envs.scenes.scene import load_scene
from sideagents_envs.walk.navmesh import NavMesh, cached_navmesh

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

    Every building has a ray structure of its own. That is faster than one for all (a ray meets fewer boxes), no
    building is ever built twice, and what is seen in one cannot depend on which others are loaded: where two surfaces
    coincide the hit depends on the shape of the whole structure, and equal runs would differ in a pixel.
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
        self.paths: list[Path] = list(paths)
        self.camera = camera
        self.navmesh_config = navmesh
        self._max_triangles = max_triangles
        self._navmeshes: dict[int, NavMesh] = {}
        self._renderers: dict[int, Renderer] = {}  # the least recently used first

    def number(self, path: Path) -> int:
        """Return the index of a building's file, which is added when it is new."""
        if path not in self.paths:
            self.paths.append(path)
        return self.paths.index(path)

    def navmesh(self, scene: int) -> NavMesh:
        """Return the walkable space of one building, from the cache when it was computed before."""
        if scene not in self._navmeshes:
            self._navmeshes[scene] = cached_navmesh(self.paths[scene], self.navmesh_config)
        return self._navmeshes[scene]

    def render(
        self, scenes: NDArray[np.int64], poses: Float, channels: Sequence[str] = ("rgb",)
    ) -> dict[str, NDArray[Any]]:
        """Render poses (N, 4) in the buildings `scenes` (N,): one ray call per building in use."""
        used = [int(scene) for scene in np.unique(scenes)]
        images: dict[str, NDArray[Any]] = {}
        for scene in used:
            rows = np.flatnonzero(scenes == scene)
            part = self._renderer(scene).render(poses[rows], channels)
            if len(used) == 1:
                images = part
                break
            for name, values in part.items():
                if name not in images:
                    images[name] = np.empty((len(poses), *values.shape[1:]), values.dtype)
                images[name][rows] = values
        self._forget(used)
        return images

    def triangles(self, scene: int) -> int:
        """Return how many triangles a building has, which is loaded for it."""
        return self._renderer(scene).scene.n_triangles

    @property
    def loaded(self) -> list[int]:
        """The buildings in memory, the least recently used first."""
        return list(self._renderers)

    def _renderer(self, scene: int) -> Renderer:
        renderer = self._renderers.pop(scene, None) or Renderer(self.camera, load_scene(self.paths[scene]))
        self._renderers[scene] = renderer
        return renderer

    def _forget(self, used: Sequence[int]) -> None:
        """Drop the least recently used buildings until the rest fits; those in use always stay."""
        sizes = {scene: renderer.scene.n_triangles for scene, renderer in self._renderers.items()}
        total = sum(sizes.values())
        for scene in [scene for scene in sizes if scene not in used]:
            if total <= self._max_triangles:
                return
            total -= sizes[scene]
            del self._renderers[scene]
