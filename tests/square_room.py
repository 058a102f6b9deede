"""A simulator without geometry, for the tests: an empty 10 m square room, whose distances are straight lines.

And batches of environments in it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from sideagents_envs.batch.navigation_batch import NavigationBatch
from sideagents_envs.bodies.embedded_bodies import EmbeddedBodies
from sideagents_envs.config import CameraConfig, TaskConfig
from sideagents_envs.episodes.files import Episode, rotation_of
from sideagents_envs.episodes.sources import EpisodeList, TrainingEpisodes
from sideagents_envs.task.tasks import make_task

HALF = 5.0
CAMERA = CameraConfig(width=36, height=36)


class StraightField:
    def __init__(self, goal):
        self.goal = np.asarray(goal, float)

    def value(self, point):
        return float(np.linalg.norm(np.asarray(point, float) - self.goal))

    def values(self, points):
        return np.linalg.norm(np.asarray(points, float) - self.goal, axis=1)


class SquareRoom:
    """Walkable: |x|, |z| <= 5 m, floor at 0; walking into a wall slides along it."""

    def try_step(self, start, end, allow_sliding=True):
        end = np.asarray(end, float)
        inside = np.clip(end, [-HALF, 0.0, -HALF], [HALF, 0.0, HALF])
        blocked = bool(np.abs(inside - end).max() > 1e-9)
        return (np.asarray(start, float).copy() if blocked and not allow_sliding else inside), blocked

    def snap(self, point):
        return np.clip(np.asarray(point, float), [-HALF, 0.0, -HALF], [HALF, 0.0, HALF])

    def is_navigable(self, point):
        return bool(np.abs(np.asarray(point)[[0, 2]]).max() <= HALF)

    def island(self, point):
        return 0

    def sample(self, rng, n):
        points = rng.uniform(-HALF, HALF, (n, 3))
        points[:, 1] = 0.0
        return points

    def distance_field(self, goal):
        return StraightField(goal)


class SquareSimulator:
    """Buildings that all are the square room; an image is a number made of the building and the pose."""

    def __init__(self, names=("room",), size=36):
        self.paths = [Path(f"{name}.glb") for name in names]
        self.size = size
        self.calls = []

    def navmesh(self, scene):
        return SquareRoom()

    def render(self, scenes, poses, channels=("rgb",)):
        self.calls.append(len(poses))
        shade = (np.abs(poses).sum(axis=1) * 1000 + scenes).astype(np.int64) % 255
        shape = (len(poses), self.size, self.size)
        rgb = np.broadcast_to(shade[:, None, None, None], (*shape, 3)).astype(np.uint8)
        return {"rgb": rgb, "depth": np.full(shape, 2.0, np.float32)}


def batch_of(simulator, source, n, task):
    """The environments of a task in a simulator's buildings."""
    return NavigationBatch(EmbeddedBodies(simulator, n, task), source, n, make_task(CAMERA, task))


def room(start, goal, yaw=0.0, n=1, **task):
    """A batch in the square room, every environment at the start of the same episode."""
    episode = Episode("e", "room", np.array([start[0], 0, start[1]], float), rotation_of(yaw), np.zeros(3))
    episode.goal[[0, 2]] = goal
    simulator = SquareSimulator()
    batch = batch_of(simulator, EpisodeList(simulator, [(0, episode)], "F"), n, TaskConfig(**task))
    for env in range(n):
        batch.begin(env)
    return batch


def training(names, n=3, seed=0, per_building=2, **task):
    simulator = SquareSimulator(names)
    source = TrainingEpisodes(simulator, names, n, seed, episodes_per_building=per_building)
    batch = batch_of(simulator, source, n, TaskConfig(**{"max_steps": 25} | task))
    for env in range(n):
        batch.begin(env)
    return batch


def play(batch, actions):
    return [batch.step(np.array([action])) for action in actions]


def continued(batch, actions):
    log = []
    for row in actions:
        result = batch.step(row)
        observation = batch.observe()
        log.append((result.rewards.tobytes(), observation["rgb"].tobytes(), observation["map"].tobytes()))
        log.append((observation["goal"].tobytes(), json.dumps(result.infos)))
        for env in np.flatnonzero(result.terminated | result.truncated):
            batch.begin(int(env))
    return log


def plain(state):
    """The state as a checkpoint would hold it: arrays as they are, the rest through JSON."""
    return {key: v.copy() if isinstance(v, np.ndarray) else json.loads(json.dumps(v)) for key, v in state.items()}
