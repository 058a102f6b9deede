"""Demonstrations as the labelled frames that cloning learns from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError
from sideagents_envs.sensors.sensor import Walk, checked
from sideagents_envs.task.tasks import make_task
from sideagents_policies.config import AgentConfig
from sideagents_policies.demos.collect import Trajectory, labelled_end
from sideagents_policies.demos.images import ImageSource
from sideagents_policies.demos.store import Arrays, Frames, FrameStore

_ENCODED_AT_ONCE = 256


def returns_to_go(rewards: NDArray[np.float32], gamma: float, last: float = 0.0) -> NDArray[np.float32]:
    """Return the discounted sums of rewards (T,) from each step on; `last` is the value after the final one."""
    result = np.empty(len(rewards), np.float64)
    for t in range(len(rewards) - 1, -1, -1):
        last = float(rewards[t]) + gamma * last
        result[t] = last
    return result.astype(np.float32)


class DemoReader:
    """Turns trajectories into the very observations that the environments and their wrappers would have given."""

    def __init__(self, config: AgentConfig, space: spaces.Dict, base: FrozenBase | None, device: torch.device) -> None:
        self._config = config
        self._keys = tuple(space)
        self._base = base.to(device) if base is not None and "base" in self._keys else None
        self._device = device
        self._sensors = make_task(config.camera, config.task).sensors
        self._images = ImageSource(config)

    def fill(self, store: FrameStore, trajectories: Iterable[Trajectory]) -> int:
        """Add all frames up to the last labelled one to the store; return how many trajectories there were."""
        count = 0
        for trajectory in trajectories:
            end = labelled_end(trajectory.actions)
            packed = store.pack({key: values[:end] for key, values in self.readings(trajectory).items()})
            returns = returns_to_go(trajectory.rewards, self._config.ppo.gamma)
            store.add(Frames(packed, trajectory.actions[:end], returns[:end], np.arange(end), gap=1))
            count += 1
        return count

    def readings(self, trajectory: Trajectory) -> Arrays:
        """Return the single readings (T, ...) of every step."""
        walk = Walk(
            trajectory.poses,
            trajectory.goal,
            lambda channel: self._images.channel(trajectory, channel),
            lambda poses: self._images.view(trajectory.scene, poses, "rgb"),
        )
        parts = {
            sensor.key: checked(sensor, sensor.space(), sensor.replay(walk), len(walk.poses), "replay")
            for sensor in self._sensors
            if sensor.key in self._keys
        }
        if self._base is not None:
            parts["base"] = self._encode(parts["rgb"] if "rgb" in parts else walk.images("rgb"))
        if set(parts) != set(self._keys):
            raise SideAgentsError(f"demonstrations hold {sorted(parts)}, the agent reads {sorted(self._keys)}")
        return parts

    def _encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert self._base is not None
        codes = []
        for i in range(0, len(images), _ENCODED_AT_ONCE):
            tensor = torch.from_numpy(images[i : i + _ENCODED_AT_ONCE]).to(self._device).permute(0, 3, 1, 2)
            with torch.no_grad():
                codes.append(self._base(tensor).float().cpu().numpy())
        return np.concatenate(codes)
