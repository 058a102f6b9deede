"""Demonstrations as the labelled frames that cloning learns from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError
from sideagents_envs.sensors.occupancy import draw_map, goal_readings
from sideagents_envs.sensors.spaces import FURTHEST_DEPTH_M
from sideagents_policies.config import AgentConfig
from sideagents_policies.demos.collect import ImageSource, Trajectory, labelled_end
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
        task = self._config.task
        parts: Arrays = {}
        if "goal" in self._keys:
            goals = np.broadcast_to(trajectory.goal, (len(trajectory.poses), 3))
            parts["goal"] = goal_readings(trajectory.poses, goals)
        if "map" in self._keys:
            parts["map"] = _maps(trajectory, task.map_cells, task.map_size_m)
        if "rgb" in self._keys or "base" in self._keys:
            images = self._images.images(trajectory)
            if "base" in self._keys:
                parts["base"] = self._encode(images)
            if "rgb" in self._keys:
                parts["rgb"] = images
        if "depth" in self._keys:
            parts["depth"] = np.minimum(self._images.depth(trajectory), FURTHEST_DEPTH_M)[..., None]
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


def _maps(trajectory: Trajectory, cells: int, size_m: float) -> NDArray[np.uint8]:
    maps = np.empty((len(trajectory.poses), cells, cells, 3), np.uint8)
    track = np.ascontiguousarray(trajectory.poses[:, [0, 2]])
    for t, pose in enumerate(trajectory.poses):
        draw_map(maps[t], track[: t + 1], pose, trajectory.goal, size_m)
    return maps
