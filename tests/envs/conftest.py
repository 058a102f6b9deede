"""What several tests of environments use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dataset_on_disk import SHORT, lent_dataset
from sideagents_envs.batch.vec import PointNavVecEnv, make_vec
from sideagents_envs.config import ScenesConfig
from square_room import CAMERA


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScenesConfig]:
    """A small dataset, with a cache of its own for the life of the module."""
    yield from lent_dataset(tmp_path_factory.mktemp("dataset"))


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
