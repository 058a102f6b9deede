"""A small dataset in the layout of the bundled one, for the tests: 3 training buildings, 2 held out, 6 episodes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from glb import box, quad, write_glb
from sideagents_envs.buildings.generator import make_building
from sideagents_envs.config import NavMeshConfig, ScenesConfig, TaskConfig
from sideagents_envs.episodes.files import generate_episodes, write_episodes
from sideagents_envs.walk.navmesh import cached_navmesh

SHORT = TaskConfig(max_steps=12)
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


ROOMS = {"Adrian": 5.0, "Bolton": 7.0, "Clark": 9.0}


def make_habitat_dataset(tmp_path: Path) -> ScenesConfig:
    """Scans with Z up and a training split of one file per building, as Habitat's users have them on disk."""
    scenes, lists = tmp_path / "scene_datasets", tmp_path / "datasets" / "train"
    (lists / "content").mkdir(parents=True)
    for name, width in ROOMS.items():
        folder = scenes / "gibson" / f"000-{name}"
        folder.mkdir(parents=True)
        floor = [(0, 0, 0), (width, 0, 0), (width, 5, 0), (0, 5, 0)]
        path = write_glb(folder / f"{name}.glb", [quad(*floor), box((2, 2, 0), (2.5, 3, 2))])
        turned = folder / "turned.stage_config.json"
        turned.write_text(json.dumps({"render_asset": path.name, "up": [0, 0, 1], "front": [0, 1, 0]}))
        episodes = generate_episodes(cached_navmesh(turned), f"gibson/000-{name}/{name}.basis.glb", 12, seed=1)
        write_episodes(lists / "content" / f"{name}.json.gz", episodes)
        turned.unlink()
        shutil.copy(path, folder / f"{name}.basis.glb")
    write_episodes(lists / "train.json.gz", [])
    return ScenesConfig(dataset=str(scenes), episodes=str(lists.parent / "{split}" / "{split}.json.gz"), up="z")
