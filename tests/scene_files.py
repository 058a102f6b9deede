"""Scenes from a file that is written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glb import Builder, Part, quad, write_glb
from sideagents_envs.scenes.scene import SceneMesh, load_scene

SQUARE = ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0))


def load(folder: Path, *parts: Part, name: str = "house") -> SceneMesh:
    return load_scene(write_glb(folder / f"{name}.glb", list(parts)))


def edit(folder: Path, change: Any, part: Part | None = None) -> Path:
    """A file whose JSON tree was changed after it was built."""
    builder = Builder()
    builder.tree["scenes"][0]["nodes"] = [builder.node(part or quad(*SQUARE, name="wall"))]
    change(builder.tree)
    path = folder / "house.glb"
    path.write_bytes(builder.data())
    return path
