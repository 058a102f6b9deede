"""Where the goal is: distance and direction, as by GPS and compass."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sideagents_envs.sensors.sensor import Look, Sensor, Walk
from sideagents_envs.sensors.spaces import FURTHEST_GOAL_M


def goal_readings(poses: NDArray[np.float64], goals: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return (N, 3) float32: horizontal distance in metres, cos phi, sin phi; phi is positive when the goal is left."""
    dx, dz = goals[:, 0] - poses[:, 0], goals[:, 2] - poses[:, 2]
    sin, cos = np.sin(poses[:, 3]), np.cos(poses[:, 3])
    ahead, left = -sin * dx - cos * dz, -cos * dx + sin * dz
    r = np.hypot(ahead, left)
    safe = np.maximum(r, 1e-12)
    readings = np.stack([r, np.where(r > 0, ahead / safe, 1.0), left / safe], axis=1)
    return np.asarray(readings, np.float32)


class PointGoal(Sensor):
    """The goal's reading, float32 (3,): metres, cosine and sine of the angle to the left."""

    key = "goal"

    def space(self) -> spaces.Box:
        """Return the space of one reading."""
        return spaces.Box(np.array([0, -1, -1], np.float32), np.array([FURTHEST_GOAL_M, 1, 1], np.float32))

    def read(self, look: Look) -> NDArray[Any]:
        """Return where the bodies find their goals."""
        return look.goal_readings()

    def replay(self, walk: Walk) -> NDArray[Any]:
        """Return where the goal was at each step."""
        return goal_readings(walk.poses, np.broadcast_to(walk.goal, (len(walk.poses), 3)))
