"""Rays in packets show what single rays show, and are left alone where Embree is another."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glb import Part, box, quad
from scene_files import load
from sideagents_envs.config import CameraConfig
from sideagents_envs.render import packets
from sideagents_envs.render.packets import (
    DIRECTION,
    FACE,
    HIT_U,
    HIT_V,
    LANES,
    MESH_ID,
    NORMAL,
    PACKET,
    REACH,
    PacketScene,
    cast_packet,
    new_packets,
    packet_library,
)
from sideagents_envs.render.rays import CHANNELS, Renderer
from sideagents_envs.scenes.scene import SceneMesh

needs_packets = pytest.mark.skipif(packet_library() is None, reason="no packets of eight rays on this machine")


def rubble(tmp_path: Path) -> SceneMesh:
    """A room without a ceiling, full of triangles: textured, lit, unlit, coloured at their corners."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (64, 48, 3)).astype(np.uint8)
    parts = [
        quad((-6, 0, -6), (-6, 0, 6), (6, 0, 6), (6, 0, -6), texture=picture, uv=[(0, 0), (0, 9), (9, 9), (9, 0)]),
        quad((-6, 0, -6), (6, 0, -6), (6, 3, -6), (-6, 3, -6), color=(0.2, 0.6, 0.9, 1)),
        quad((-6, 0, 6), (-6, 3, 6), (6, 3, 6), (6, 0, 6), vertex_colors=rng.random((4, 3)).astype(np.float32)),
        box((2, 0, 2), (3, 1.6, 4), color=(0.9, 0.3, 0.1, 1)),
    ]
    for i in range(300):
        corners = rng.uniform(-5, 5, (1, 3)) * (1, 0.3, 1) + (0, 1.5, 0) + rng.normal(0, 0.3, (3, 3))
        options: dict[str, Any] = [{}, {"unlit": True, "color": (0.1, 0.9, 0.4, 1)}, {"texture": picture}][i % 3]
        parts.append(Part([tuple(corner) for corner in corners.tolist()], [(0, 1, 2)], **options))
    return load(tmp_path, *parts)


@needs_packets
@pytest.mark.parametrize(("width", "height"), [(64, 64), (33, 21), (8, 130), (1, 4), (3, 1), (1, 1)])
def test_packets_show_what_single_rays_show(tmp_path: Path, width: int, height: int) -> None:
    scene, camera = rubble(tmp_path), CameraConfig(width=width, height=height)
    rng = np.random.default_rng(1)
    poses = np.column_stack([rng.uniform(-5, 5, 6), np.zeros(6), rng.uniform(-5, 5, 6), rng.uniform(-4, 4, 6)])
    fast, slow = Renderer(camera, scene), Renderer(camera, scene, packets=False)
    for names in [("rgb",), ("depth", "normals"), tuple(CHANNELS)]:
        found, wanted = fast.render(poses, names), slow.render(poses, names)
        assert list(found) == list(wanted) == list(names)
        for name in names:
            unequal = found[name] != wanted[name]
            # a ray on an edge may hit the face beside it, and reaches differ in the last bit
            close = np.isclose(found[name].astype(np.float64), wanted[name], rtol=1e-5, atol=1e-5)
            assert unequal.mean() < 0.01, name
            assert (~close).mean() < 0.001, name
    # an image's size may leave pixels that are cast twice
    assert slow.lost <= fast.lost <= slow.lost + 8 * 6 * (width + height)


@needs_packets
def test_a_packet_hits_what_geometry_says(tmp_path: Path) -> None:
    library = packet_library()
    assert library is not None
    corners = np.array([(-4, -4, -2), (4, -4, -2), (-4, 4, -2)], np.float32)
    scene = PacketScene(library, corners, np.array([(0, 1, 2)], np.int32), robust=False)
    made = new_packets(2)
    rows, numbers = made.floats.reshape(2, -1, LANES)[1], made.integers.reshape(2, -1, LANES)[1]
    rows[DIRECTION : DIRECTION + 3] = 0
    rows[DIRECTION], rows[DIRECTION + 2] = np.linspace(-1.75, 1.75, LANES), -1  # the face ends at x = 0 where y = 0
    rows[REACH] = np.inf
    assert cast_packet(library.intersect, scene.handle, 0, made.integers, made.address, PACKET) == 4
    hit = numbers[MESH_ID] == 0
    np.testing.assert_array_equal(hit, [True] * 4 + [False] * 4)
    np.testing.assert_allclose(rows[REACH][hit], 2.0, rtol=1e-6)
    np.testing.assert_allclose(rows[HIT_U][hit], (2 * rows[DIRECTION][hit] + 4) / 8, rtol=1e-5)
    np.testing.assert_allclose(rows[HIT_V][hit], 0.5, rtol=1e-5)
    np.testing.assert_array_equal(numbers[FACE][hit], 0)
    assert (rows[NORMAL + 2][hit] != 0).all()
    assert not rows[NORMAL : NORMAL + 2, hit].any()


@needs_packets
def test_a_scene_is_given_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    library = packet_library()
    assert library is not None
    given: list[int] = []

    class Calls:
        """Embree, but for what is given back."""

        def __getattr__(self, name: str) -> Any:
            return given.append if name == "rtcReleaseScene" else getattr(library.calls, name)

    calls: Any = Calls()
    scene = PacketScene(
        library._replace(calls=calls),
        np.eye(3, dtype=np.float32),
        np.array([(0, 1, 2)], np.int32),
        robust=True,
    )
    handle = scene.handle
    del scene
    gc.collect()
    assert given == [handle]
    library.calls.rtcReleaseScene(handle)


class _Absent:
    """A library without the functions of Embree 4."""


class _Other:
    """An Embree of another version, or of a processor without packets of eight."""

    def __init__(self, version: int, native: int) -> None:
        self._properties = {0: version, 33: native}

    def __getattr__(self, name: str) -> Any:
        def function(*given: Any) -> Any:
            return self._properties[given[1]] if name == "rtcGetDeviceProperty" else 1

        setattr(self, name, function)
        return function


@pytest.mark.parametrize("library", [_Absent(), _Other(30_200, 1), _Other(50_000, 1), _Other(40_400, 0), OSError()])
def test_where_embree_is_another_rays_are_cast_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Any
) -> None:
    def opened(name: str) -> Any:
        if isinstance(library, OSError):
            raise library
        return library

    packets.packet_library.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", opened)
    try:
        assert packet_library() is None
        seen = Renderer(CameraConfig(width=4, height=4, height_m=1.0), load(tmp_path, box((-1, -1, -1), (1, 3, 1))))
        np.testing.assert_allclose(seen.render([(0, 0, 0, 0)], ("depth",))["depth"], 1.0, rtol=1e-6)
    finally:
        packets.packet_library.cache_clear()
