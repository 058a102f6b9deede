"""What several tests of environments read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataset_on_disk import lent_dataset
from sideagents_envs.config import ScenesConfig


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScenesConfig]:
    """A small dataset, with a cache of its own for the life of the module."""
    yield from lent_dataset(tmp_path_factory.mktemp("dataset"))
