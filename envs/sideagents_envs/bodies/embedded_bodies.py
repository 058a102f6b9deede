"""Bodies in the embedded simulator: they slide along its walkable space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.config import TaskConfig
from sideagents_envs.episodes.sources import Start
from sideagents_envs.errors import EnvsError
from sideagents_envs.sensors.pointgoal import goal_readings
from sideagents_envs.sensors.spaces import FORWARD, LEFT, STOP
from sideagents_envs.simulators.embedded import Simulator
from sideagents_envs.walk.expert import expert_action
from sideagents_envs.walk.geodesic import DistanceField
from sideagents_envs.walk.navmesh import NavMesh


class EmbeddedBodies:
    """`Bodies` of a `Simulator`; task: the length of a step, the turn, whether a blocked step slides."""

    def __init__(self, simulator: Simulator, n_envs: int, task: TaskConfig) -> None:
        self.simulator = simulator
        self.poses = np.zeros((n_envs, 4))
        self._task = task
        self._scenes = np.zeros(n_envs, np.int64)
        self._starts: list[Start | None] = [None] * n_envs
        self._turn = math.radians(task.turn_deg)

    @property
    def paths(self) -> Sequence[Path]:
        """The files of the buildings."""
        return self.simulator.paths

    def enter(self, env: int, start: Start, pose: NDArray[np.float64]) -> None:
        """Put a body at a pose in the building of an episode."""
        self._starts[env], self._scenes[env], self.poses[env] = start, start.scene, pose

    def act(self, env: int, action: int) -> bool:
        """Carry out an action; return whether something was in the way."""
        pose = self.poses[env]
        if action == FORWARD:
            ahead = self._task.forward_m * np.array([-math.sin(pose[3]), 0.0, -math.cos(pose[3])])
            navmesh = self.simulator.navmesh(self._start(env).scene)
            pose[:3], blocked = navmesh.try_step(pose[:3].copy(), pose[:3] + ahead, self._task.allow_sliding)
            return bool(blocked)
        if action != STOP:
            pose[3] = math.remainder(pose[3] + (self._turn if action == LEFT else -self._turn), math.tau)
        return False

    def distance(self, env: int) -> float:
        """Return the geodesic distance to the goal in metres, inf where it cannot be reached."""
        return float(self._start(env).field.value(self.poses[env, :3]))

    def images(self, envs: NDArray[np.int64], channels: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return what some bodies see: (K, H, W, ...) for each channel."""
        return self.simulator.render(self._scenes[envs], self.poses[envs], channels)

    def view(self, envs: NDArray[np.int64], poses: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return what some bodies would see from other poses (K, 4): uint8 (K, H, W, 3)."""
        return self.simulator.render(self._scenes[envs], poses, ("rgb",))["rgb"]

    def goal_readings(self, envs: NDArray[np.int64], goals: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return where some bodies find their goals (K, 3)."""
        return goal_readings(self.poses[envs], goals)

    def expert_action(self, env: int) -> int:
        """Return the action of the shortest-path follower; raises `EnvsError` on another walkable space than ours."""
        start = self._start(env)
        navmesh, field = self.simulator.navmesh(start.scene), start.field
        if not isinstance(navmesh, NavMesh) or not isinstance(field, DistanceField):
            raise EnvsError("the expert needs the embedded simulator's walkable space")
        return expert_action(navmesh, field, self.poses[env], self._task)

    def close(self) -> None:
        """Do nothing: the buildings belong to whoever made the simulator."""

    def _start(self, env: int) -> Start:
        start = self._starts[env]
        assert start is not None
        return start
