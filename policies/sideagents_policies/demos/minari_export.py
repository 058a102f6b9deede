"""Demonstrations as a Minari data set, where Minari is installed: it needs numpy 2, which habitat-lab forbids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sideagents.errors import SideAgentsError
from sideagents_envs.sensors.spaces import NO_ACTION, action_space
from sideagents_envs.task.tasks import observation_space
from sideagents_policies.config import AgentConfig
from sideagents_policies.demos.collect import Trajectory, check_fits, read_demos
from sideagents_policies.demos.frames import DemoReader


def export_minari(folder: Path, config: AgentConfig, dataset_id: str) -> str:
    """Write the demonstrations in `folder` to Minari's store as `dataset_id` (such as `pointnav/expert-v0`).

    Observations are those of the bare environment: rgb, map, goal. The automatic stop, which is no action, ends an
    episode: its reward is added to the last action's. Where an episode ended otherwise the last observation is
    repeated, for the one after it was not kept. Returns the id. Raises `SideAgentsError` without Minari, for a bad id,
    or one that is taken.
    """
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
    except ImportError:
        raise SideAgentsError(
            'Minari is not installed (pip install "minari[hdf5]"; it needs numpy 2, so not beside habitat-lab)'
        ) from None
    check_fits(folder, config)
    space = observation_space(config.camera, config.task)
    reader = DemoReader(config, space, None, torch.device("cpu"))
    buffers = [
        EpisodeBuffer(id=number, **_episode(trajectory, reader.readings(trajectory)))
        for number, trajectory in enumerate(read_demos(folder))
    ]
    try:
        minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            observation_space=space,
            action_space=action_space(config.task),
            algorithm_name="shortest-path follower",
            description=f"PointNav demonstrations in {config.scenes.dataset} buildings",
            jpeg_encoding=False,
        )
    except (ValueError, ImportError) as error:
        raise SideAgentsError(f"Minari refuses {dataset_id!r}: {' '.join(str(error).split())}") from None
    return dataset_id


def _episode(trajectory: Trajectory, observations: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return T + 1 observations, T actions, rewards and ends."""
    actions, rewards = trajectory.actions.astype(np.int64), trajectory.rewards.astype(np.float64)
    if actions[-1] == NO_ACTION:
        actions, last = actions[:-1], rewards[-1]
        rewards = rewards[:-1].copy()
        rewards[-1:] += last
    else:
        observations = {key: np.concatenate([values, values[-1:]]) for key, values in observations.items()}
    ends = np.zeros(len(actions), bool)
    ends[-1:] = True
    return {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "terminations": ends & trajectory.success,
        "truncations": ends & (not trajectory.success),
    }
