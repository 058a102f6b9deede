"""A simulator without geometry, for the tests: an empty 10 m square room, whose distances are straight lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np

HALF = 5.0


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
