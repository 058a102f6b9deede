"""Images per second of one core: everything included, beside the rays alone and beside rays cast one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.config import CameraConfig, NavMeshConfig, ScenesConfig
from sideagents_envs.episodes.bundled import scenes_root
from sideagents_envs.errors import EnvsError, SceneError
from sideagents_envs.kernels import kernel
from sideagents_envs.render.packets import DIRECTION, LANES, MESH_ID, ORIGIN, REACH, cast_packet
from sideagents_envs.render.rays import PacketRays, Renderer, SingleRays
from sideagents_envs.render.shading import turned
from sideagents_envs.scenes.scene import load_scene
from sideagents_envs.walk.navmesh import cached_navmesh

SIZES = (64, 128, 256)
BUNDLED = "Maplewick"  # the building of `val` with the most triangles
Row = dict[str, Any]


def benchmark_render(
    scenes: Sequence[Path] = (),
    *,
    sizes: Sequence[int] = SIZES,
    images: int = 16,
    repeats: int = 7,
    progress: Callable[[str], None] = print,
) -> list[Row]:
    """Measure images per second at random places of a bundled building and of `scenes`, the ways in turns.

    Rows per building and size in pixels: `render_rgb_...`, `render_rgb_depth_...`, `rays_alone_...`: packets of rays
    whose reach is written and nothing else; `single_rays_rgb_...`: the way without packets. Medians over the repeats;
    `ratio`: to `rays_alone` in the same turn.

    Raises:
        SceneError: a building cannot be used.
        EnvsError: a number is out of range, or this machine has no packets of rays.
    """
    if not sizes or min(*sizes, images, repeats) < 1:
        raise EnvsError(f"sizes, images and repeats must be at least 1, got {sizes}, {images}, {repeats}")
    bundled = next((path for path in scenes_root(ScenesConfig(), "val") if path.stem == BUNDLED), None)
    if bundled is None:
        raise SceneError(f"no bundled building {BUNDLED}")
    rows: list[Row] = []
    for path in (bundled, *scenes):
        for size in sizes:
            measured = _measure(path, size, images, repeats)
            progress("; ".join(f"{row['name']} {row['value']:.4g}" for row in measured) + f"; {path.stem}")
            rows += measured
    return rows


def _measure(path: Path, size: int, images: int, repeats: int) -> list[Row]:
    scene, camera = load_scene(path), CameraConfig(width=size, height=size)
    rng = np.random.default_rng(0)
    places = cached_navmesh(path, NavMeshConfig()).sample(rng, images)
    poses = np.column_stack([places, rng.uniform(-np.pi, np.pi, images)])
    renderer = Renderer(camera, scene)
    packets = renderer.rays
    if not isinstance(packets, PacketRays):
        raise EnvsError("this processor, or the Embree that is installed, has no packets of eight rays to measure")
    single = Renderer(camera, scene, packets=False)
    assert isinstance(single.rays, SingleRays)
    reach = np.zeros(images * len(packets.tiles.pixel), np.float32)
    origins, yaws = poses[:, :3] + (0.0, camera.height_m, 0.0), poses[:, 3].copy()
    ways: dict[str, Callable[[], object]] = {
        "rays_alone": lambda: _bare(packets.scenes(), packets.tiles, packets.packets, origins, yaws, reach),
        "render_rgb": lambda: renderer.render(poses, ("rgb",)),
        "render_rgb_depth": lambda: renderer.render(poses, ("rgb", "depth")),
        "single_rays_rgb": lambda: single.render(poses, ("rgb",)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run()
    for _ in range(repeats):
        for name, run in ways.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    alone = np.array(seconds["rays_alone"])
    return [
        {
            "name": f"{name}_images_per_second_{size}",
            "value": float(images / np.median(taken)),
            "unit": "images/s",
            "ratio": float(np.median(alone / np.array(taken))),
            "scene": path.stem,
            "triangles": scene.n_triangles,
            "images": images,
            "repeats": repeats,
        }
        for name, taken in seconds.items()
    ]


@kernel
def _bare(scenes: NDArray[np.int64], tiles: Any, packets: Any, origins: Any, yaws: Any, reach: Any) -> None:
    """Cast every packet of every image and keep how far its rays reach: the least that a depth image costs."""
    rays, integers, address = packets
    for image in range(len(yaws)):
        sin, cos = np.float32(np.sin(yaws[image])), np.float32(np.cos(yaws[image]))
        for axis in range(3):
            for lane in range(LANES):
                rays[(ORIGIN + axis) * LANES + lane] = np.float32(origins[image, axis])
        for first in range(0, len(tiles.pixel), LANES):
            for lane in range(LANES):
                x, y = tiles.x[first + lane], tiles.y[first + lane]
                rays[DIRECTION * LANES + lane], rays[(DIRECTION + 2) * LANES + lane] = turned(x, sin, cos)
                rays[(DIRECTION + 1) * LANES + lane] = y
                rays[REACH * LANES + lane] = np.float32(np.inf)
                integers[MESH_ID * LANES + lane] = -1
            cast_packet(scenes[0], scenes[1], 0, integers, address, 0)
            for lane in range(LANES):
                reach[image * len(tiles.pixel) + first + lane] = rays[REACH * LANES + lane]
