"""The egocentric map of where the agent has been and where the goal lies, drawn from poses alone.

It holds no obstacles: channel 0 marks visited cells, channel 1 the goal, channel 2 stays empty. The agent is the
centre and looks up; 84 x 84 cells over 22 m; background 128, marks 255, thickened by a 3 x 3 maximum. Places beyond
the border stick to it.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sideagents_envs.kernels import kernel
from sideagents_envs.sensors.sensor import Look, Sensor, Walk
from sideagents_envs.sensors.spaces import MAP_BACKGROUND, MAP_MARK

Array = NDArray[Any]

# Walking straight ahead puts the whole track on a border between two cells; rounding must not scatter it to both.
_NUDGE = 1e-6


@kernel
def _mark(out: Array, channel: int, ahead: float, left: float, size_m: float) -> None:
    cells = out.shape[0]
    cell = size_m / cells
    row = min(max(int((ahead + size_m / 2) / cell + _NUDGE), 0), cells - 1)
    column = min(max(int((left + size_m / 2) / cell + _NUDGE), 0), cells - 1)
    # Turned by 180 degrees, so that ahead is up and left is left.
    row, column = cells - 1 - row, cells - 1 - column
    for i in range(max(row - 1, 0), min(row + 2, cells)):
        for j in range(max(column - 1, 0), min(column + 2, cells)):
            out[i, j, channel] = MAP_MARK


@kernel
def draw_map(
    out: NDArray[Any], track: NDArray[Any], pose: NDArray[Any], goal: NDArray[Any], size_m: float = 22.0
) -> None:
    """Draw into `out` (C, C, 3) uint8 the track (T, 2) of x, z seen from pose (4,), and the goal (3,); metres."""
    out[:] = MAP_BACKGROUND
    sin, cos = math.sin(pose[3]), math.cos(pose[3])
    for t in range(track.shape[0]):
        dx, dz = track[t, 0] - pose[0], track[t, 1] - pose[2]
        _mark(out, 0, -sin * dx - cos * dz, -cos * dx + sin * dz, size_m)
    dx, dz = goal[0] - pose[0], goal[2] - pose[2]
    _mark(out, 1, -sin * dx - cos * dz, -cos * dx + sin * dz, size_m)


@kernel
def draw_maps(
    out: NDArray[Any],
    tracks: NDArray[Any],
    lengths: NDArray[Any],
    poses: NDArray[Any],
    goals: NDArray[Any],
    size_m: float = 22.0,
) -> None:
    """Draw N maps (N, C, C, 3); of each track (N, T, 2) the first `lengths` (N,) points count."""
    for n in range(out.shape[0]):
        draw_map(out[n], tracks[n, : lengths[n]], poses[n], goals[n], size_m)


class OccupancyMap(Sensor):
    """The map of visited places, uint8 (C, C, 3), with the goal in channel 1 where the task shows it."""

    key = "map"
    blank = MAP_BACKGROUND
    shows_goal: ClassVar[bool] = True

    def space(self) -> spaces.Box:
        """Return the space of one reading."""
        return spaces.Box(0, 255, self._shape, np.uint8)

    def read(self, look: Look) -> NDArray[Any]:
        """Return the maps of the bodies."""
        maps = np.empty((len(look.poses), *self._shape), np.uint8)
        draw_maps(maps, look.tracks, look.lengths, look.poses, look.goals, self.task.map_size_m)
        return self._shown(maps)

    def replay(self, walk: Walk) -> NDArray[Any]:
        """Return the map of each step."""
        maps = np.empty((len(walk.poses), *self._shape), np.uint8)
        track = np.ascontiguousarray(walk.poses[:, [0, 2]])
        for t, pose in enumerate(walk.poses):
            draw_map(maps[t], track[: t + 1], pose, walk.goal, self.task.map_size_m)
        return self._shown(maps)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return (self.task.map_cells, self.task.map_cells, 3)

    def _shown(self, maps: NDArray[Any]) -> NDArray[Any]:
        if not self.shows_goal:
            maps[..., 1] = MAP_BACKGROUND
        return maps


class VisitedMap(OccupancyMap):
    """The map of visited places alone."""

    shows_goal = False
