"""Our walkable space under the names of habitat-sim's PathFinder, as far as habitat-lab and its users ask for them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sideagents_envs.walk.navmesh import NavMesh

Float = NDArray[np.float64]


class PathFinder:
    """Points, steps, distances and maps of one building."""

    is_loaded = True

    def __init__(self, navmesh: NavMesh, rng: np.random.Generator) -> None:
        self._navmesh = navmesh
        self._rng = rng

    def get_bounds(self) -> tuple[Float, Float]:
        """Return the lowest and the highest corner (3,)."""
        low, high = self._navmesh.bounds
        return low, high

    def get_topdown_view(self, meters_per_pixel: float, height: float, eps: float = 0.5) -> NDArray[np.bool_]:
        """Return what can be walked on about `height`, bool [z, x]; `eps` is accepted and half a metre is used."""
        return self._navmesh.topdown(meters_per_pixel, height)[0]

    def is_navigable(self, point: ArrayLike, max_y_delta: float = 0.5) -> bool:
        """Whether the agent can stand at a point."""
        return self._navmesh.is_navigable(point)

    def snap_point(self, point: ArrayLike, island_index: int = -1) -> Float:
        """Return the nearest point that can be stood on, NaN when none is near."""
        return self._navmesh.snap(point)

    def get_random_navigable_point(self, max_tries: int = 10, island_index: int = -1) -> Float:
        """Return a random point (3,), uniform by area."""
        return np.asarray(self._navmesh.sample(self._rng, 1)[0])

    def try_step(self, start: ArrayLike, end: ArrayLike) -> Float:
        """Walk towards a point, sliding along what is in the way."""
        return self._navmesh.try_step(start, end, True)[0]

    def try_step_no_sliding(self, start: ArrayLike, end: ArrayLike) -> Float:
        """Walk towards a point until something is in the way."""
        return self._navmesh.try_step(start, end, False)[0]

    def get_island(self, point: ArrayLike) -> int:
        """Return the number of the connected region of a point, -1 for none."""
        return self._navmesh.island(point)

    @property
    def num_islands(self) -> int:
        """Number of connected regions."""
        return len(self._navmesh.island_areas)

    @property
    def navigable_area(self) -> float:
        """Area that can be walked on, square metres."""
        return self._navmesh.navigable_area

    def island_area(self, island_index: int = -1) -> float:
        """Return the area of a region in square metres, of all for -1."""
        return self.navigable_area if island_index < 0 else float(self._navmesh.island_areas[island_index])

    def island_radius(self, point: ArrayLike) -> float:
        """Return how far the region of a point reaches from its middle, metres; 0 where there is none."""
        return self._navmesh.island_radius(self.get_island(point))

    def distance_to_closest_obstacle(self, point: ArrayLike, max_search_radius: float = 2.0) -> float:
        """Return the distance in metres to the nearest obstacle, at most `max_search_radius`."""
        return min(float(self._navmesh.clearance(point)), max_search_radius)
