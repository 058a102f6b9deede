"""Camera sensors of our simulator in habitat-lab, configured as habitat-sim's are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gym import spaces
from habitat.core.simulator import DepthSensor, RGBSensor, SemanticSensor
from numpy.typing import NDArray

from sideagents_envs.config import CameraConfig
from sideagents_envs.errors import EnvsError
from sideagents_envs.habitat.worlds import Building


def camera_of(config: Any) -> CameraConfig:
    """Return the camera of a sensor's configuration.

    Raises EnvsError for what is not rendered: a camera that is tilted or not above the agent's middle.
    """
    x, y, z = (float(v) for v in config.position)
    if x or z or any(float(v) for v in config.orientation):
        raise EnvsError(
            f"sensor {config.type}: position {list(config.position)} and orientation {list(config.orientation)}: "
            "only a camera above the agent's middle that looks straight ahead is rendered"
        )
    return CameraConfig(int(config.width), int(config.height), float(config.hfov), y)


class EmbeddedRGBSensor(RGBSensor):
    """Colour images uint8 (H, W, 3)."""

    def _get_observation_space(self, *args: Any, **kwargs: Any) -> Any:
        return spaces.Box(0, 255, (int(self.config.height), int(self.config.width), 3), np.uint8)

    def get_observation(self, building: Building, pose: NDArray[np.float64]) -> Any:
        """Render one image."""
        return building.render(camera_of(self.config), pose, "rgb")


class EmbeddedDepthSensor(DepthSensor):
    """Depth images float32 (H, W, 1): metres cut to the configured range, or that range as 0 to 1."""

    def _get_observation_space(self, *args: Any, **kwargs: Any) -> Any:
        low, high = (0, 1) if self.config.normalize_depth else (self.config.min_depth, self.config.max_depth)
        return spaces.Box(low, high, (int(self.config.height), int(self.config.width), 1), np.float32)

    def get_observation(self, building: Building, pose: NDArray[np.float64]) -> Any:
        """Render one image."""
        low, high = float(self.config.min_depth), float(self.config.max_depth)
        depth = np.clip(building.render(camera_of(self.config), pose, "depth"), low, high)
        if self.config.normalize_depth:
            depth = (depth - low) / (high - low)
        return depth.astype(np.float32)[..., None]


class EmbeddedSemanticSensor(SemanticSensor):
    """Numbers of the building's objects, int32 (H, W, 1); 0 where nothing is seen."""

    def _get_observation_space(self, *args: Any, **kwargs: Any) -> Any:
        high = np.iinfo(np.int32).max
        return spaces.Box(0, high, (int(self.config.height), int(self.config.width), 1), np.int32)

    def get_observation(self, building: Building, pose: NDArray[np.float64]) -> Any:
        """Render one image."""
        return np.asarray(building.render(camera_of(self.config), pose, "semantic") + 1)[..., None]


_SENSORS: dict[str, Callable[..., Any]] = {
    "HabitatSimRGBSensor": EmbeddedRGBSensor,
    "HabitatSimDepthSensor": EmbeddedDepthSensor,
    "HabitatSimSemanticSensor": EmbeddedSemanticSensor,
}


def make_sensors(agent_config: Any) -> list[Any]:
    """Return the sensors of an agent's configuration; raises EnvsError for one that is not supported."""
    sensors = []
    for name, config in agent_config.sim_sensors.items():
        if config.type not in _SENSORS:
            raise EnvsError(f"sensor {name!r}: {config.type} is not supported; there are {', '.join(_SENSORS)}")
        sensor = _SENSORS[config.type](config=config)
        camera_of(config)  # told now, not at the first image
        sensors.append(sensor)
    return sensors
