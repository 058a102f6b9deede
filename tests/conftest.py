"""What holds for all tests, and what several of them read."""

from __future__ import annotations

import os

# No test may wait for the model hub, which is asked five times where there is no network; before transformers loads.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Which test compiles the simulator first depends on the order: its line would be the first of another's errors.
os.environ.setdefault("SIDEAGENTS_TOLD_OF_COMPILING", "1")

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar_files import put_colours
from dataset_on_disk import lent_dataset
from folder_contents import contents
from sideagents_envs.config import ScenesConfig
from small_agent import make_homes


@pytest.fixture(autouse=True)
def _leave_generators_as_they_were() -> Iterator[None]:
    """Training seeds the global generators; other tests must not notice."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.get_num_threads()  # noqa: NPY002
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    torch.set_num_threads(states[3])


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The overrides of a small agent, data included."""
    folder = tmp_path_factory.mktemp("homes")
    overrides = make_homes(folder)
    before = list(overrides), contents(folder)
    yield overrides
    after = contents(folder)
    changed = {str(path) for path in before[1].keys() | after.keys() if before[1].get(path) != after.get(path)}
    assert (overrides, changed) == (before[0], set()), "a test has changed what all tests read"


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of coloured images in CIFAR-100's files; a module's tests share the codes in its `codes`."""
    return put_colours(tmp_path_factory.mktemp("cifar"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScenesConfig]:
    """A small dataset, with a cache of its own for the life of the module."""
    yield from lent_dataset(tmp_path_factory.mktemp("dataset"))
