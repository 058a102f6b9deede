"""Procedural buildings: floor plans, furniture, textures and light from a seed, written as ordinary `.glb` files."""

from sideagents_envs.buildings.bundled import (
    BUNDLED_SPLITS,
    chosen_buildings,
    dataset_name,
    ensure_bundled,
    episodes_file,
    scenes_root,
)
from sideagents_envs.buildings.generator import GENERATOR_VERSION, make_building

__all__ = [
    "BUNDLED_SPLITS",
    "GENERATOR_VERSION",
    "chosen_buildings",
    "dataset_name",
    "ensure_bundled",
    "episodes_file",
    "make_building",
    "scenes_root",
]
