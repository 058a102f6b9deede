"""Scenes: triangles, transforms, materials and objects are read as glTF says."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from glb import Builder, Part, box, quad, write_glb
from scene_files import SQUARE, edit, load
from sideagents_envs.errors import SceneError
from sideagents_envs.scenes.scene import load_scene, scene_digest


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
