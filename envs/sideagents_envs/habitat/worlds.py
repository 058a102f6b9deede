"""Buildings that habitat-lab's simulators in one process share, each with one walkable space and a few cameras."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.config import CameraConfig, NavMeshConfig
from sideagents_envs.errors import SceneError
from sideagents_envs.scenes.stage import SUFFIX, UP_AXES, is_staged, with_up
from sideagents_envs.simulators.embedded import EmbeddedWorld
from sideagents_envs.walk.navmesh import NavMesh

_WORLDS: dict[tuple[CameraConfig, NavMeshConfig], EmbeddedWorld] = {}


@dataclass(frozen=True)
class Building:
    """One building in a process."""

    path: Path
    config: NavMeshConfig
    navmesh: NavMesh

    def render(self, camera: CameraConfig, pose: NDArray[np.float64], channel: str) -> NDArray[Any]:
        """Return what a camera sees from one pose (4,): (H, W, ...)."""
        world = _world(camera, self.config, self.path)
        scene = np.array([world.number(self.path)])
        image: NDArray[Any] = world.render(scene, pose[None], (channel,))[channel][0]
        return image


def _world(camera: CameraConfig, config: NavMeshConfig, path: Path) -> EmbeddedWorld:
    key = (camera, config)
    if key not in _WORLDS:
        _WORLDS[key] = EmbeddedWorld([path], camera, config)
    return _WORLDS[key]


def open_building(path: Path, config: NavMeshConfig) -> Building:
    """Return a building; its walkable space is made when it is not known. Raises SceneError."""
    world = _world(CameraConfig(), config, path)
    return Building(path, config, world.navmesh(world.number(path)))


def note_of_axis(scene: str) -> str:
    """Return what an error adds where a building has Z up for want of a stage configuration, else nothing."""
    path = Path(os.path.expanduser(scene))
    if is_staged(path) or not path.is_file():
        return ""
    axes = {"render_asset": path.name, "up": UP_AXES["y"][0], "front": UP_AXES["y"][1]}
    return (
        f"; habitat-lab opens a bare .glb with Z up, one with Y up needs the file {path.stem}{SUFFIX} beside it: "
        f"{json.dumps(axes)}"
    )


def find_scene(scene: str) -> Path:
    """Return the file that a habitat-lab scene id names.

    Without a stage configuration a `.glb` has Z up, as in habitat-sim. Where the file has compressed textures
    (`NAME.basis.glb`), which are not read, the uncompressed `NAME.glb` beside it is taken.
    Raises SceneError when the file is missing.
    """
    path = Path(os.path.expanduser(scene))
    if path.name.endswith(".basis.glb"):
        plain = path.with_name(path.name.removesuffix(".basis.glb") + ".glb")
        path = plain if plain.is_file() else path
    if not path.is_file():
        raise SceneError(
            f"{scene}: no such building; habitat.dataset.scenes_dir names the folder of the scenes (from {Path.cwd()})"
        )
    return path if is_staged(path) else with_up(path, "z")
