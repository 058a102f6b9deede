from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glb import box, write_glb
from sideagents_envs.errors import SceneError
from sideagents_envs.scenes.scene import load_scene, scene_digest
from sideagents_envs.scenes.stage import SUFFIX, find_stage, with_up


def room(folder: Path, config: Any = None) -> Path:
    """A box of 1 x 2 x 3 m, with a stage configuration beside it when one is given."""
    path = write_glb(folder / "room.glb", [box((0, 0, 0), (1, 2, 3))])
    if config is not None:
        path.with_name(f"room{SUFFIX}").write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def size(path: Path) -> list[float]:
    low, high = load_scene(path).bounds
    return [round(float(v), 4) for v in high - low]


def test_without_a_stage_configuration_y_is_up(tmp_path: Path) -> None:
    assert find_stage(room(tmp_path)).rotation is None
    assert size(tmp_path / "room.glb") == [1, 2, 3]


def test_what_habitat_writes_for_scans_turns_z_up(tmp_path: Path) -> None:
    path = room(tmp_path, {"render_asset": "room.glb", "up": [0, 0, 1], "front": [0, 1, 0]})
    # (x, y, z) of the file becomes (x, z, -y)
    np.testing.assert_allclose(load_scene(path).bounds, [[0, 0, -2], [1, 3, 0]], atol=1e-6)
    assert size(path.with_name(f"room{SUFFIX}")) == [1, 3, 2]  # the configuration stands for the building


def test_the_same_axes_as_gltf_change_nothing(tmp_path: Path) -> None:
    plain = scene_digest(room(tmp_path))
    assert scene_digest(room(tmp_path, {"render_asset": "room.glb", "up": [0, 1, 0], "front": [0, 0, -1]})) == plain
    assert scene_digest(room(tmp_path, {"render_asset": "room.glb", "up": [0, 0, 1], "front": [0, 1, 0]})) != plain


def test_an_axis_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDEAGENTS_CACHE", str(tmp_path / "cache"))
    path = room(tmp_path)
    assert with_up(path, "auto") == path
    assert size(with_up(path, "z")) == [1, 3, 2]
    assert size(with_up(path, "y")) == [1, 2, 3]
    assert with_up(path, "z") == with_up(path, "z") != with_up(path, "y")
    assert with_up(path, "z").name == f"room{SUFFIX}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        ({"up": [0, 0, 1]}, "has no render_asset"),
        ({"render_asset": "room.glb", "up": "z"}, "up must be three numbers, got 'z'"),
        ({"render_asset": "room.glb", "front": [0, 0, 0]}, "front must be three numbers"),
        ({"render_asset": "room.glb", "up": [0, 0, 1]}, "at right angles"),
        ({"render_asset": "room.glb", "scale": [2, 2, 2]}, "scale and units_to_meters"),
        ({"render_asset": "room.glb", "scale": "large"}, "scale and units_to_meters"),
        ({"render_asset": "room.glb", "units_to_meters": None}, "scale and units_to_meters"),
        ({"render_asset": ""}, "has no render_asset"),
        ("[" * 100_000, "is not JSON"),
        ("9" * 10_000, "is not JSON"),
        ('{"render_asset": "room.glb", "up": [1' + "0" * 400 + ", 0, 0]}", "up must be three numbers"),
        ({"render_asset": "room.glb", "up": [1.7e308, 1.7e308, 0]}, "up must be three numbers"),
        ({"render_asset": "room.glb", "up": [[[0]]] * 3}, "up must be three numbers"),
        (" " * 2**21, "a stage configuration has at most 1 MB"),
    ],
)
def test_bad_stage_configurations(tmp_path: Path, content: Any, message: str) -> None:
    path = room(tmp_path, content)
    with pytest.raises(SceneError, match=message) as caught:
        load_scene(path)
    assert SUFFIX in str(caught.value)


def test_a_configuration_without_its_building(tmp_path: Path) -> None:
    path = tmp_path / f"lost{SUFFIX}"
    path.write_text(json.dumps({"render_asset": "lost.glb"}))
    with pytest.raises(SceneError, match=r"lost\.glb"):
        load_scene(path)
    with pytest.raises(SceneError, match="no such file; a stage configuration is needed"):
        load_scene(tmp_path / f"nothing{SUFFIX}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other" + SUFFIX, "not a binary glTF file"),  # a configuration of a configuration
        ("..", "is a folder"),
        ("/dev/zero", "is a pipe or a device"),
        ("pipe", "is a pipe or a device"),
        ("n\0ul", "cannot be the name of a file"),
        ("\ud800", "cannot be the name of a file"),
        ("n" * 5000, "cannot be read"),
    ],
)
def test_odd_names_of_buildings(tmp_path: Path, name: str, message: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for own in ("odd", "other"):
        (tmp_path / f"{own}{SUFFIX}").write_text(json.dumps({"render_asset": name}))
    with pytest.raises(SceneError, match=message) as caught:
        load_scene(tmp_path / f"odd{SUFFIX}")
    assert "\n" not in str(caught.value)


def test_a_pipe_beside_a_building_is_not_waited_on(tmp_path: Path) -> None:
    path = room(tmp_path)
    os.mkfifo(tmp_path / f"room{SUFFIX}")
    with pytest.raises(SceneError, match="is a pipe or a device; a stage configuration is needed"):
        load_scene(path)
