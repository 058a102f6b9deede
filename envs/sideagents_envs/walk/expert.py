"""Shortest-path follower: a greedy one-step look-ahead on the goal's distance field with the real step."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sideagents_envs.config import TaskConfig
from sideagents_envs.kernels import kernel
from sideagents_envs.walk.geodesic import REACH, DistanceField, Field, _point, aim
from sideagents_envs.walk.motion import Grid, height, locate, move, probe
from sideagents_envs.walk.navmesh import NavMesh

FORWARD, LEFT, RIGHT, STOP = range(4)

_SPREAD = 6  # turns to either side of the straight line to the next turning point that are tried first
_TURN_COST = 0.004  # metres per turn: breaks ties in favour of keeping the heading
_COLLISION_COST = 0.06  # metres
_CLEARANCE = 0.12  # metres beyond the radius within which nearness to obstacles costs
_CLEARANCE_COST = 0.05  # metres, at contact


@kernel
def _cost(
    grid: Grid, field: Field, s: int, x: float, z: float, yaw: float, forward: float, sliding: bool
) -> tuple[float, float]:
    """Return distance left and total cost after one step forward along `yaw`."""
    t, px, pz, collided = move(grid, s, x, z, x - forward * np.sin(yaw), z - forward * np.cos(yaw), sliding)
    left = aim(grid, field, px, height(grid, t, px, pz), pz)[0]
    spare = probe(grid, t, px, pz)[0] - grid.radius
    near = min(max(1.0 - spare / _CLEARANCE, 0.0), 1.0)
    return left, left + _CLEARANCE_COST * near * near + (_COLLISION_COST if collided else 0.0)


@kernel
def _choose(
    grid: Grid, field: Field, x: float, y: float, z: float, yaw: float, forward: float, turn: float, sliding: bool
) -> tuple[float, int]:
    """Return the distance to the goal and the number of turns (positive: left) before the best step forward."""
    s = locate(grid, x, y, z, REACH)
    now, root = aim(grid, field, x, y, z)
    if s < 0 or now == np.inf:
        return now, 1
    rx, _, rz = _point(grid, field.goal, root)
    half = int(np.ceil(np.pi / turn))
    bearing = np.arctan2(x - rx, z - rz) - yaw
    bearing -= 2 * np.pi * np.round(bearing / (2 * np.pi))
    middle = int(np.round(bearing / turn))
    for spread in (_SPREAD, half):
        best, turns, gain = np.inf, 0, 0.0
        for i in range(middle - min(spread, half), middle + min(spread, half) + 1):
            k = i - 2 * half if i > half else i + 2 * half if i < -half else i
            left, cost = _cost(grid, field, s, x, z, yaw + k * turn, forward, sliding)
            cost += _TURN_COST * abs(k)
            if cost < best - 1e-9 or (cost < best + 1e-9 and abs(k) < abs(turns)):
                best, turns, gain = cost, k, now - left
        if gain > 0.2 * forward or now < 2 * forward:
            break
    return now, turns


def expert_action(navmesh: NavMesh, field: DistanceField, pose: ArrayLike, task: TaskConfig) -> int:
    """Return the expert's action at a pose (4,): 0 forward, 1 left, 2 right, 3 stop (only with `stop: explicit`).

    The heading is chosen whose step forward leaves the least distance, with a light preference for clearance and
    for few turns; turning towards it makes it ever cheaper, so the expert never swings between two headings.
    """
    x, y, z, yaw = np.asarray(pose, np.float64)
    turn = float(np.radians(task.turn_deg))
    left, turns = _choose(navmesh.grid, field.field, x, y, z, yaw, task.forward_m, turn, task.allow_sliding)
    if task.stop == "explicit" and left < task.success_distance_m:
        return STOP
    if turns == 0:
        return FORWARD
    return LEFT if turns > 0 else RIGHT
