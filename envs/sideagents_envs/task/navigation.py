"""Going to a place: the rules that tasks of navigation share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from gymnasium import spaces

from sideagents_envs.config import CameraConfig, TaskConfig
from sideagents_envs.errors import EnvsError
from sideagents_envs.sensors.sensor import Sensor
from sideagents_envs.sensors.spaces import FORWARD, STOP, action_space

_TAKEN = ("base", "expert")  # keys of the base's codes, and of labels for losses


class Step(NamedTuple):
    """What an action led to: whether it was a stop, near the goal; whether a move was blocked; distances in metres."""

    action: int
    stopped: bool
    near: bool
    blocked: bool
    before_m: float
    now_m: float


class Navigation(ABC):
    """A task: which sensors it needs, its reward, its success, when an episode ends.

    With the automatic stop (side-tuning's setting) an agent that is closer than `success_distance_m` when it is about
    to act stops instead: the step costs the slack, pays the success reward and ends the episode. The undiscounted
    return of an episode of T steps is therefore
    `success * success_reward + distance_reward * (d_0 - d_T) + slack_reward * T`. With `stop: explicit` the agent
    must choose to stop, successfully or not, as in Habitat. d_0 is measured like all other distances, not read from the
    episode's file.
    """

    def __init__(self, camera: CameraConfig, config: TaskConfig) -> None:
        self.camera, self.config = camera, config
        self.sensors = tuple(kind(camera, config) for kind in self.kinds(config))
        _check_keys(self.sensors)
        self.observation_space = spaces.Dict({sensor.key: sensor.space() for sensor in self.sensors})
        self.action_space = action_space(config)

    @classmethod
    @abstractmethod
    def kinds(cls, config: TaskConfig) -> Sequence[type[Sensor]]:
        """Return the sensors that make its observation."""

    def is_near(self, distance: float) -> bool:
        """Tell whether stopping at this geodesic distance in metres is a success."""
        return distance < self.config.success_distance_m

    def stops(self, action: int, distance: float) -> bool:
        """Tell whether the agent stops: by its action, or by itself because it is near."""
        return action == STOP or (self.config.stop == "auto" and self.is_near(distance))

    def reward(self, step: Step) -> float:
        """Return the reward of a step."""
        reward = self.config.slack_reward
        if step.stopped:
            reward += self.config.success_reward if step.near else 0.0
        elif step.action == FORWARD:
            if step.blocked:
                reward -= self.config.collision_penalty
            reward += self.config.distance_reward * (step.before_m - step.now_m)
        return reward

    def is_over(self, stopped: bool, steps: int) -> tuple[bool, bool]:
        """Return whether an episode is terminated, and whether it is truncated, after so many steps."""
        return stopped, not stopped and steps >= self.config.max_steps

    def is_success(self, stopped: bool, distance: float) -> bool:
        """Tell whether an episode that ended so is one."""
        return stopped and self.is_near(distance)


def _check_keys(sensors: Sequence[Sensor]) -> None:
    """Raise `EnvsError` for a key that is no plain name, that is taken, or whose space is no `Box`."""
    seen: dict[str, str] = {}
    for sensor in sensors:
        name, key = type(sensor).__name__, sensor.key
        if not key.isidentifier() or key in _TAKEN:
            taken = f", and {', '.join(_TAKEN)} are taken" if key in _TAKEN else ""
            raise EnvsError(f"sensor {name}: its key {key!r} must be a plain name{taken}")
        if key in seen:
            raise EnvsError(f"sensor {name}: its key {key!r} is that of {seen[key]} already")
        if not isinstance(space := sensor.space(), spaces.Box):
            raise EnvsError(f"sensor {name}: its space must be a Box, got {space}")
        seen[key] = name
