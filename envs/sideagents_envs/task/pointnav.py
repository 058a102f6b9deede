"""Point navigation: the goal is a place, told by distance and direction (Anderson et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from sideagents_envs.config import TaskConfig
from sideagents_envs.sensors.images import Depth, Rgb
from sideagents_envs.sensors.occupancy import OccupancyMap
from sideagents_envs.sensors.pointgoal import PointGoal
from sideagents_envs.sensors.sensor import Sensor
from sideagents_envs.task.navigation import Navigation


class PointNav(Navigation):
    """The goal is a place, told by distance and direction.

    Observation: `goal` float32 (3,), `map` uint8, and what is asked for of `rgb` uint8 (H, W, 3) and `depth`.
    """

    @classmethod
    def kinds(cls, config: TaskConfig) -> Sequence[type[Sensor]]:
        """Return the sensors that make its observation."""
        camera = [kind for kind, wanted in ((Rgb, config.rgb), (Depth, config.depth)) if wanted]
        return (PointGoal, OccupancyMap, *camera)
