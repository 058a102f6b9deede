"""Image-goal navigation: the goal is a place, shown by a picture of what is seen from there."""

from __future__ import annotations

from collections.abc import Sequence

from sideagents_envs.config import TaskConfig
from sideagents_envs.sensors.goal_image import GoalImage
from sideagents_envs.sensors.images import Depth, Rgb
from sideagents_envs.sensors.occupancy import VisitedMap
from sideagents_envs.sensors.sensor import Sensor
from sideagents_envs.task.navigation import Navigation


class ImageNav(Navigation):
    """The goal is a place, shown by a picture of what is seen from there.

    Reward, success and episodes are those of point navigation; neither `goal` nor the map tell where the goal is.
    Observation: `goal_image` and `rgb` uint8 (H, W, 3), `map` uint8 of visited places, `depth` where it is asked for;
    without `rgb`, as for agents that see nothing, there is no picture of the goal either.
    """

    @classmethod
    def kinds(cls, config: TaskConfig) -> Sequence[type[Sensor]]:
        """Return the sensors that make its observation."""
        pictures = ((GoalImage, config.rgb), (VisitedMap, True), (Rgb, config.rgb), (Depth, config.depth))
        return [kind for kind, wanted in pictures if wanted]
