"""What can be done, and the numbers that observations and kernels share."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sideagents_envs.config import TaskConfig
from sideagents_envs.errors import EnvsError

Observation = dict[str, NDArray[Any]]

FORWARD, LEFT, RIGHT, STOP = range(4)
ACTION_NAMES = ("move_forward", "turn_left", "turn_right", "stop")  # what habitat-lab calls them, in order
NO_ACTION = -1  # of an expert where the episode ends by itself
FURTHEST_GOAL_M = 10_000.0
FURTHEST_DEPTH_M = 1_000.0
MAP_CHANNELS = 2  # of three: visited places and the goal; the third is kept because the paper's code has it
MAP_BACKGROUND = 128
MAP_MARK = 255


def action_space(task: TaskConfig) -> spaces.Discrete:
    """Return forward, left, right, and with `stop: explicit` stop."""
    return spaces.Discrete(4 if task.stop == "explicit" else 3)


def checked_actions(actions: Any, n_envs: int, space: spaces.Discrete) -> NDArray[Any]:
    """Return the actions as an array (N,); raises EnvsError when one is not an integer of the action space."""
    array: NDArray[Any] = np.asarray(actions)
    integers = array.shape == (n_envs,) and array.dtype.kind in "iu"
    if not integers or array.min() < 0 or array.max() >= space.n:
        raise EnvsError(f"actions must be {n_envs} integers from 0 to {space.n - 1}, got {array.tolist()}")
    return array
