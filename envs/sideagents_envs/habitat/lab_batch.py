"""Point navigation played by habitat-lab: our task, episodes and observations over its environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.config import CameraConfig, HabitatConfig, HabitatSimulator, TaskConfig
from sideagents_envs.episodes.files import rotation_of, yaw_of
from sideagents_envs.episodes.sources import EpisodeSource
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
from sideagents_envs.sensors.spaces import FORWARD, STOP
from sideagents_envs.simulators.embedded import EmbeddedWorld
from sideagents_envs.task.pointnav import PointNavBatch

_ACTIONS = ("move_forward", "turn_left", "turn_right", "stop")  # ours, in order
_GOAL = "pointgoal_with_gps_compass"


class HabitatBatch(PointNavBatch):
    """N point navigation episodes on N `habitat.Env`, with the rules, reward and measures of `PointNavBatch`.

    Moves, collisions, images, goal readings and distances are habitat-lab's; its own measures count along and can be
    read from `lab[env].get_metrics()`. Episodes are drawn and placed with the embedded walkable space.
    """

    def __init__(
        self,
        world: EmbeddedWorld,
        source: EpisodeSource,
        n_envs: int,
        camera: CameraConfig,
        task: TaskConfig,
        habitat: HabitatConfig,
        habitat_simulator: HabitatSimulator = "auto",
        worker: int = 0,
    ) -> None:
        super().__init__(world, source, n_envs, camera, task)
        self.lab_simulator = chosen_simulator(habitat_simulator)
        self._habitat = habitat
        self._navmesh = world.navmesh_config
        self._gpu = gpu_of(habitat, worker)
        self._lab_config()  # what is wrong with it is told now
        self.lab: list[Any] = [None] * n_envs
        self._seen: list[Any] = [None] * n_envs
        self._followers: list[Any] = [None] * n_envs

    def _lab_config(self) -> Any:
        return lab_config(self._habitat, self._camera, self.task, self._navmesh, self.lab_simulator, self._gpu)

    def _enter(self, env: int) -> None:
        start = self.starts[env]
        assert start is not None
        episode = navigation_episode(start.episode, self.simulator.paths[start.scene])
        lab = self.lab[env]
        if lab is None:
            # habitat-lab writes into its configuration: each environment has one of its own
            lab = self.lab[env] = make_lab_env(self._lab_config(), episode)
        if self.lab_simulator == "sideagents":
            lab.sim.remember(episode.scene_id, start.episode.goal, start.field)
        self._reset(env, episode)
        if self.lab_simulator == "habitat_sim" and move_to_floor(episode, lab.sim.pathfinder):
            self._reset(env, episode)
        wanted = self.poses[env].copy()
        self._read_pose(env)
        if not np.array_equal(wanted, start.pose):  # in the middle of a resumed episode
            self._put(env, wanted)

    def _reset(self, env: int, episode: Any) -> None:
        self._followers[env] = None  # it belongs to the building
        self.lab[env].current_episode = episode
        self._seen[env] = self.lab[env].reset()

    def _put(self, env: int, pose: NDArray[np.float64]) -> None:
        """Move the agent of one environment to a pose, look, and measure its distance to the goal."""
        lab, place = self.lab[env], [float(v) for v in pose[:3]]
        turned = [float(v) for v in rotation_of(float(pose[3]))]
        seen = lab.sim.get_observations_at(place, turned, keep_agent_at_new_pose=True)
        episode = lab.current_episode
        seen.update(lab.task.sensor_suite.get_observations(observations=seen, episode=episode, task=lab.task))
        self._seen[env] = seen
        self._read_pose(env)
        lab.task.measurements.measures["distance_to_goal"].update_metric(episode=episode)

    def _read_pose(self, env: int) -> None:
        state = self.lab[env].sim.get_agent_state()
        turn = state.rotation
        self.poses[env] = *state.position, yaw_of(turn.x, turn.y, turn.z, turn.w)

    def _act(self, env: int, action: int) -> bool:
        lab = self.lab[env]
        self._seen[env] = lab.step(_ACTIONS[action])
        self._read_pose(env)
        return bool(lab.sim.previous_step_collided)

    def _measured(self, env: int) -> float:
        return float(self.lab[env].task.measurements.measures["distance_to_goal"].get_metric())

    def _images(self, envs: NDArray[np.int64], channels: Sequence[str]) -> dict[str, NDArray[Any]]:
        images = {}
        for name in channels:
            if not getattr(self.task, name):
                raise EnvsError(f"habitat-lab renders no {name} here: set task.{name}=true")
            images[name] = np.stack([self._seen[env][name] for env in envs])
        if "rgb" in images:
            images["rgb"] = images["rgb"][..., :3]
        if "depth" in images:
            images["depth"] = images["depth"][..., 0]
        return images

    def _expert_action(self, env: int) -> int:
        if self.lab_simulator != "habitat_sim":
            return super()._expert_action(env)
        lab = self.lab[env]
        if self._followers[env] is None:
            self._followers[env] = make_follower(lab.sim, self.task.success_distance_m)
        goal = np.asarray(lab.current_episode.goals[0].position, np.float32)
        name = lab.task.get_action_name(int(self._followers[env].get_next_action(goal)))
        action = _ACTIONS.index(name)
        # with the automatic stop whatever is chosen at the goal ends the episode
        return FORWARD if action == STOP and self.task.stop == "auto" else action

    def _readings(self, envs: NDArray[np.int64]) -> NDArray[np.float32]:
        if any(_GOAL not in self._seen[env] for env in envs):  # a task of another kind
            return super()._readings(envs)
        polar = np.array([self._seen[env][_GOAL] for env in envs], np.float64)
        metres, angle = polar.T
        return np.asarray(np.stack([metres, np.cos(angle), np.sin(angle)], axis=1), np.float32)

    def close(self) -> None:
        """Close the environments of habitat-lab."""
        for env, lab in enumerate(self.lab):
            if lab is not None:
                lab.close()
            self.lab[env] = None
