"""The agent's camera: colours and distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sideagents_envs.sensors.sensor import Look, Sensor, Walk
from sideagents_envs.sensors.spaces import FURTHEST_DEPTH_M


class Rgb(Sensor):
    """Colours, uint8 (H, W, 3)."""

    key = "rgb"
    channels = ("rgb",)
    camera = True

    def space(self) -> spaces.Box:
        """Return the space of one reading."""
        return spaces.Box(0, 255, (*self.image_shape, 3), np.uint8)

    def read(self, look: Look) -> NDArray[Any]:
        """Return what the bodies see."""
        return look.images["rgb"]

    def replay(self, walk: Walk) -> NDArray[Any]:
        """Return the images that were kept, or rendered anew."""
        return walk.images("rgb")


class Depth(Sensor):
    """Distances along the viewing direction, float32 (H, W, 1) in metres, at most `FURTHEST_DEPTH_M`."""

    key = "depth"
    channels = ("depth",)
    camera = True

    def space(self) -> spaces.Box:
        """Return the space of one reading."""
        return spaces.Box(0.0, FURTHEST_DEPTH_M, (*self.image_shape, 1), np.float32)

    def read(self, look: Look) -> NDArray[Any]:
        """Return how far away is what the bodies see."""
        return _limited(look.images["depth"])

    def replay(self, walk: Walk) -> NDArray[Any]:
        """Return the distances, rendered anew."""
        return _limited(walk.images("depth"))


def _limited(depth: NDArray[Any]) -> NDArray[Any]:
    return np.minimum(depth, FURTHEST_DEPTH_M)[..., None]
