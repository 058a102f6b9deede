"""Procedural buildings: floor plans, furniture, textures and light from a seed, written as `.glb`."""

from sideagents_envs.buildings.generator import GENERATOR_VERSION, make_building

__all__ = ["GENERATOR_VERSION", "make_building"]
