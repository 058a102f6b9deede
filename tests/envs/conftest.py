"""What several tests of environments use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dataset_on_disk import SHORT
from sideagents_envs.batch.vec import PointNavVecEnv, make_vec
from sideagents_envs.config import ScenesConfig
from square_room import CAMERA


@pytest.fixture
def vec(scenes: ScenesConfig) -> Iterator[Callable[..., PointNavVecEnv]]:
    """Makes environments and closes them after the test."""
    made: list[PointNavVecEnv] = []

    def make(n_envs=4, **options):
        made.append(make_vec(n_envs, **({"scenes": scenes, "camera": CAMERA, "task": SHORT} | options)))
        return made[-1]

    yield make
    for env in made:
        env.close()
