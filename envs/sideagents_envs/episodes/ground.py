"""Exact heights of a building's surfaces, for what is written down.

The walkable space knows one height for each of its cells and slopes from one to the next: where a step or the edge of
a pallet runs through a cell, that is off by as much as an agent climbs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.episodes.files import Episode
from sideagents_envs.scenes.scene import SceneMesh

F64 = NDArray[np.float64]

OFF_M = 0.01  # a point closer to its surface stays where it is
_REACH_M = 0.3  # metres above or below a point in which its surface is looked for: more than an agent climbs
_SLACK = 1e-9  # so that a point on the border of two triangles lies in one of them


class Ground:
    """The surfaces of a building, seen from above."""

    def __init__(self, scene: SceneMesh) -> None:
        self._corners = scene.vertices[scene.faces].astype(np.float64)
        plan = self._corners[:, :, [0, 2]]
        self._low, self._high = plan.min(axis=1), plan.max(axis=1)

    def heights(self, x: float, z: float) -> F64:
        """Return the heights of all surfaces above and below a point in plan, (K,) metres; upright ones have none."""
        point = np.array([x, z])
        near = np.flatnonzero(((self._low <= point) & (point <= self._high)).all(axis=1))
        a, b, c = (self._corners[near, i] for i in range(3))
        p, q = b - a, c - a
        area = p[:, 0] * q[:, 2] - q[:, 0] * p[:, 2]
        flat = np.abs(area) > 1e-12
        a, p, q, area = a[flat], p[flat], q[flat], area[flat]
        u = ((x - a[:, 0]) * q[:, 2] - q[:, 0] * (z - a[:, 2])) / area
        v = (p[:, 0] * (z - a[:, 2]) - (x - a[:, 0]) * p[:, 2]) / area
        inside = (u >= -_SLACK) & (v >= -_SLACK) & (u + v <= 1 + _SLACK)
        return np.asarray((a[:, 1] + u * p[:, 1] + v * q[:, 1])[inside])

    def settled(self, point: F64) -> F64:
        """Return a point (3,) put on the nearest surface right above or below it, where it is off by a centimetre."""
        heights = self.heights(point[0], point[2])
        if not heights.size:  # a hole in a scan
            return point
        nearest = heights[np.argmin(np.abs(heights - point[1]))]
        if not OFF_M < abs(nearest - point[1]) <= _REACH_M:
            return point
        return np.array([point[0], nearest, point[2]])


def on_ground(episodes: Iterable[Episode], scene: SceneMesh) -> list[Episode]:
    """Return episodes of a building whose starts and goals lie on its surfaces, to a centimetre."""
    ground = Ground(scene)
    return [
        replace(episode, start_position=ground.settled(episode.start_position), goal=ground.settled(episode.goal))
        for episode in episodes
    ]
