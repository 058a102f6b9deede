from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glb import Part, box, quad
from scene_files import load
from sideagents_envs.config import CameraConfig
from sideagents_envs.errors import EnvsError
from sideagents_envs.render import rays
from sideagents_envs.render.packets import packet_library
from sideagents_envs.render.rays import CHANNELS, Renderer
from sideagents_envs.render.shading import SKY
from sideagents_envs.scenes.scene import SceneMesh

ALL = tuple(CHANNELS)
CAMERA = CameraConfig(width=8, height=8, hfov_deg=90.0, height_m=1.0)
COLORS = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (250, 240, 10)]], np.uint8)


@pytest.fixture(params=["packets", "single rays"], autouse=True)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds, holds for both ways of casting rays."""
    if request.param == "single rays":
        monkeypatch.setattr(rays, "packet_library", lambda: None)
    elif packet_library() is None:
        pytest.skip("this processor, or the Embree that is installed, has no packets of eight rays")


def wall(z: float = -2.0, half: float = 2.0, **options: Any) -> Part:
    """A square of 2 * half metres, centred 1 m above the origin's floor, seen by an agent at the origin."""
    return quad((-half, 1 - half, z), (half, 1 - half, z), (half, 1 + half, z), (-half, 1 + half, z), **options)


def look(
    scene: SceneMesh, *pose: float, camera: CameraConfig = CAMERA, channels: tuple[str, ...] = ALL
) -> dict[str, Any]:
    return {k: v[0] for k, v in Renderer(camera, scene).render([pose or (0, 0, 0, 0)], channels).items()}


def test_texels_of_a_wall_that_fills_the_view(tmp_path: Path) -> None:
    # 90 degrees at 2 m sees 4 m: each of the four texels covers a quarter of the image, its first row at the top
    seen = look(load(tmp_path, wall(texture=COLORS)))["rgb"]
    assert (seen.shape, seen.dtype) == ((8, 8, 3), np.uint8)
    np.testing.assert_array_equal(seen, COLORS.repeat(4, axis=0).repeat(4, axis=1))


def test_textures_repeat_and_are_tinted(tmp_path: Path) -> None:
    uv = [(-1, 2), (1, 2), (1, 0), (-1, 0)]
    seen = look(load(tmp_path, wall(texture=COLORS, uv=uv, color=(0.2, 1, 1, 1))))["rgb"]
    tinted = np.rint(COLORS * np.array([51 / 255, 1, 1])).astype(np.uint8)
    np.testing.assert_array_equal(seen, np.tile(tinted.repeat(2, axis=0).repeat(2, axis=1), (2, 2, 1)))


def test_far_textures_are_averaged(tmp_path: Path) -> None:
    checks = np.indices((256, 256)).sum(axis=0)[..., None] % 2 * np.full(3, 200, np.uint8)
    scene = load(tmp_path, wall(texture=checks))
    assert (look(scene)["rgb"] == 100).all()  # 32 x 32 texels to a pixel
    near = CameraConfig(width=512, height=512, height_m=1.0)
    np.testing.assert_array_equal(look(scene, camera=near)["rgb"], checks.repeat(2, axis=0).repeat(2, axis=1))


def test_vertex_colors_are_interpolated(tmp_path: Path) -> None:
    colors = np.array([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)], np.float32)
    seen = look(load(tmp_path, wall(vertex_colors=colors, color=(1, 1, 0.5, 1))))["rgb"]
    steps = np.floor((np.arange(8) + 0.5) / 8 * 255 + 0.5)
    np.testing.assert_array_equal(seen[..., 0], np.broadcast_to(steps, (8, 8)))
    np.testing.assert_array_equal(seen[..., 1], np.broadcast_to(steps[::-1, None], (8, 8)))
    assert not seen[..., 2].any()


def test_head_light_on_plain_colors_only(tmp_path: Path) -> None:
    camera = CameraConfig(width=1, height=1, height_m=1.0)
    # the wall runs through (0, 1, -2) at 60 degrees to the line of sight's normal: |cos| = 0.5
    s, c = 2 * math.sin(math.pi / 3), 2 * math.cos(math.pi / 3)
    leaning = ((-c, 0, -2 - s), (c, 0, -2 + s), (c, 2, -2 + s), (-c, 2, -2 - s))
    lit = look(load(tmp_path, quad(*leaning, color=(1, 0.4, 0, 1))), camera=camera)["rgb"][0, 0]
    assert lit.tolist() == [round(255 * 0.675), round(102 * 0.675), 0]
    shown = look(load(tmp_path, quad(*leaning, color=(1, 0.4, 0, 1), unlit=True)), camera=camera)["rgb"][0, 0]
    assert shown.tolist() == [255, 102, 0]


def test_depth_and_distance_of_a_plane(tmp_path: Path) -> None:
    seen = look(load(tmp_path, wall(z=-3, half=9)))
    assert seen["depth"].dtype == np.float32
    np.testing.assert_allclose(seen["depth"], 3.0, rtol=1e-6)
    offset = (np.arange(8) + 0.5) / 4 - 1
    np.testing.assert_allclose(seen["distance"], 3 * np.sqrt(1 + offset[:, None] ** 2 + offset**2), rtol=1e-6)


def test_nothing(tmp_path: Path) -> None:
    seen = look(load(tmp_path, wall()), 0, 0, 0, math.pi)
    assert (seen["rgb"] == np.array(SKY)).all()
    assert (seen["semantic"] == -1).all()
    assert not seen["depth"].any()
    assert not seen["distance"].any()
    assert not seen["normals"].any()


def test_normals_in_the_camera_frame(tmp_path: Path) -> None:
    s = math.sqrt(0.5)
    camera = CameraConfig(width=1, height=1, height_m=1.0)
    # leans back by 45 degrees: its normal points up and towards the viewer, from whichever side it was wound
    ramp = ((-5, -4, 3), (5, -4, 3), (5, 6, -7), (-5, 6, -7))
    for corners in (ramp, ramp[::-1]):
        np.testing.assert_allclose(
            look(load(tmp_path, quad(*corners)), camera=camera)["normals"][0, 0], (0, s, s), atol=1e-6
        )
    # the agent has turned left by 90 degrees and looks along -x at a wall that faces (+x, +z): towards it, to its left
    side = ((-3, -9, -9), (-3, 9, -9), (-3 - 9, 9, 0), (-3 - 9, -9, 0))
    seen = look(load(tmp_path, quad(*side)), 0, 0, -9, math.pi / 2, camera=camera)["normals"][0, 0]
    np.testing.assert_allclose(seen, (-s, 0, s), atol=1e-6)


def test_semantic_ids_index_the_objects(tmp_path: Path) -> None:
    scene = load(
        tmp_path,
        quad(
            (-2, -1, -2),
            (0, -1, -2),
            (0, 3, -2),
            (-2, 3, -2),
            extras={"category": "door", "instance": 5, "room": "hall"},
        ),
        quad(
            (0, -1, -2), (2, -1, -2), (2, 3, -2), (0, 3, -2), extras={"category": "sofa", "instance": 9, "room": "hall"}
        ),
    )
    ids = look(scene)["semantic"]
    assert ids.dtype == np.int32
    assert {scene.objects[i].category for i in ids[:, :4].flat} == {"door"}
    assert {scene.objects[i].instance for i in ids[:, 4:].flat} == {9}


def test_poses(tmp_path: Path) -> None:
    camera = CameraConfig(width=1, height=1, height_m=1.25)
    renderer = Renderer(camera, load(tmp_path, box((-1, -1, -2), (3, 5, 4))))
    poses = [
        (0, 0, 0, 0),
        (0, 0, 0, math.pi / 2),
        (0, 0, 0, math.pi),
        (0, 0, 0, -math.pi / 2),
        (0.5, 0, 1, 0),
        (0, 3.7, 0, 0),
    ]
    depth = renderer.render(poses, ("depth",))["depth"].reshape(-1)
    np.testing.assert_allclose(depth, [2, 1, 4, 3, 3, 2], atol=1e-4)
    above = renderer.render([(0, 3.8, 0, 0)], ("depth",))["depth"]
    assert above.item() == 0  # the camera is 5 cm above the box


def test_no_ray_slips_through_where_triangles_meet(tmp_path: Path) -> None:
    # walls of 4,096 squares around the agent: the rays of an odd-sized image run along their edges
    places = np.arange(-32, 33) / 16.0
    squares = [(65 * i + j, 65 * i + j + 1, 65 * i + j + 66, 65 * i + j + 65) for i in range(64) for j in range(64)]
    faces = [face for a, b, c, d in squares for face in ((a, b, c), (a, c, d))]
    north, south = ([(x, 1 + y, z) for y in places for x in places] for z in (-2.0, 2.0))
    east, west = ([(x, 1 + y, z) for y in places for z in places] for x in (2.0, -2.0))
    scene = load(tmp_path, *(Part(corners, faces) for corners in (north, south, east, west)))
    renderer = Renderer(CameraConfig(width=65, height=21, height_m=1.0), scene)
    poses = [(x / 4, y / 8, x / 4, math.radians(yaw)) for x in range(-3, 4) for y in range(3) for yaw in (0, 45, 90)]
    assert (renderer.render(poses, ("semantic",))["semantic"] >= 0).all()
    assert 0 < renderer.lost < 0.02 * len(poses) * 65 * 21  # the fast mode alone is not enough


@pytest.mark.parametrize(("width", "height", "fov"), [(16, 16, 90), (21, 10, 90), (10, 21, 60), (1, 4, 120)])
def test_field_of_view_and_image_shape(tmp_path: Path, width: int, height: int, fov: float) -> None:
    seen = look(load(tmp_path, wall(z=-1, half=50)), camera=CameraConfig(width, height, fov, 1.0))
    assert seen["rgb"].shape == (height, width, 3)
    assert seen["semantic"].shape == (height, width)
    # at 1 m the image's edge is tan(fov / 2) from the middle, an edge pixel's centre half a pixel less; square pixels
    edge = math.tan(math.radians(fov) / 2)
    x, y = edge * (1 - 1 / width), edge * (height - 1) / width
    np.testing.assert_allclose(
        seen["distance"][[0, 0, -1, -1], [0, -1, 0, -1]], math.sqrt(1 + x * x + y * y), rtol=1e-5
    )


def test_depth_back_projected_lies_on_the_walls(tmp_path: Path) -> None:
    low, high = np.array((-2.0, -1.0, -3.0)), np.array((4.0, 2.5, 5.0))
    scene = load(tmp_path, box(low, high))
    camera = CameraConfig(width=12, height=9, hfov_deg=80, height_m=1.5)
    for yaw in (0.4, 1.9, -2.5):
        depth = look(scene, 1.0, -0.3, 0.5, yaw, camera=camera)["depth"]
        right, forward = np.array((math.cos(yaw), 0, -math.sin(yaw))), np.array((-math.sin(yaw), 0, -math.cos(yaw)))
        tangent = math.tan(math.radians(40)) / 6
        across, upward = (np.arange(12) - 5.5) * tangent, (4 - np.arange(9)) * tangent
        rays = forward + across[None, :, None] * right + upward[:, None, None] * np.array((0, 1, 0))
        points = np.array((1.0, 1.2, 0.5)) + depth[..., None] * rays
        gap = np.minimum(np.abs(points - low), np.abs(points - high)).min(axis=-1)
        np.testing.assert_allclose(gap, 0, atol=2e-4)
        assert ((points > low - 2e-4) & (points < high + 2e-4)).all()


def test_only_the_requested_channels_in_the_requested_order(tmp_path: Path) -> None:
    renderer = Renderer(CAMERA, load(tmp_path, wall()))
    assert list(renderer.render([(0, 0, 0, 0)])) == ["rgb"]
    assert list(renderer.render([(0, 0, 0, 0)], ("semantic", "depth"))) == ["semantic", "depth"]
    first = renderer.render([(0, 0, 0, 0)])["rgb"]
    before = first.copy()
    renderer.render([(0, 0, 0, 2)])
    np.testing.assert_array_equal(first, before)  # results are not overwritten by the next call
    assert renderer.render(np.zeros((0, 4)), ("depth",))["depth"].shape == (0, 8, 8)


@pytest.mark.parametrize(
    ("poses", "channels", "message"),
    [
        ([(0, 0, 0, 0)], ("dept",), r"unknown channel 'dept', did you mean 'depth'\?; there are rgb"),
        ([(0, 0, 0)], ("rgb",), r"expected poses \(N, 4\), got \(1, 3\)"),
        ((0, 0, 0, 0), ("rgb",), r"got \(4,\)"),
        ([(0, 0, 0, 0), (0, math.nan, 0, 0)], ("rgb",), "pose 1 is not finite"),
    ],
)
def test_bad_calls(tmp_path: Path, poses: Any, channels: tuple[str, ...], message: str) -> None:
    renderer = Renderer(CAMERA, load(tmp_path, wall()))
    with pytest.raises(EnvsError, match=message):
        renderer.render(poses, channels)
