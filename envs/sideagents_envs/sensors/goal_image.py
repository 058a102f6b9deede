"""The goal as a picture: the view from its place, as in image-goal navigation (Zhu et al. 2017)."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sideagents_envs.sensors.sensor import Look, Sensor, Walk


def goal_pose(goal: NDArray[Any]) -> NDArray[np.float64]:
    """Return the pose (4,) that a goal (3,) is pictured from: there, turned in a way that the place itself decides."""
    place = np.ascontiguousarray(goal, np.float64)
    return np.array([*place, math.tau * zlib.crc32(place.tobytes()) / 2**32 - math.pi])


class GoalImage(Sensor):
    """What the agent's camera sees at the goal, uint8 (H, W, 3), the same all through an episode."""

    key = "goal_image"
    camera = True
    fixed = True

    def space(self) -> spaces.Box:
        """Return the space of one reading."""
        return spaces.Box(0, 255, (*self.image_shape, 3), np.uint8)

    def read(self, look: Look) -> NDArray[Any]:
        """Return the pictures of the bodies' goals."""
        return look.view(np.stack([goal_pose(goal) for goal in look.goals]))

    def replay(self, walk: Walk) -> NDArray[Any]:
        """Return the picture of the goal for each step."""
        picture = walk.view(goal_pose(walk.goal)[None])
        return np.broadcast_to(picture, (len(walk.poses), *picture.shape[1:]))
