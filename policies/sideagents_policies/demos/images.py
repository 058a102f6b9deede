"""The images of demonstrations: those kept, or rendered anew from poses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.episodes.listed import known_buildings
from sideagents_envs.scenes.stage import with_up
from sideagents_envs.simulators.embedded import EmbeddedWorld
from sideagents_policies.config import AgentConfig
from sideagents_policies.demos.collect import DemosError, Trajectory

_RENDERED_AT_ONCE = 64


class ImageSource:
    """The images of trajectories: those kept, or rendered from poses when none were."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._world: EmbeddedWorld | None = None
        self._index: dict[str, int] = {}

    def channel(self, trajectory: Trajectory, channel: str) -> NDArray[Any]:
        """Return `rgb` uint8 (T, H, W, 3) or `depth` float32 (T, H, W) in metres; raises as `view`."""
        if channel == "rgb" and trajectory.rgb is not None:
            return trajectory.rgb
        return self.view(trajectory.scene, trajectory.poses, channel)

    def view(self, scene: str, poses: NDArray[np.float64], channel: str) -> NDArray[Any]:
        """Return what is seen from poses (T, 4) in a building; raises `DemosError` when the building is not there."""
        if self._world is None:
            found = known_buildings(self._config.scenes, "train")
            self._index = {name: number for number, name in enumerate(found)}
            paths = [with_up(path, self._config.scenes.up) for path in found.values()]
            self._world = EmbeddedWorld(paths, self._config.camera, self._config.scenes.navmesh)
        if scene not in self._index:
            raise DemosError(f"the building {scene!r} of a demonstration is not in {self._config.scenes.dataset}")
        scenes = np.full(len(poses), self._index[scene], np.int64)
        chunks = range(0, len(poses), _RENDERED_AT_ONCE)
        parts = [
            self._world.render(scenes[i : i + _RENDERED_AT_ONCE], poses[i : i + _RENDERED_AT_ONCE], (channel,))[channel]
            for i in chunks
        ]
        return np.concatenate(parts)
