"""What a batch asks of a simulator's bodies; the embedded simulator and habitat-lab have one implementation each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.episodes.sources import Start


class Bodies(Protocol):
    """N bodies, each in an episode of its own. `poses` (N, 4): x, y, z in metres, yaw in radians."""

    poses: NDArray[np.float64]

    @property
    def paths(self) -> Sequence[Path]:
        """The files of the buildings."""

    def enter(self, env: int, start: Start, pose: NDArray[np.float64]) -> None:
        """Put a body into the building of an episode, at its start or, when it is resumed, wherever it was."""

    def act(self, env: int, action: int) -> bool:
        """Carry out an action: update the pose, return whether something was in the way."""

    def distance(self, env: int) -> float:
        """Return the geodesic distance to the goal in metres, inf where it cannot be reached."""

    def images(self, envs: NDArray[np.int64], channels: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return what some bodies see: (K, H, W, ...) for each channel, `rgb` or `depth`."""

    def view(self, envs: NDArray[np.int64], poses: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return what some bodies would see from other poses (K, 4): uint8 (K, H, W, 3)."""

    def goal_readings(self, envs: NDArray[np.int64], goals: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return where some bodies find their goals (K, 3): (K, 3), see `PointGoal`."""

    def expert_action(self, env: int) -> int:
        """Return the action of the shortest-path follower."""

    def close(self) -> None:
        """Free what the simulator holds."""
