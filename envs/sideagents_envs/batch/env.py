"""Point navigation as a gymnasium environment; the rules are those of a task in `sideagents_envs.task`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sideagents_envs.batch.build import BatchSpec, make_batch
from sideagents_envs.config import CameraConfig, HabitatConfig, HabitatSimulator, ScenesConfig, TaskConfig
from sideagents_envs.errors import EnvsError
from sideagents_envs.sensors.spaces import Observation


class PointNavEnv(gymnasium.Env[Observation, np.int64]):
    """One agent that navigates to a point: `gymnasium.make("sideagents_envs:PointNav-v0")`.

    Observations are a dict of `rgb` uint8 (H, W, 3), `map` uint8 (84, 84, 3), `goal` float32 (3,) = metres, cos phi,
    sin phi, and on request `depth` float32 (H, W, 1) in metres; actions are forward, left, right (and stop). `info`
    holds the measures of the episode so far. A fixed list of episodes is walked through in order, again and again.
    With `habitat` the episodes are played by habitat-lab. `first_env` of `total_envs`, equal seeds given, deals
    training buildings (and GPUs) to environments that are put together, as in SB3's `SubprocVecEnv`.
    """

    metadata = {  # noqa: RUF012  (gymnasium declares it on the instance)
        "render_modes": ["rgb_array"],
        "render_fps": 10,
    }

    def __init__(
        self,
        split: str = "train",
        *,
        seed: int = 0,
        camera: CameraConfig | None = None,
        task: TaskConfig | None = None,
        scenes: ScenesConfig | None = None,
        episodes_file: str | Path | None = None,
        render_mode: str | None = None,
        habitat: HabitatConfig | None = None,
        habitat_simulator: HabitatSimulator = "auto",
        first_env: int = 0,
        total_envs: int = 1,
    ) -> None:
        spec = BatchSpec(
            1,
            split,
            seed,
            camera,
            task,
            scenes,
            episodes_file,
            first_env,
            total_envs,
            habitat=habitat,
            habitat_simulator=habitat_simulator,
        )
        self.batch = make_batch(spec)
        self.observation_space = cast("spaces.Space[Observation]", self.batch.observation_space)
        self.action_space = self.batch.action_space
        self.render_mode = render_mode
        self._ticket = 0
        names = self.batch.source.names
        self._listed = 1 if names is None else len(names)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin the next episode; with a seed, the first one of that seed."""
        super().reset(seed=seed)
        if seed is not None:
            self.batch.source.reseed(seed)
            self._ticket = 0
        self.batch.begin(0, self._ticket % self._listed)
        self._ticket += 1
        return self._observation(), self.batch.summary(0)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one action.

        Raises:
            EnvsError: the action is not in the action space, or the episode is over.
        """
        if not self.batch.active[0]:
            raise EnvsError("the episode is over (or was never begun): call reset() before step()")
        result = self.batch.step(np.array([action]))
        terminated, truncated = bool(result.terminated[0]), bool(result.truncated[0])
        info = result.infos[0] or self.batch.summary(0)
        return self._observation(), float(result.rewards[0]), terminated, truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """Return the agent's view (H, W, 3) when the render mode is `rgb_array`."""
        return self.batch.views()[0] if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free what the simulator holds."""
        self.batch.close()

    def get_state(self) -> dict[str, Any]:
        """Return all that the future depends on, as JSON-able values and arrays."""
        return self.batch.get_state() | {"next_episode": self._ticket}

    def set_state(self, state: Mapping[str, Any]) -> Observation:
        """Continue from a state and return the observation there; raises EnvsError when it does not fit."""
        if "next_episode" not in state:
            raise EnvsError("environment state: 'next_episode' is missing")
        self.batch.set_state(state)
        self._ticket = int(state["next_episode"])
        return self._observation()

    def _observation(self) -> Observation:
        return {key: value[0] for key, value in self.batch.observe().items()}
