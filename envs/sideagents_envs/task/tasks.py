"""Tasks by name: `task.kind` in a configuration."""

from __future__ import annotations

from gymnasium import spaces

from sideagents_envs.config import CameraConfig, TaskConfig
from sideagents_envs.errors import EnvsError, nearest
from sideagents_envs.task.imagenav import ImageNav
from sideagents_envs.task.navigation import Navigation
from sideagents_envs.task.pointnav import PointNav

TASKS: dict[str, type[Navigation]] = {"pointnav": PointNav, "imagenav": ImageNav}


def register_task(name: str, task: type[Navigation]) -> None:
    """Give a task of your own a name; raises `EnvsError` when it is taken."""
    if name in TASKS:
        raise EnvsError(f"task {name!r} is registered already")
    TASKS[name] = task


def task_class(name: str) -> type[Navigation]:
    """Return the task of that name; raises `EnvsError` with the known names."""
    if name not in TASKS:
        known = ", ".join(sorted(TASKS))
        raise EnvsError(
            f"task.kind: there is no task {name!r}{nearest(name, TASKS)}; allowed: {known}; "
            "one of your own comes by --import MODULE"
        )
    return TASKS[name]


def make_task(camera: CameraConfig, config: TaskConfig) -> Navigation:
    """Return the task that a configuration names; raises `EnvsError` for an unknown one, or what it cannot be."""
    return task_class(config.kind)(camera, config)


def observation_space(camera: CameraConfig, config: TaskConfig) -> spaces.Dict:
    """Return the space of one observation of a task, without making environments; raises `EnvsError`."""
    return make_task(camera, config).observation_space
