"""The egocentric map of where the agent has been and where the goal lies, drawn from poses alone.

It holds no obstacles: channel 0 marks visited cells, channel 1 the goal, channel 2 stays empty. The agent is the
centre and looks up; 84 x 84 cells over 22 m; background 128, marks 255, thickened by a 3 x 3 maximum. Places beyond
the border stick to it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.kernels import kernel
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


def goal_readings(poses: NDArray[np.float64], goals: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return (N, 3) float32: horizontal distance in metres, cos phi, sin phi; phi is positive when the goal is left."""
    dx, dz = goals[:, 0] - poses[:, 0], goals[:, 2] - poses[:, 2]
    sin, cos = np.sin(poses[:, 3]), np.cos(poses[:, 3])
    ahead, left = -sin * dx - cos * dz, -cos * dx + sin * dz
    r = np.hypot(ahead, left)
    safe = np.maximum(r, 1e-12)
    readings = np.stack([r, np.where(r > 0, ahead / safe, 1.0), left / safe], axis=1)
    return np.asarray(readings, np.float32)
