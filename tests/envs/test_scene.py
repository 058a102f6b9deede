from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

import sideagents_envs.scenes.scene as scene_module
from foreign_program import POSTSCRIPT, ghostscript_in_the_path
from glb import Builder, Part, box, quad, write_glb
from sideagents_envs.errors import SceneError
from sideagents_envs.scenes.scene import SceneMesh, load_scene, scene_digest

SQUARE = ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0))


def load(tmp_path: Path, *parts: Part) -> SceneMesh:
    return load_scene(write_glb(tmp_path / "house.glb", list(parts)))


def edit(tmp_path: Path, change: Any, part: Part | None = None) -> Path:
    """A file whose JSON tree was changed after it was built."""
    builder = Builder()
    builder.tree["scenes"][0]["nodes"] = [builder.node(part or quad(*SQUARE, name="wall"))]
    change(builder.tree)
    path = tmp_path / "house.glb"
    path.write_bytes(builder.data())
    return path


def test_plain_quad(tmp_path: Path) -> None:
    scene = load(tmp_path, quad(*SQUARE, name="wall", color=(1.0, 0.5, 0.0, 1.0)))
    assert (scene.name, scene.n_triangles, scene.path.name) == ("house", 2, "house.glb")
    np.testing.assert_array_equal(scene.vertices, np.array(SQUARE, np.float32))
    np.testing.assert_array_equal(scene.faces, [(0, 1, 2), (0, 2, 3)])
    np.testing.assert_array_equal(scene.bounds, [(0, 0, 0), (1, 1, 0)])
    np.testing.assert_array_equal(scene.colors, np.broadcast_to(np.array((255, 128, 0), np.uint8), (2, 3, 3)))
    assert scene.texture_id.tolist() == [-1, -1]
    assert not scene.unlit.any()
    dtypes = {key: getattr(scene, key).dtype.name for key in ("vertices", "faces", "uv", "colors", "semantic_id")}
    assert dtypes == {
        "vertices": "float32",
        "faces": "int32",
        "uv": "float32",
        "colors": "uint8",
        "semantic_id": "int32",
    }


def test_nested_transforms(tmp_path: Path) -> None:
    half = math.sqrt(0.5)
    child = Part(SQUARE, [(0, 1, 2)], transform={"scale": [2, 3, 4], "translation": [1, 0, 0]})
    parent = Part(SQUARE, [(0, 1, 2)], children=[child])
    # a quarter turn about +y takes +x to -z; then 10 m up
    parent.transform = {"rotation": [0, half, 0, half], "translation": [0, 10, 0]}
    scene = load(tmp_path, parent)
    np.testing.assert_allclose(scene.vertices[:4], [(0, 10, 0), (0, 10, -1), (0, 11, -1), (0, 11, 0)], atol=1e-6)
    np.testing.assert_allclose(scene.vertices[4:], [(0, 10, -1), (0, 10, -3), (0, 13, -3), (0, 13, -1)], atol=1e-6)


def test_matrix_is_column_major_and_mirrors_keep_the_outside(tmp_path: Path) -> None:
    moved = Part(SQUARE, [(0, 1, 2)], transform={"matrix": [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 5, 6, 7, 1]})
    scene = load(tmp_path, moved)
    np.testing.assert_allclose(scene.vertices, [(5, 6, 7), (4, 6, 7), (4, 7, 7), (5, 7, 7)])
    a, b, c = scene.vertices[scene.faces[0]]
    assert np.cross(b - a, c - a)[2] > 0  # it faced +z before the mirror in x, and does so after it


def test_same_positions_as_trimesh(tmp_path: Path) -> None:
    spin = {"rotation": [0.1, 0.2, 0.3, math.sqrt(1 - 0.14)], "scale": [1, 2, 0.5], "translation": [3, -1, 2]}
    parts = [
        box((0, 0, 0), (1, 2, 3), name="a", transform=spin, children=[box((1, 1, 1), (2, 2, 2), name="b")]),
        quad(*SQUARE, name="c", transform=spin),
    ]
    scene = load(tmp_path, *parts)
    other: Any = trimesh.load_scene(scene.path).to_geometry()
    ours = trimesh.Trimesh(scene.vertices, scene.faces, process=False)
    assert ours.area == pytest.approx(other.area, rel=1e-5)
    np.testing.assert_allclose(ours.bounds, other.bounds, atol=1e-5)
    np.testing.assert_allclose(
        sorted(map(tuple, ours.triangles_center)), sorted(map(tuple, other.triangles_center)), atol=1e-5
    )


def test_textures_colors_and_unlit(tmp_path: Path) -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    red, gray = np.array([(1, 0, 0)] * 4, np.float32), np.full((4, 4), 51, np.uint8)
    scene = load(
        tmp_path,
        quad(*SQUARE, texture=image, color=(1.0, 0.5, 1.0, 1.0)),
        quad(*SQUARE, vertex_colors=red),
        quad(*SQUARE, vertex_colors=gray, texture=image, color=(0.5, 1.0, 1.0, 1.0)),
        quad(*SQUARE, unlit=True),
        quad(*SQUARE),
    )
    assert scene.texture_id.tolist() == [0, 0, -1, -1, 1, 1, -1, -1, -1, -1]
    np.testing.assert_array_equal(scene.textures[0], image)
    np.testing.assert_array_equal(
        scene.colors[::2, 0], [(255, 128, 255), (255, 0, 0), (26, 51, 51), (255,) * 3, (255,) * 3]
    )
    assert scene.unlit[::2].tolist() == [True, True, True, True, False]
    np.testing.assert_array_equal(scene.uv[0], [(0, 1), (1, 1), (1, 0)])
    assert not scene.uv[2:4].any()


def test_texture_transform_and_second_coordinates(tmp_path: Path) -> None:
    info = {"extensions": {"KHR_texture_transform": {"offset": [0.25, 0], "scale": [2, 4], "rotation": math.pi / 2}}}
    part = quad(*SQUARE, texture=np.zeros((2, 2, 3)), uv=[(0, 0), (1, 0), (0, 1), (1, 1)], texture_info=info)
    scene = load(tmp_path, part)
    # (1, 0) -> scaled (2, 0) -> turned (0, -2); (0, 1) -> (0, 4) -> (4, 0); then the offset
    np.testing.assert_allclose(scene.uv[0], [(0.25, 0), (0.25, -2), (4.25, 0)], atol=1e-5)

    def second_set(tree: dict[str, Any]) -> None:
        attributes = tree["meshes"][0]["primitives"][0]["attributes"]
        attributes["TEXCOORD_1"] = attributes.pop("TEXCOORD_0")
        tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["texCoord"] = 1

    part = quad(*SQUARE, texture=np.zeros((2, 2, 3)))
    np.testing.assert_array_equal(load_scene(edit(tmp_path, second_set, part)).uv[0], [(0, 1), (1, 1), (1, 0)])


def test_strips_fans_and_missing_indices(tmp_path: Path) -> None:
    zigzag = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)]
    strip = load(tmp_path, Part(zigzag, None, mode=5))
    assert strip.faces.tolist() == [[0, 1, 2], [3, 2, 1]]
    fan = load(tmp_path, Part(SQUARE, [0, 1, 2, 3], mode=6))
    assert fan.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    mixed = load(tmp_path, Part(SQUARE, [(0, 1, 2)]), Part(SQUARE, [0, 1], mode=1))
    assert mixed.n_triangles == 1


def test_interleaved_sparse_and_quantised_accessors(tmp_path: Path) -> None:
    def interleave(tree: dict[str, Any]) -> None:
        tree["bufferViews"][0]["byteStride"] = 16  # x, y, z of three vertices, each followed by one float of padding
        tree["accessors"][0]["count"] = 3

    padded = Part([(1, 2, 3), (9, 4, 5), (6, 9, 7), (8, 9, 9)], None)
    scene = load_scene(edit(tmp_path, interleave, padded))
    np.testing.assert_array_equal(scene.vertices, [(1, 2, 3), (4, 5, 6), (7, 8, 9)])

    builder = Builder()
    builder.tree["scenes"][0]["nodes"] = [builder.node(Part(SQUARE, [(0, 1, 2)]))]
    rows, values = builder.view(np.array([1], np.uint16).tobytes()), builder.view(np.array([5, 6, 7], "f4").tobytes())
    builder.tree["accessors"][0]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": rows, "componentType": 5123},
        "values": {"bufferView": values},
    }
    (tmp_path / "sparse.glb").write_bytes(builder.data())
    np.testing.assert_array_equal(load_scene(tmp_path / "sparse.glb").vertices[:3], [(0, 0, 0), (5, 6, 7), (1, 1, 0)])

    builder = Builder()
    node = builder.node(Part(SQUARE, [(0, 1, 2)], transform={"scale": [10, 10, 10]}))
    primitive = builder.tree["meshes"][0]["primitives"][0]
    steps = np.array([(0, 0, 0), (32767, 0, 0), (0, -32767, 0)], np.int16)
    primitive["attributes"]["POSITION"] = builder.accessor(steps, normalized=True)
    builder.tree["scenes"][0]["nodes"] = [node]
    builder.tree["extensionsRequired"] = ["KHR_mesh_quantization"]
    (tmp_path / "short.glb").write_bytes(builder.data())
    np.testing.assert_allclose(load_scene(tmp_path / "short.glb").vertices, [(0, 0, 0), (10, 0, 0), (0, -10, 0)])


def test_objects_from_extras(tmp_path: Path) -> None:
    chair = {"category": "chair", "instance": 3, "room": "kitchen"}
    scene = load(
        tmp_path,
        quad(*SQUARE, name="seat", extras=chair, children=[quad(*SQUARE, name="leg")]),
        quad(*SQUARE, name="back", extras=chair),
        quad(*SQUARE, name="other", extras={**chair, "instance": 4}),
        quad(*SQUARE, name="Dining_Table_01_003.2"),
        quad(*SQUARE, name="floor", extras={"category": "floor"}),
    )
    found = [(o.name, o.category, o.instance, o.room) for o in scene.objects]
    assert found == [
        ("seat", "chair", 3, "kitchen"),
        ("other", "chair", 4, "kitchen"),
        ("Dining_Table_01_003.2", "dining_table", 2, ""),
        ("floor", "floor", 3, ""),
    ]
    assert scene.semantic_id[::2].tolist() == [0, 0, 0, 1, 2, 3]


def test_external_and_embedded_resources(tmp_path: Path) -> None:
    part = quad(*SQUARE, texture=np.full((1, 1, 3), 7))

    def outside(tree: dict[str, Any]) -> None:
        del tree["images"][0]["bufferView"]
        tree["images"][0]["uri"] = "wall%20paper.png"

    path = edit(tmp_path, outside, part)
    with pytest.raises(SceneError, match=r"house\.glb: images\[0\] needs the file 'wall%20paper\.png"):
        load_scene(path)
    from PIL import Image

    Image.fromarray(np.full((1, 1, 3), 9, np.uint8)).save(tmp_path / "wall paper.png")
    assert load_scene(path).textures[0].tolist() == [[[9, 9, 9]]]


@pytest.mark.parametrize("uri", ["../secret.png", "{root}/secret.png", "/dev/zero", "inside", "link.png", "a%00b", "."])
def test_a_building_reads_only_files_in_its_own_folder(tmp_path: Path, uri: str) -> None:
    from PIL import Image

    Image.fromarray(np.full((1, 1, 3), 9, np.uint8)).save(tmp_path / "secret.png")
    home = tmp_path / "home"
    (home / "inside").mkdir(parents=True)
    (home / "link.png").symlink_to("../secret.png")

    def outside(tree: dict[str, Any]) -> None:
        del tree["images"][0]["bufferView"]
        tree["images"][0]["uri"] = uri.format(root=tmp_path)

    path = edit(home, outside, quad(*SQUARE, texture=np.full((1, 1, 3), 7)))
    with pytest.raises(SceneError, match=r"house\.glb: images\[0\] needs the file .*, which is not") as caught:
        load_scene(path)
    assert "\n" not in str(caught.value)


def test_digest(tmp_path: Path) -> None:
    path = write_glb(tmp_path / "house.glb", [quad(*SQUARE)])
    assert scene_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(SceneError, match=r"none\.glb"):
        scene_digest(tmp_path / "none.glb")


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


def test_nodes_that_share_a_mesh_are_what_they_would_be_with_their_own(tmp_path: Path) -> None:
    moves = [{"translation": [2.0 * i, 0, 0], "scale": [1, 1 - 2 * (i % 2), 1]} for i in range(4)]
    texture = np.arange(12).reshape(2, 2, 3)
    own = load(tmp_path, *(quad(*SQUARE, name=f"wall{i}", texture=texture, transform=m) for i, m in enumerate(moves)))

    def share(tree: dict[str, Any]) -> None:
        tree["nodes"] = [{"name": f"wall{i}", "mesh": 0, **move} for i, move in enumerate(moves)]
        tree["scenes"][0]["nodes"] = list(range(4))

    shared = load_scene(edit(tmp_path, share, quad(*SQUARE, texture=texture)))
    for key in ("vertices", "faces", "uv", "colors", "unlit", "semantic_id"):
        np.testing.assert_array_equal(getattr(shared, key), getattr(own, key))
    assert len(shared.textures) == 1


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
