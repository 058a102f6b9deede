"""A trained agent for habitat-lab: `habitat.Benchmark` and anything else that calls `reset` and `act`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from sideagents.errors import SideAgentsError
from sideagents_envs.sensors.occupancy import draw_maps
from sideagents_envs.sensors.spaces import ACTION_NAMES, action_space
from sideagents_envs.task.tasks import observation_space
from sideagents_policies.agent.runs import LoadedAgent, load_agent
from sideagents_policies.evaluate.agents import PolicyAgent
from sideagents_policies.views.environments import with_views
from sideagents_policies.views.stack import Observation, StepReturn

GOAL_SENSOR = "pointgoal_with_gps_compass"


class HabitatAgent:
    """Acts on habitat-lab's observations: images, and the goal by GPS and compass.

    Where it has been, which its map shows, follows from the goal's readings and from its own turns. An agent that was
    trained with the automatic stop has no stop of its own: here it stops where the goal is nearer than the distance
    that counts as success. Images must have the size and field of view of the agent's camera.
    """

    def __init__(self, loaded: LoadedAgent, deterministic: bool | None = None) -> None:
        config = loaded.config
        if config.task.kind != "pointnav":
            raise SideAgentsError(f"HabitatAgent plays pointnav, this agent was trained for {config.task.kind}")
        greedy = config.eval.deterministic if deterministic is None else deterministic
        self._task = config.task
        self._agent = PolicyAgent(loaded.policy.logits, config.seed, greedy, config.eval.temperature)
        self._given = _GivenObservations(config.camera, config.task)
        self._venv = with_views(self._given, config, loaded.base, loaded.world)
        self._track: list[tuple[float, float]] = []
        self._yaw = 0.0

    @classmethod
    def from_run(
        cls, run: str | Path, deterministic: bool | None = None, overrides: Sequence[str] = ()
    ) -> HabitatAgent:
        """Load the agent of a run folder; raises `SideAgentsError` for what cannot be loaded."""
        return cls(load_agent(Path(run), list(overrides)), deterministic)

    def reset(self) -> None:
        """Begin an episode."""
        self._track, self._yaw = [], 0.0

    def act(self, observations: Mapping[str, Any]) -> dict[str, Any]:
        """Return habitat-lab's action for its observations, `{"action": name}`.

        Raises `SideAgentsError` when the goal's reading or an image that the agent needs is not among them.
        """
        first = not self._track
        self._given.content = self._observation(observations)
        if first:  # habitat-lab tells an agent no episode's name: chance belongs to where the goal is first seen
            self._agent.begin(0, "", self._given.content["goal"].tobytes().hex())
        seen: Any = self._venv.reset() if first else self._venv.step(np.zeros(1, np.int64))[0]
        near = float(self._given.content["goal"][0, 0]) < self._task.success_distance_m
        choice = 3 if self._task.stop == "auto" and near else int(self._agent.act(seen)[0])
        if choice in (1, 2):
            turn = math.radians(self._task.turn_deg)
            self._yaw = math.remainder(self._yaw + (turn if choice == 1 else -turn), math.tau)
        return {"action": ACTION_NAMES[choice]}

    def _observation(self, observations: Mapping[str, Any]) -> Observation:
        if GOAL_SENSOR not in observations:
            raise SideAgentsError(f"HabitatAgent needs the sensor {GOAL_SENSOR}, got {', '.join(observations)}")
        metres, angle = (float(v) for v in observations[GOAL_SENSOR])
        # the goal is the origin: the agent stands where it sees it from
        x, z = metres * math.sin(self._yaw + angle), metres * math.cos(self._yaw + angle)
        self._track.append((x, z))
        content: Observation = {"goal": np.array([[metres, math.cos(angle), math.sin(angle)]], np.float32)}
        space = self._given.space
        maps = np.empty((1, *(space["map"].shape or ())), np.uint8)
        track = np.array([self._track])
        pose = np.array([[x, 0.0, z, self._yaw]])
        draw_maps(maps, track, np.array([track.shape[1]]), pose, np.zeros((1, 3)), self._task.map_size_m)
        content["map"] = maps
        for key in ("rgb", "depth"):
            if key not in space.spaces:
                continue
            image = np.asarray(observations[key])[..., : 3 if key == "rgb" else 1] if key in observations else None
            if image is None or image.shape != space[key].shape:
                got = "none" if image is None else image.shape
                raise SideAgentsError(f"HabitatAgent: {key} must be an image {space[key].shape}, got {got}")
            content[key] = image[None].astype(space[key].dtype)
        return content


class _GivenObservations(VecEnv):
    """One environment whose observations are handed to it."""

    render_mode = None

    def __init__(self, camera: Any, task: Any) -> None:
        self.space = observation_space(camera, task)
        super().__init__(1, self.space, action_space(task))
        self.content: Observation = {}

    def reset(self) -> Any:
        return dict(self.content)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Do nothing."""

    def step_wait(self) -> StepReturn:
        return dict(self.content), np.zeros(1, np.float32), np.zeros(1, np.bool_), [{}]

    def close(self) -> None:
        """Do nothing."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        return [getattr(self, method_name)(*method_args, **method_kwargs)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        return [False]
