"""Tasks by name: `task.kind` in a configuration."""

from __future__ import annotations

from gymnasium import spaces

from sideagents_envs.config import CameraConfig, TaskConfig
from sideagents_envs.errors import EnvsError, nearest
from sideagents_envs.task.imagenav import ImageNav
from sideagents_envs.task.navigation import Navigation
from sideagents_envs.task.pointnav import PointNav

TASKS: dict[str, type[Navigation]] = {"pointnav": PointNav, "imagenav": ImageNav}


def make_task(camera: CameraConfig, config: TaskConfig) -> Navigation:
    """Return the task that a configuration names; raises `EnvsError` for an unknown one."""
    if config.kind not in TASKS:
        known = ", ".join(sorted(TASKS))
        raise EnvsError(f"task.kind: there is no task {config.kind!r}{nearest(config.kind, TASKS)}; allowed: {known}")
    return TASKS[config.kind](camera, config)


def observation_space(camera: CameraConfig, config: TaskConfig) -> spaces.Dict:
    """Return the space of one observation of a task, without making environments; raises `EnvsError`."""
    return make_task(camera, config).observation_space
