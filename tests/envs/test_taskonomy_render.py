"""Images and targets in Taskonomy's layout: curvature, normals, depth and edges against hand-worked values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sideagents_envs.buildings import make_building
from sideagents_envs.buildings.dice import Dice
from sideagents_envs.buildings.glb import Node, write_glb
from sideagents_envs.buildings.solids import Paint, Part, box, cylinder, revolve, round_slab, sphere
from sideagents_envs.buildings.textures import hsv, plain
from sideagents_envs.config import CameraConfig
from sideagents_envs.errors import EnvsError
from sideagents_envs.render.curvature import corner_normals, face_normals, principal_curvatures, smoothing_groups
from sideagents_envs.render.pixels import ROOM_CLASSES, SEMANTIC_CLASSES, room_number
from sideagents_envs.render.taskonomy import (
    FOLDERS,
    TargetRenderer,
    render_taskonomy,
    viewpoints,
)
from sideagents_envs.scenes.scene import load_scene
from sideagents_policies.cli.main import main

PAINT = Paint("plain")
AT_ORIGIN = np.array([[0.0, -1.25, 0.0, 0.0]])  # the camera at the origin, looking along -z


def joined(parts: list[Part]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    starts = np.cumsum([0] + [len(p.points) for p in parts])
    points = np.concatenate([p.points for p in parts])
    return points, np.concatenate([p.faces + s for p, s in zip(parts, starts, strict=False)])


def curvatures(parts: list[Part]) -> NDArray[np.float64]:
    points, faces = joined(parts)
    groups = smoothing_groups(faces, np.zeros(len(faces), int))
    return principal_curvatures(points, faces, corner_normals(points, faces, groups))


def renderer(tmp_path: Path, parts: list[Part], size: int = 65, fov: float = 90.0) -> TargetRenderer:
    """A scene of the given parts alone, written and read as a file."""
    points, faces = joined(parts)
    colors = np.full((len(points), 3), 200, np.uint8)
    uv = np.concatenate([p.uv for p in parts]).astype(np.float32)
    node = Node("thing", {"category": "thing"}, points.astype(np.float32), uv, colors, {"plain": faces})
    write_glb(tmp_path / "scene.glb", [node], {"plain": plain(Dice(1), [hsv(0, 0, 90)])})
    return TargetRenderer(load_scene(tmp_path / "scene.glb"), CameraConfig(width=size, height=size, hfov_deg=fov))


@pytest.fixture(scope="module")
def building(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "Testhouse.glb"
    make_building(1, path)
    return path


def test_boxes_are_flat_and_round_solids_have_their_radius() -> None:
    assert np.abs(curvatures(box(0, 0, 0, 1, 2, 3, PAINT))).max() == 0
    assert curvatures([revolve([(0.5, 0.0), (0.5, 1.0), (0.5, 2.0)], PAINT, 12)]) == pytest.approx(
        np.tile([2.0, 0.0], (48, 1)), abs=1e-9
    )
    ball = curvatures([sphere(0.25, (0, 0, 0), PAINT, 24, 16)])
    assert np.percentile(ball[:, 0], [5, 95]) == pytest.approx([4.0, 4.0], rel=0.06)
    assert np.percentile(ball[:, 1], [5, 95]) == pytest.approx([4.0, 4.0], rel=0.06)


def test_hollow_surfaces_are_negative_and_their_borders_exact() -> None:
    hollow = curvatures([revolve([(0.4, 2.0), (0.4, 0.0)], PAINT, 5, sweep=np.pi / 2)])
    assert hollow == pytest.approx(np.tile([0.0, -2.5], (10, 1)), abs=1e-6)


def test_a_flat_panel_that_runs_on_into_a_round_one_stays_flat() -> None:
    half = round_slab(0.5, 0.0, 1.0, PAINT, 8)  # round side first, then lid and flat ends
    values = curvatures(half)
    assert values[:16] == pytest.approx(np.tile([2.0, 0.0], (16, 1)), abs=1e-6)
    assert np.abs(values[16:]).max() < 1e-6


def test_triangle_soup_is_smoothed_within_its_object() -> None:
    points, faces = joined([revolve([(0.5, 0.0), (0.5, 2.0)], PAINT, 12)])
    soup = points[faces].reshape(-1, 3)
    lone = np.arange(len(soup)).reshape(-1, 3)
    groups = smoothing_groups(lone, np.full(len(lone), 7))
    assert (groups == -8).all()
    values = principal_curvatures(soup, lone, corner_normals(soup, lone, groups))
    assert values == pytest.approx(np.tile([2.0, 0.0], (24, 1)), abs=1e-6)


def test_triangles_without_area_do_no_harm() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0.0]])
    faces = np.array([[0, 1, 2], [0, 1, 3]])
    normals = corner_normals(points, faces, [0, 0])
    assert normals[0].tolist() == [[0, 0, 1]] * 3
    assert face_normals(points, faces)[1].tolist() == [0, 0, 0]
    assert np.abs(principal_curvatures(points, faces, normals)).max() == 0


def test_a_column_in_front_of_the_camera(tmp_path: Path) -> None:
    """A cylinder of radius 0.5 m, its axis 2 m ahead, before a wall 4 m ahead."""
    wall = box(-9, -9, -4.5, 9, 9, -4.0, PAINT)
    column = [revolve([(0.5, -3.0), (0.5, 3.0)], PAINT, 32, (0, 0, -2.0))]
    shown = renderer(tmp_path, wall + column).render(AT_ORIGIN, tuple(FOLDERS))
    assert shown["rgb"].shape == (1, 65, 65, 3)
    depth = shown["depth_zbuffer"][0].astype(float) / 512
    assert depth[32, 32] == pytest.approx(1.5, abs=0.01)
    assert depth[32, 2] == pytest.approx(4.0, abs=0.01)
    curvature = shown["principal_curvature"][0]
    assert curvature[32, 32].tolist() == [191, 127, 0]  # 2 / (2 + 2) of 128
    assert curvature[32, 2].tolist() == [127, 127, 0]
    normals = (shown["normal"][0].astype(float) - 127) / 128
    assert normals[32, 32] == pytest.approx([0, 0, 1], abs=0.01)
    assert normals[32, 2] == pytest.approx([0, 0, 1], abs=0.01)
    # To the right: the ray (t, 0, -1) meets the cylinder at depth d, (t d, 0, 2 - d) / 0.5 is the normal there.
    t = 7 / 32.5
    d = (4 - np.sqrt(16 - 15 * (1 + t * t))) / (2 * (1 + t * t))
    assert depth[32, 39] == pytest.approx(d, abs=0.01)
    assert normals[32, 39] == pytest.approx([t * d / 0.5, 0, (2 - d) / 0.5], abs=0.02)
    distance = shown["depth_euclidean"][0].astype(float) / 512
    assert distance[32, 39] == pytest.approx(d * np.sqrt(1 + t * t), abs=0.01)
    # the light is at the camera: the wall is lit by the cosine of the ray's angle, the column straight ahead fully
    slant = np.sqrt(1 + (30 / 32.5) ** 2)
    assert shown["reshading"][0, 32, 2] == pytest.approx(255 / slant, abs=1)
    assert shown["reshading"][0, 32, 32] == 255
    jumps = shown["edge_occlusion"][0].astype(float) / 65535
    outline = np.flatnonzero(jumps[32] > 0.1)
    assert len(outline) in (2, 3, 4)  # where the column ends and the wall is seen
    assert jumps[32, 2] < 1e-3  # a plane, seen at an angle
    assert (shown["mask_valid"] == 255).all()
    assert (shown["segment_semantic"] == 0).all()  # a thing is of no class
    assert shown["class_scene"].tolist() == [[[1.0] + [0.0] * 13]]
    assert set(shown) == {"rgb", "mask_valid", *FOLDERS.values()}


def test_the_inside_of_a_drum_is_hollow_from_within_and_misses_are_masked(tmp_path: Path) -> None:
    """From within, the back of an outward cylinder is seen: its curvature changes sign; above is nothing."""
    drum = [revolve([(1.0, -1.0), (1.0, 0.2)], PAINT, 32)]
    shown = renderer(tmp_path, drum).render(AT_ORIGIN, ("curvature", "normals", "depth"))
    curvature = shown["principal_curvature"][0]
    assert curvature[40, 32].tolist() == [127, 84, 0]  # -1 / 3 of 128
    assert shown["normal"][0, 40, 32].tolist() == [127, 127, 255]
    assert shown["mask_valid"][0, 5, 32] == 0
    assert shown["depth_zbuffer"][0, 5, 32] == 65535
    assert curvature[5, 32].tolist() == [127, 127, 0]
    assert shown["normal"][0, 5, 32].tolist() == [127, 127, 127]


def test_normals_turn_with_the_camera(tmp_path: Path) -> None:
    shown = renderer(tmp_path, [*box(2, -3, -5, 3, 3, 5, PAINT), *cylinder(9, -2.0, -1.0, PAINT)])
    yaw = np.radians([-90.0, -60.0])  # towards +x, and 30 degrees to the left of that
    poses = np.column_stack([np.zeros((2, 3)) - (0, 1.25, 0), yaw])
    normals = (shown.render(poses, ("normals",))["normal"].astype(float) - 127) / 128
    assert normals[0, 32, 32] == pytest.approx([0, 0, 1], abs=0.01)
    assert normals[1, 32, 32] == pytest.approx([-0.5, 0, np.sqrt(0.75)], abs=0.01)
    assert normals[0, 60, 32] == pytest.approx([0, 1, 0], abs=0.01)  # the floor


def test_files_have_taskonomys_names_and_types(building: Path, tmp_path: Path) -> None:
    out = render_taskonomy([building], tmp_path / "data", views_per_building=3, size=32, progress=False)
    folders = {"rgb", "principal_curvature", "depth_zbuffer", "normal", "edge_texture", "mask_valid"}
    assert {p.name for p in out.iterdir()} == folders | {"render.json"}
    modes: dict[str, Any] = {}
    for folder in folders:
        files = sorted((out / folder / "Testhouse").iterdir())
        assert [f.name for f in files] == [f"point_{p}_view_0_domain_{folder}.png" for p in range(3)]
        image = np.array(Image.open(files[0]))
        assert image.shape[:2] == (32, 32)
        modes[folder] = (image.dtype.name, image.ndim)
    assert modes["rgb"] == modes["normal"] == modes["principal_curvature"] == ("uint8", 3)
    assert modes["depth_zbuffer"][0] in ("uint16", "int32")
    assert modes["edge_texture"] == modes["depth_zbuffer"]
    assert modes["mask_valid"] == ("uint8", 2)
    depth = np.array(Image.open(out / "depth_zbuffer" / "Testhouse" / "point_0_view_0_domain_depth_zbuffer.png"))
    assert 0.05 * 512 < depth.min() < depth.max() < 20 * 512


def test_classes_of_objects_and_rooms(building: Path, tmp_path: Path) -> None:
    tasks = ("segmentation", "room", "keypoints3d")
    out = render_taskonomy([building], tmp_path / "data", tasks, 20, 32, 0, False)
    classes = list(SEMANTIC_CLASSES)
    seen = np.zeros(len(classes), np.int64)
    rooms = []
    for number in range(20):
        name = f"point_{number}_view_0_domain_"
        image = np.array(Image.open(out / "segment_semantic" / "Testhouse" / f"{name}segment_semantic.png"))
        seen += np.bincount(image.ravel(), minlength=len(classes))
        one_hot = np.load(out / "class_scene" / "Testhouse" / f"{name}class_scene.npy")
        assert one_hot.shape == (1, len(ROOM_CLASSES))
        assert one_hot.sum() == 1.0
        rooms.append(ROOM_CLASSES[int(one_hot.argmax())])
    assert seen[classes.index("wall")] > 0.1 * seen.sum()
    assert seen[classes.index("floor")] > 0.05 * seen.sum()
    assert seen[0] < 0.1 * seen.sum()
    assert "other" not in rooms
    scene = load_scene(building)
    assert set(rooms) <= {thing.room.partition("_")[0] for thing in scene.objects}
    assert len(set(rooms)) >= 2


def test_the_room_is_that_of_the_floor_under_the_agent(building: Path) -> None:
    scene = load_scene(building)
    floors = [i for i, thing in enumerate(scene.objects) if thing.category == "floor"]
    shown = TargetRenderer(scene, CameraConfig(width=8, height=8))
    for index in floors:
        corners = scene.vertices[scene.faces[scene.semantic_id == index]]
        middle = corners[0].mean(axis=0)
        poses = np.array([[middle[0], middle[1] + 0.1, middle[2], 0.0]])
        found = shown.render(poses, ("room",))["class_scene"]
        assert found[0, 0, room_number(scene.objects[index].room)] == 1.0


def test_rendering_goes_on_where_it_stopped_and_is_repeatable(building: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    render_taskonomy([building], one, ("autoencoding",), 2, 16, 5, False)
    render_taskonomy([building], two, ("autoencoding",), 2, 16, 5, False)
    name = "rgb/Testhouse/point_1_view_0_domain_rgb.png"
    assert (one / name).read_bytes() == (two / name).read_bytes()
    time = (one / name).stat().st_mtime_ns
    render_taskonomy([building], one, ("autoencoding",), 2, 16, 5, False)
    assert (one / name).stat().st_mtime_ns == time
    render_taskonomy([building], one, ("edges",), 2, 16, 5, False)  # another task of the same views
    assert (one / "edge_texture" / "Testhouse").is_dir()
    assert (one / name).read_bytes() == (two / name).read_bytes()
    assert json.loads((one / "render.json").read_text()) == {"views_per_building": 2, "size": 16, "seed": 5}
    assert not list(one.rglob("*.part"))


def test_views_lie_on_the_floor_and_depend_on_name_and_seed(building: Path) -> None:
    poses = viewpoints(building, 50, 1)
    assert np.array_equal(poses, viewpoints(building, 50, 1))
    assert not np.array_equal(poses, viewpoints(building, 50, 2))
    assert np.abs(poses[:, 1]).max() <= 0.15 + 0.2
    assert poses[:, 3].min() < -2
    assert poses[:, 3].max() > 2


def test_curvature_is_seen_in_a_building(building: Path) -> None:
    shown = TargetRenderer(load_scene(building), CameraConfig()).render(viewpoints(building, 32, 0), ("curvature",))
    bent = (np.abs(shown["principal_curvature"][..., :2].astype(int) - 127) > 20).any(axis=-1)
    assert 0.01 < bent.mean() < 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ("curvatur",)}, "unknown task 'curvatur', did you mean 'curvature'"),
        ({"tasks": ()}, "nothing to render"),
        ({"size": 4}, "nothing to render"),
        ({"twice": True}, "two buildings are called 'Testhouse'"),
        ({"seed": 9}, "holds images made with"),
    ],
)
def test_mistakes_are_one_line(building: Path, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    paths = [building, building] if arguments.pop("twice", False) else [building]
    (tmp_path / "render.json").write_text(json.dumps({"views_per_building": 1, "size": 16, "seed": 0}))
    with pytest.raises(EnvsError, match=message) as caught:
        render_taskonomy(paths, tmp_path, **({"views_per_building": 1, "size": 16, "progress": False} | arguments))
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["render.json"]


def test_the_command_renders_all_targets(building: Path, tmp_path: Path) -> None:
    words = ["--tasks", "all", "--views", "2", "--size", "16"]
    assert main(["scenes", "render", str(building), "--out", str(tmp_path / "out"), *words]) == 0
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {*FOLDERS.values(), "mask_valid", "render.json"}
