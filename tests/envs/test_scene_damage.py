"""Scene files that are damaged or hostile: one clear line, within seconds, and no program is started."""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sideagents_envs.scenes.scene as scene_module
from foreign_program import POSTSCRIPT, ghostscript_in_the_path
from glb import Builder, Part, quad, write_glb
from scene_files import SQUARE, edit, load
from sideagents_envs.errors import SceneError
from sideagents_envs.scenes.scene import load_scene, scene_digest


def set_item(*keys: Any, value: Any) -> Any:
    def change(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_item("scenes", 0, "nodes", value=[]), "no triangles"),
        (set_item("scenes", 0, "nodes", value=[8]), r"nodes\[8\], but the file has 1 nodes"),
        (set_item("scenes", 0, "nodes", value=[-1]), r"nodes\[-1\]"),
        (set_item("nodes", 0, "children", value=[0]), "its own ancestor"),
        (set_item("nodes", 0, "matrix", value=[1, 2, 3]), "malformed"),
        (set_item("nodes", 0, "translation", value=[0, float("nan"), 0]), "4 of 4 vertices are nan"),
        (set_item("nodes", 0, "scale", value="big"), "malformed"),
        (set_item("nodes", 0, "rotation", value=[None, 0, 0, 1]), "nan"),
        (set_item("materials", 0, "pbrMetallicRoughness", "baseColorFactor", value=[None, 1, 1, 1]), "baseColorFactor"),
        (set_item("accessors", 0, "count", value=400), r"accessors\[0\] needs 4800 bytes"),
        (set_item("accessors", 0, "componentType", value=1), r"accessors\[0\] has no valid componentType"),
        (set_item("accessors", 0, "type", value="SCALAR"), r"accessors\[0\] has 1 columns, expected 3"),
        (set_item("accessors", 2, "byteOffset", value=4), r"accessors\[2\] needs"),
        (set_item("bufferViews", 0, "byteLength", value=10**6), "cut off or damaged"),
        (set_item("bufferViews", 0, "buffer", value=1), r"buffers\[1\]"),
        (set_item("meshes", 0, "primitives", 0, "attributes", value={}), "missing 'POSITION'"),
        (set_item("meshes", 0, "primitives", 0, "indices", value=0), "a triangle refers to vertex|columns"),
        (set_item("extensionsRequired", value=["KHR_draco_mesh_compression"]), "KHR_draco_mesh_compression"),
        (set_item("materials", 0, "pbrMetallicRoughness", "baseColorFactor", value="red"), "malformed"),
        (set_item("nodes", value={"0": {}}), "malformed"),
    ],
)
def test_bad_trees(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(SceneError, match=message) as caught:
        load_scene(edit(tmp_path, change))
    assert "house.glb" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_index_and_bad_vertex(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"house\.glb: a triangle refers to vertex 7 of 4"):
        load(tmp_path, Part(SQUARE, [(0, 1, 7)]))
    with pytest.raises(SceneError, match=r"house\.glb: 1 of 3 vertices are nan or infinite"):
        load(tmp_path, Part([(0, 0, 0), (1, np.inf, 0), (0, 0, 1)], [(0, 1, 2)]))


def test_bad_files(tmp_path: Path) -> None:
    good = write_glb(tmp_path / "good.glb", [quad(*SQUARE, texture=np.zeros((4, 4, 3)))]).read_bytes()
    bad_json = bytearray(good)
    bad_json[20:24] = b"{{{{"
    broken_image = good.replace(b"\x89PNG", b"\x88PNG")
    assert broken_image != good
    cases = {
        "empty": (b"", "not a binary glTF"),
        "text": (b"hello world, this is no building", "not a binary glTF"),
        "json": (json.dumps({"asset": {"version": "2.0"}}).encode(), "not a binary glTF"),
        "version": (good[:4] + struct.pack("<I", 1) + good[8:], "version 1"),
        "short": (good[: len(good) // 2], f"cut off: {len(good) // 2} of {len(good)} bytes"),
        "header": (good[:12], "cut off"),
        "chunk": (good[:12] + struct.pack("<I", 10**6) + good[16:], "ends beyond"),
        "tree": (bytes(bad_json), "JSON chunk cannot be parsed"),
        "image": (broken_image, r"images\[0\] cannot be decoded"),
    }
    for name, (data, message) in cases.items():
        path = tmp_path / f"{name}.glb"
        path.write_bytes(data)
        with pytest.raises(SceneError, match=message) as caught:
            load_scene(path)
        assert f"{name}.glb" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(SceneError, match=r"none\.glb: no such file"):
        load_scene(tmp_path / "none.glb")
    for folder in (tmp_path, Path("."), Path("/")):
        with pytest.raises(SceneError, match=r"is a folder; a binary glTF file \(\.glb\) is needed"):
            load_scene(folder)


def test_truncation_anywhere_is_one_clear_error(tmp_path: Path) -> None:
    data = write_glb(tmp_path / "good.glb", [quad(*SQUARE, texture=np.zeros((4, 4, 3)))]).read_bytes()
    path = tmp_path / "cut.glb"
    for length in range(0, len(data), 37):
        # the header's total is mended, so that the cut is found further in
        path.write_bytes(data[:8] + struct.pack("<I", length) + data[12:length] if length >= 12 else data[:length])
        with pytest.raises(SceneError, match=r"cut\.glb"):
            load_scene(path)


def many_nodes(count: int) -> Any:
    def change(tree: dict[str, Any]) -> None:
        tree["nodes"] = [{"mesh": 0, "translation": [i % 100, i // 100, 0]} for i in range(count)]
        tree["scenes"][0]["nodes"] = list(range(count))

    return change


def test_thirty_thousand_nodes_on_one_mesh_take_seconds(tmp_path: Path) -> None:
    path = edit(tmp_path, many_nodes(30_000))
    began = time.process_time()
    assert load_scene(path).n_triangles == 60_000
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("limit", "value", "change", "message"),
    [
        ("MOST_TRIANGLES", 199, many_nodes(100), "shows 200 triangles in all, at most 199 are supported"),
        ("_MOST_VERTICES", 399, many_nodes(100), "shows 400 vertices in all"),
        ("_MOST_PARTS", 99, many_nodes(100), "has more than 99 nodes"),
        (
            "_MOST_PARTS",
            99,
            set_item("meshes", 0, "primitives", value=[{"attributes": {"POSITION": 0}}] * 100),
            "parts",
        ),
        ("MOST_TRIANGLES", 10**7, set_item("accessors", 2, "count", value=10**9), "shows 333,333,333 triangles"),
        ("_MOST_VERTICES", 10**7, set_item("accessors", 0, "count", value=10**12), "1,000,000,000,000 vertices"),
    ],
)
def test_what_a_file_unfolds_to_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, change: Any, message: str
) -> None:
    monkeypatch.setattr(scene_module, limit, value)
    with pytest.raises(SceneError, match=message):
        load_scene(edit(tmp_path, change))


def test_accessors_without_data_are_limited(tmp_path: Path) -> None:
    def noughts(tree: dict[str, Any]) -> None:
        tree["accessors"][1] = {"componentType": 5126, "type": "VEC2", "count": 10**9}  # texture coordinates

    part = quad(*SQUARE, texture=np.zeros((1, 1, 3)))
    with pytest.raises(SceneError, match=r"accessors\[1\] declares 1,000,000,000 rows that have no data"):
        load_scene(edit(tmp_path, noughts, part))


def test_texels_are_limited_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [quad(*SQUARE, texture=np.full((8, 8, 3), shade)) for shade in range(4)]
    monkeypatch.setattr("sideagents_envs.scenes.gltf._MOST_TEXELS", 4 * 64)
    assert len(load(tmp_path, *parts).textures) == 4
    monkeypatch.setattr("sideagents_envs.scenes.gltf._MOST_TEXELS", 4 * 64 - 1)
    with pytest.raises(SceneError, match=r"images\[3\] cannot be decoded \(8 x 8 pixels, but 63 are left of what all"):
        load(tmp_path, *parts)


def test_a_texture_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = ghostscript_in_the_path(tmp_path, monkeypatch)
    builder = Builder()
    builder.tree["scenes"][0]["nodes"] = [builder.node(quad(*SQUARE, texture=np.zeros((1, 1, 3))))]
    builder.tree["images"][0]["bufferView"] = builder.view(POSTSCRIPT)
    (tmp_path / "house.glb").write_bytes(builder.data())
    with pytest.raises(SceneError, match=r"images\[0\] cannot be decoded \(it is none of PNG, JPEG, WEBP\)"):
        load_scene(tmp_path / "house.glb")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            quad(*SQUARE, texture=np.zeros((1, 1, 3)), uv=[(1e38, 0), (-1e38, 0), (0, 1), (1, 1)]),
            "coordinates up to 1e",
        ),
        (
            quad(
                *SQUARE,
                texture=np.zeros((1, 1, 3)),
                texture_info={"extensions": {"KHR_texture_transform": {"scale": [1e38, 1e38], "offset": [3e38, 0]}}},
            ),
            "texture coordinates up to",
        ),
        (Part([(0, 0, 0), (1, 0, 0), (0, 1e30, 0)], [(0, 1, 2)]), r"reaches 1e\+30 m from the origin"),
        (quad(*SQUARE, transform={"scale": [1e200, 1e200, 1e200]}), "vertices are nan or infinite"),
        (quad(*SQUARE, transform={"matrix": [1e300] * 16}), "vertices are nan or infinite"),
    ],
)
def test_numbers_beyond_reason_are_refused_without_a_warning(tmp_path: Path, part: Part, message: str) -> None:
    with pytest.raises(SceneError, match=message):  # a warning of numpy's would be an error here
        load(tmp_path, part)


def test_colours_beyond_reason_are_white(tmp_path: Path) -> None:
    colors = np.full((4, 3), 3e38, np.float32)
    scene = load(tmp_path, quad(*SQUARE, color=(1e300, 1, 0, 1), vertex_colors=colors))
    assert scene.colors[0, 0].tolist() == [255, 255, 0]


def test_special_files_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.glb")
    (tmp_path / "zero.glb").symlink_to("/dev/zero")
    for name in ("pipe.glb", "zero.glb"):
        for read in (load_scene, scene_digest):
            with pytest.raises(SceneError, match="is a pipe or a device"):
                read(tmp_path / name)
