"""What several tests of agents read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sideagents_policies.agent.checks import default_config
from sideagents_policies.train.reinforcement import train


@pytest.fixture(scope="session")
def trained_once(homes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few updates, for `tiny_run` alone."""
    return train(default_config([*homes, f"runs={tmp_path_factory.mktemp('runs')}", "name=tiny"]))


@pytest.fixture(scope="module")
def tiny_run(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module's own copy of a run of a few updates: what it has learned does not matter."""
    return shutil.copytree(trained_once, tmp_path_factory.mktemp("runs") / trained_once.name)
