"""N episodes moved, rewarded and observed together: bodies of a simulator, by the rules of a task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sideagents_envs.bodies.bodies import Bodies
from sideagents_envs.episodes.files import Episode
from sideagents_envs.episodes.sources import EpisodeSource, Start
from sideagents_envs.errors import EnvsError, EpisodeError
from sideagents_envs.sensors.sensor import Look, Sensor, checked
from sideagents_envs.sensors.spaces import FORWARD, STOP, Observation, checked_actions
from sideagents_envs.task.navigation import Navigation, Step

_COUNTERS = (
    "distances",
    "measured_at",
    "start_distances",
    "path_lengths",
    "returns",
    "steps",
    "collisions",
    "tracks",
    "track_lengths",
)


class StepResult(NamedTuple):
    """Outcome of one step of N environments: float64 and bool arrays (N,), and a dict per environment."""

    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    infos: list[dict[str, Any]]


class NavigationBatch:
    """N episodes of a task, moved, rewarded and observed together.

    The rules are the task's, the bodies a simulator's. Where the goal cannot be reached from a place that is walked to,
    the distance stays what it was. An environment is idle (`active` False) before its first episode and after its last
    one until `begin` is called: its steps do nothing and cost nothing, and it observes black images.
    """

    def __init__(self, bodies: Bodies, source: EpisodeSource, n_envs: int, task: Navigation) -> None:
        self.bodies = bodies
        self.source = source
        self.n_envs = n_envs
        self.task = task
        self.observation_space = task.observation_space
        self.action_space = task.action_space
        self.active = np.zeros(n_envs, np.bool_)
        self.goals = np.zeros((n_envs, 3))
        self.starts: list[Start | None] = [None] * n_envs
        self._distances = np.zeros(n_envs)
        self._measured_at = np.zeros((n_envs, 3))
        self._start_distances = np.zeros(n_envs)
        self._path_lengths = np.zeros(n_envs)
        self._returns = np.zeros(n_envs)
        self._steps = np.zeros(n_envs, np.int64)
        self._collisions = np.zeros(n_envs, np.int64)
        self._tracks = np.zeros((n_envs, task.config.max_steps + 1, 2))
        self._track_lengths = np.zeros(n_envs, np.int64)
        self._fixed = {  # what is read once in an episode
            sensor: np.zeros((n_envs, *box.shape), box.dtype)
            for sensor in task.sensors
            if sensor.fixed and isinstance(box := task.observation_space[sensor.key], spaces.Box)
        }
        self._moving = [sensor for sensor in task.sensors if not sensor.fixed]

    @property
    def poses(self) -> NDArray[np.float64]:
        """The poses (N, 4): x, y, z in metres, yaw in radians."""
        return self.bodies.poses

    def begin(self, env: int, ticket: int = 0) -> None:
        """Start the next episode of one environment; a fixed list gives its entry `ticket`."""
        start = self.source.take(env, ticket)
        self._install(env, start, start.pose)
        self._tracks[env] = 0.0
        self._tracks[env, 0] = self.poses[env, [0, 2]]
        self._track_lengths[env] = 1
        distance = self.bodies.distance(env)
        if not math.isfinite(distance):
            raise EpisodeError(
                f"{start.episode.scene_id}, episode {start.episode.episode_id!r}: the goal cannot be reached from "
                f"{np.round(self.poses[env, :3], 2).tolist()}"
            )
        self._distances[env] = self._start_distances[env] = distance
        self._measured_at[env] = self.poses[env, :3]
        self._path_lengths[env] = self._returns[env] = 0.0
        self._steps[env] = self._collisions[env] = 0
        self.active[env] = True

    def _install(self, env: int, start: Start, pose: NDArray[np.float64]) -> None:
        self.starts[env] = start
        # The reading shows the goal of the file even where distances are measured to the walkable point beside it.
        self.goals[env] = start.episode.goal
        self.bodies.enter(env, start, pose)
        if self._fixed:
            look = self._look(np.array([env]), self._fixed)
            for sensor, kept in self._fixed.items():
                kept[env] = self._read(sensor, look, 1)[0]

    def step(self, actions: NDArray[Any]) -> StepResult:
        """Take one action (N,) in every environment that is active.

        Raises:
            EnvsError: an action is not one of the action space.
        """
        actions = checked_actions(actions, self.n_envs, self.action_space)
        rewards = np.zeros(self.n_envs)
        terminated = np.zeros(self.n_envs, np.bool_)
        truncated = np.zeros(self.n_envs, np.bool_)
        infos: list[dict[str, Any]] = [{} for _ in range(self.n_envs)]
        for env in np.flatnonzero(self.active):
            rewards[env], terminated[env], truncated[env] = self._step_one(int(env), int(actions[env]))
            if terminated[env] or truncated[env]:
                self.active[env] = False
                infos[env] = self.summary(int(env), bool(terminated[env]))
        return StepResult(rewards, terminated, truncated, infos)

    def _step_one(self, env: int, action: int) -> tuple[float, bool, bool]:
        before = self._distances[env]
        near, stopped = self.task.is_near(before), self.task.stops(action, before)
        position = self.poses[env, :3].copy()
        blocked = self.bodies.act(env, STOP if stopped else action)
        if action == FORWARD and not stopped:
            self._collisions[env] += blocked
            self._advance(env, position)
            self._measure(env)
        reward = self.task.reward(Step(action, stopped, near, blocked, before, self._distances[env]))
        self._steps[env] += 1
        self._returns[env] += reward
        return reward, *self.task.is_over(stopped, int(self._steps[env]))

    def _measure(self, env: int) -> None:
        """Measure the distance to the goal anew, unless the agent has hardly moved since: Habitat's rule."""
        now = self.poses[env, :3]
        if (np.abs(self._measured_at[env] - now) <= 1e-4 + 1e-5 * np.abs(now)).all():
            return
        self._measured_at[env] = now
        distance = self.bodies.distance(env)
        # One agent on a ledge without a way back must not end a run of many: its episode runs out instead.
        if math.isfinite(distance):
            self._distances[env] = distance

    def _advance(self, env: int, before: NDArray[np.float64]) -> None:
        """Add what was walked from the position `before` to the path and its track."""
        now = self.poses[env, :3]
        self._path_lengths[env] += float(np.linalg.norm(now - before))
        length = self._track_lengths[env]
        self._tracks[env, length] = now[0], now[2]
        self._track_lengths[env] = length + 1

    def summary(self, env: int, ended_by_stop: bool = False) -> dict[str, Any]:
        """Return the measures of the present episode of one environment, as Habitat defines them."""
        start = self.starts[env]
        assert start is not None
        d0, distance, path = (float(a[env]) for a in (self._start_distances, self._distances, self._path_lengths))
        success = self.task.is_success(ended_by_stop, distance)
        straightness = d0 / max(d0, path) if max(d0, path) > 0 else 1.0
        progress = max(0.0, 1.0 - distance / d0) if d0 > 0 else 1.0
        return {
            "is_success": success,
            "spl": float(success) * straightness,
            "soft_spl": progress * straightness,
            "distance_to_goal": distance,
            "collisions": int(self._collisions[env]),
            "episode_return": float(self._returns[env]),
            "steps": int(self._steps[env]),
            "scene_id": start.episode.scene_id,
            "episode_id": start.episode.episode_id,
            "start_geodesic": d0,
        }

    def observe(self, envs: Sequence[int] | NDArray[np.int64] | None = None) -> Observation:
        """Return the observations of some environments (K, ...), all by default, rendered by one call."""
        chosen = np.arange(self.n_envs) if envs is None else np.asarray(envs, np.int64)
        content: Observation = {}
        for sensor in self.task.sensors:
            box = self.observation_space[sensor.key]
            content[sensor.key] = np.full((len(chosen), *(box.shape or ())), sensor.blank, box.dtype)
        seen = np.flatnonzero([self.starts[env] is not None for env in chosen])
        if seen.size:
            index = chosen[seen]
            look = self._look(index, self._moving)
            for sensor in self._moving:
                content[sensor.key][seen] = self._read(sensor, look, seen.size)
            for sensor, kept in self._fixed.items():
                content[sensor.key][seen] = kept[index]
        return content

    def _read(self, sensor: Sensor, look: Look, count: int) -> NDArray[Any]:
        box = self.observation_space[sensor.key]
        assert isinstance(box, spaces.Box)
        return checked(sensor, box, sensor.read(look), count, "read")

    def _look(self, envs: NDArray[np.int64], sensors: Iterable[Sensor]) -> Look:
        """Return what some environments' bodies can be asked by these sensors; images are rendered by one call."""
        channels = [name for sensor in sensors for name in sensor.channels]
        return Look(
            self.poses[envs],
            self.goals[envs],
            self._tracks[envs],
            self._track_lengths[envs],
            self.bodies.images(envs, channels) if channels else {},
            lambda: self.bodies.goal_readings(envs, self.goals[envs]),
            lambda poses: self.bodies.view(envs, poses),
        )

    def views(self) -> NDArray[np.uint8]:
        """Return what the agents look at (N, H, W, 3), also where their observations have no rgb; black when idle."""
        seen = np.flatnonzero([start is not None for start in self.starts])
        images = np.zeros((self.n_envs, self.task.camera.height, self.task.camera.width, 3), np.uint8)
        if seen.size:
            images[seen] = self.bodies.images(seen, ("rgb",))["rgb"]
        return images

    def retire(self, env: int) -> None:
        """Leave an environment without an episode: it observes black images from now on."""
        self.active[env] = False
        self.starts[env] = None

    def expert_actions(self) -> NDArray[np.int64]:
        """Return the shortest-path follower's action (N,) in every environment; 0 where it is idle."""
        actions = np.zeros(self.n_envs, np.int64)
        for env in np.flatnonzero(self.active):
            actions[env] = self.bodies.expert_action(int(env))
        return actions

    def present(self) -> list[tuple[Path, Episode] | None]:
        """Return per environment the building's file and the episode that it plays; None while it idles."""
        return [None if s is None else (Path(self.bodies.paths[s.scene]), s.episode) for s in self.starts]

    def tracks(self) -> list[NDArray[np.float64]]:
        """Return per environment the places (T, 2) x, z where it has been in this episode."""
        return [track[:length].copy() for track, length in zip(self._tracks, self._track_lengths, strict=True)]

    def close(self) -> None:
        """Free what the simulator holds."""
        self.bodies.close()

    def get_state(self) -> dict[str, Any]:
        """Return all that the future depends on: arrays (N, ...) and JSON-able lists with one entry per environment."""
        state: dict[str, Any] = {name: getattr(self, f"_{name}").copy() for name in _COUNTERS}
        state["poses"] = self.poses.copy()
        state["active"] = self.active.copy()
        state["episodes"] = [start and start.episode.to_json() for start in self.starts]
        return state | self.source.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state: the next steps are bit-equal to those that would have followed `get_state`.

        Raises:
            EnvsError: the state has another number of environments, another step limit, another kind of episodes, or
                buildings not among ours; nothing has been changed then.
        """
        own = {name: getattr(self, f"_{name}") for name in _COUNTERS} | {"poses": self.poses, "active": self.active}
        missing = [name for name in (*own, "episodes") if name not in state]
        if missing:
            raise EnvsError(f"environment state: {missing[0]!r} is missing")
        saved = {name: np.asarray(state[name]) for name in own}
        for name, array in own.items():
            if saved[name].shape != array.shape or not np.can_cast(saved[name].dtype, array.dtype, "same_kind"):
                raise EnvsError(
                    f"environment state: {name} has shape {saved[name].shape} of {saved[name].dtype}, "
                    f"these environments {array.shape} of {array.dtype}"
                )
        rows = state["episodes"]
        if len(rows) != self.n_envs:
            raise EnvsError(f"environment state: has {len(rows)} episodes, these are {self.n_envs} environments")
        episodes = [None if row is None else Episode.from_json(row, "environment state") for row in rows]
        starts = [None if episode is None else self.source.resume(episode) for episode in episodes]
        self.source.set_state(state)  # checks before it changes anything; nothing fails from here on
        for name, array in own.items():
            array[:] = saved[name]
        for env, start in enumerate(starts):
            self.starts[env] = None
            if start is not None:
                self._install(env, start, saved["poses"][env])
