"""Which way is up in a building's file: Habitat's `NAME.stage_config.json` beside it, or a given axis."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.cache import atomic_path, cache_dir
from sideagents_envs.errors import SceneError
from sideagents_envs.reading import MEGABYTE, read_regular, shortened

UpAxis = Literal["auto", "y", "z"]

SUFFIX = ".stage_config.json"
UP_AXES: dict[str, tuple[list[int], list[int]]] = {"y": ([0, 1, 0], [0, 0, -1]), "z": ([0, 0, 1], [0, 1, 0])}


@dataclass(frozen=True, eq=False)
class Stage:
    """A building's mesh file and the rotation (3, 3) that puts Y up and -Z ahead, None where the file does already."""

    asset: Path
    rotation: NDArray[np.float64] | None = None


def find_stage(path: str | Path) -> Stage:
    """Return what a `.glb`, or the stage configuration of one, stands for; glTF's own convention is Y up.

    A `.glb` with a stage configuration of its name beside it is turned as that says.
    Raises SceneError for a stage configuration that cannot be read or asks for what is not supported.
    """
    path = Path(path)
    if path.name.endswith(SUFFIX):
        return _read(path)
    return Stage(path, _read(_beside(path)).rotation) if is_staged(path) else Stage(path)


def is_staged(path: Path) -> bool:
    """Return whether a file is a stage configuration or has one of its name beside it: then that says what is up."""
    try:
        return path.name.endswith(SUFFIX) or (bool(path.name) and _beside(path).exists())
    except OSError:  # a name that is too long
        return False


def _beside(path: Path) -> Path:
    return path.with_name(path.stem + SUFFIX)


def with_up(path: Path, up: UpAxis) -> Path:
    """Return a file that stands for the building with the axis `up` upwards: with `auto` the given one.

    Else it is a stage configuration in the cache folder, which Habitat's simulator takes in place of the building too.
    """
    if up == "auto" or path.name.endswith(SUFFIX):
        return path
    top, front = UP_AXES[up]
    text = json.dumps({"render_asset": str(path.resolve()), "up": top, "front": front}) + "\n"
    file = cache_dir() / "stages" / hashlib.sha256(text.encode()).hexdigest()[:16] / f"{path.stem}{SUFFIX}"
    if not file.is_file():
        with atomic_path(file) as temporary:
            temporary.write_text(text)
    return file


def _read(path: Path) -> Stage:
    data = read_regular(path, "a stage configuration", MEGABYTE, SceneError)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{path}: is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise SceneError(f"{path}: must be an object with the key render_asset")
    name = content.get("render_asset")
    if not (isinstance(name, str) and name):
        raise SceneError(f"{path}: has no render_asset, the name of the building's .glb")
    if content.get("scale", [1, 1, 1]) != [1, 1, 1] or content.get("units_to_meters", 1) != 1:
        raise SceneError(f"{path}: scale and units_to_meters are not supported; scale the building when exporting it")
    up, front = (_axis(content, key, default, path) for key, default in zip(("up", "front"), UP_AXES["y"], strict=True))
    if abs(float(up @ front)) > 1e-6:
        raise SceneError(f"{path}: up and front must be at right angles, got {up.tolist()} and {front.tolist()}")
    rotation = np.stack([np.cross(front, up), up, -front])
    return Stage(path.parent / name, None if np.array_equal(rotation, np.eye(3)) else rotation)


def _axis(content: dict[str, Any], key: str, default: list[int], path: Path) -> NDArray[np.float64]:
    try:
        axis = np.array(content.get(key, default), np.float64)
        length = math.hypot(*axis) if axis.shape == (3,) else 0.0
    except (TypeError, ValueError, OverflowError):
        length = 0.0
    if not (math.isfinite(length) and length > 1e-6):
        raise SceneError(f"{path}: {key} must be three numbers, got {shortened(content.get(key))}")
    return np.asarray(axis / length)
