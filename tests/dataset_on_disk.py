"""A small dataset in the layout of the bundled one, for the tests: 3 training buildings, 2 held out, 6 episodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sideagents_envs.buildings.generator import make_building
from sideagents_envs.config import NavMeshConfig, ScenesConfig
from sideagents_envs.episodes import generate_episodes, write_episodes
from sideagents_envs.navmesh import cached_navmesh

NAMES = {"train": ("Ash", "Bay", "Cob"), "val": ("Dew", "Elm")}


def make_dataset(folder: Path) -> ScenesConfig:
    """Write the buildings and `episodes/val.json.gz`; return the settings that use them."""
    for number, (split, name) in enumerate((split, name) for split, names in NAMES.items() for name in names):
        (folder / split).mkdir(parents=True, exist_ok=True)
        make_building(number, folder / split / f"{name}.glb")
    episodes = []
    for name in NAMES["val"]:
        navmesh = cached_navmesh(folder / "val" / f"{name}.glb", NavMeshConfig())
        episodes += generate_episodes(navmesh, f"val/{name}.glb", 3, seed=1, first_id=len(episodes))
    write_episodes(folder / "episodes" / "val.json.gz", episodes)
    return ScenesConfig(dataset=str(folder))


def lent_dataset(folder: Path) -> Iterator[ScenesConfig]:
    """Make a dataset with a cache of its own, both in `folder`, for the life of a fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIDEAGENTS_CACHE", str(folder / "cache"))
        yield make_dataset(folder)
