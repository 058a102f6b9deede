"""Bodies in habitat-lab's environments: their moves, collisions, images, goal readings and distances are habitat's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.bodies.embedded_bodies import EmbeddedBodies
from sideagents_envs.config import CameraConfig, HabitatConfig, HabitatSimulator, TaskConfig
from sideagents_envs.episodes.files import rotation_of, yaw_of
from sideagents_envs.episodes.sources import Start
from sideagents_envs.errors import EnvsError
from sideagents_envs.habitat.lab import (
    chosen_simulator,
    gpu_of,
    lab_config,
    make_follower,
    make_lab_env,
    move_to_floor,
    navigation_episode,
)
from sideagents_envs.sensors.spaces import ACTION_NAMES, FORWARD, STOP
from sideagents_envs.simulators.embedded import EmbeddedWorld

_GOAL = "pointgoal_with_gps_compass"


class HabitatBodies:
    """`Bodies` of N `habitat.Env`, whose own measures count along: `lab[env].get_metrics()`.

    Episodes are drawn and placed with the embedded walkable space. Raises EnvsError where habitat-lab is absent.
    """

    def __init__(
        self,
        world: EmbeddedWorld,
        n_envs: int,
        camera: CameraConfig,
        task: TaskConfig,
        habitat: HabitatConfig,
        habitat_simulator: HabitatSimulator = "auto",
        worker: int = 0,
    ) -> None:
        self._embedded = EmbeddedBodies(world, n_envs, task)
        self.poses = self._embedded.poses  # the same array: the embedded expert reads it
        self.lab_simulator = chosen_simulator(habitat_simulator)
        self._camera, self._task, self._habitat = camera, task, habitat
        self._navmesh = world.navmesh_config
        self._gpu = gpu_of(habitat, worker)
        self._lab_config()  # what is wrong with it is told now
        self.lab: list[Any] = [None] * n_envs
        self._seen: list[Any] = [None] * n_envs
        self._followers: list[Any] = [None] * n_envs

    @property
    def paths(self) -> Sequence[Path]:
        """The files of the buildings."""
        return self._embedded.paths

    def _lab_config(self) -> Any:
        return lab_config(self._habitat, self._camera, self._task, self._navmesh, self.lab_simulator, self._gpu)

    def enter(self, env: int, start: Start, pose: NDArray[np.float64]) -> None:
        """Reset habitat-lab's environment to an episode; in the middle of a resumed one the agent is moved there."""
        self._embedded.enter(env, start, pose)
        episode = navigation_episode(start.episode, self.paths[start.scene])
        lab = self.lab[env]
        if lab is None:
            # habitat-lab writes into its configuration: each environment has one of its own
            lab = self.lab[env] = make_lab_env(self._lab_config(), episode)
        if self.lab_simulator == "sideagents":
            lab.sim.remember(episode.scene_id, start.episode.goal, start.field)
        self._reset(env, episode)
        if self.lab_simulator == "habitat_sim" and move_to_floor(episode, lab.sim.pathfinder):
            self._reset(env, episode)
        self._read_pose(env)
        if not np.array_equal(pose, start.pose):
            self._put(env, pose)

    def _reset(self, env: int, episode: Any) -> None:
        self._followers[env] = None  # it belongs to the building
        self.lab[env].current_episode = episode
        self._seen[env] = self.lab[env].reset()

    def _put(self, env: int, pose: NDArray[np.float64]) -> None:
        """Move the agent of one environment to a pose, look, and measure its distance to the goal."""
        lab = self.lab[env]
        seen = self._look_from(env, pose, stay=True)
        episode = lab.current_episode
        seen.update(lab.task.sensor_suite.get_observations(observations=seen, episode=episode, task=lab.task))
        self._seen[env] = seen
        self._read_pose(env)
        lab.task.measurements.measures["distance_to_goal"].update_metric(episode=episode)

    def _look_from(self, env: int, pose: NDArray[np.float64], stay: bool) -> Any:
        place, turned = [float(v) for v in pose[:3]], [float(v) for v in rotation_of(float(pose[3]))]
        return self.lab[env].sim.get_observations_at(place, turned, keep_agent_at_new_pose=stay)

    def _read_pose(self, env: int) -> None:
        state = self.lab[env].sim.get_agent_state()
        turn = state.rotation
        self.poses[env] = *state.position, yaw_of(turn.x, turn.y, turn.z, turn.w)

    def act(self, env: int, action: int) -> bool:
        """Carry out an action; return whether something was in the way."""
        lab = self.lab[env]
        self._seen[env] = lab.step(ACTION_NAMES[action])
        self._read_pose(env)
        return bool(lab.sim.previous_step_collided)

    def distance(self, env: int) -> float:
        """Return habitat-lab's geodesic distance to the goal in metres, inf where it cannot be reached."""
        return float(self.lab[env].task.measurements.measures["distance_to_goal"].get_metric())

    def images(self, envs: NDArray[np.int64], channels: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return what some bodies see; raises EnvsError for a channel that habitat-lab was not asked to render."""
        images = {}
        for name in channels:
            self._require(name)
            images[name] = np.stack([self._seen[env][name] for env in envs])
        if "rgb" in images:
            images["rgb"] = images["rgb"][..., :3]
        if "depth" in images:
            images["depth"] = images["depth"][..., 0]
        return images

    def view(self, envs: NDArray[np.int64], poses: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return what some bodies would see from other poses (K, 4): uint8 (K, H, W, 3)."""
        self._require("rgb")
        seen = [self._look_from(int(env), pose, stay=False) for env, pose in zip(envs, poses, strict=True)]
        return np.stack([each["rgb"][..., :3] for each in seen])

    def _require(self, channel: str) -> None:
        if not getattr(self._task, channel):
            raise EnvsError(f"habitat-lab renders no {channel} here: set task.{channel}=true")

    def goal_readings(self, envs: NDArray[np.int64], goals: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return where some bodies find their goals (K, 3), by the GPS and compass of habitat-lab's task."""
        if any(_GOAL not in self._seen[env] for env in envs):
            return self._embedded.goal_readings(envs, goals)
        polar = np.array([self._seen[env][_GOAL] for env in envs], np.float64)
        metres, angle = polar.T
        return np.asarray(np.stack([metres, np.cos(angle), np.sin(angle)], axis=1), np.float32)

    def expert_action(self, env: int) -> int:
        """Return the action of the shortest-path follower: habitat-sim's where it simulates, else ours."""
        if self.lab_simulator != "habitat_sim":
            return self._embedded.expert_action(env)
        lab = self.lab[env]
        if self._followers[env] is None:
            self._followers[env] = make_follower(lab.sim, self._task.success_distance_m)
        goal = np.asarray(lab.current_episode.goals[0].position, np.float32)
        name = lab.task.get_action_name(int(self._followers[env].get_next_action(goal)))
        action = ACTION_NAMES.index(name)
        # with the automatic stop whatever is chosen at the goal ends the episode
        return FORWARD if action == STOP and self._task.stop == "auto" else action

    def close(self) -> None:
        """Close the environments of habitat-lab."""
        for env, lab in enumerate(self.lab):
            if lab is not None:
                lab.close()
            self.lab[env] = None
