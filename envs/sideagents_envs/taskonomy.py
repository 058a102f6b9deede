"""Images of buildings with targets computed by the renderer, in the folder layout of Taskonomy (Zamir et al. 2018).

    OUT/rgb/BUILDING/point_P_view_0_domain_rgb.png                                  8 bit RGB
    OUT/principal_curvature/BUILDING/point_P_view_0_domain_principal_curvature.png  8 bit, see `curvature_pixels`
    OUT/depth_zbuffer/...   16 bit, 1/512 m along the optical axis, 65535 where nothing was hit
    OUT/normal/...          8 bit, 127 + 128 n: x to the right, y up, z towards the viewer
    OUT/edge_texture/...    16 bit, 65535 x gradient of the smoothed grey image
    OUT/mask_valid/...      8 bit, 255 where a surface was hit; with curvature, depth and normals
    OUT/render.json         how it was made

Autoencoding and denoising need the RGB images alone: noise is drawn anew whenever an image is read for training.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from sideagents_envs.cache import atomic_path
from sideagents_envs.config import CameraConfig, NavMeshConfig
from sideagents_envs.curvature import corner_normals, face_normals, principal_curvatures, smoothing_groups
from sideagents_envs.errors import EnvsError, SceneError, nearest
from sideagents_envs.navmesh import cached_navmesh
from sideagents_envs.render import Renderer
from sideagents_envs.scene import SceneMesh, load_scene

F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]

FOLDERS = {
    "curvature": "principal_curvature",
    "denoising": "rgb",
    "depth": "depth_zbuffer",
    "normals": "normal",
    "autoencoding": "rgb",
    "edges": "edge_texture",
}
TASKS = tuple(FOLDERS)
CURVATURE_HALF = 2.0  # 1/m: curvature that lies half way between flat and the end of the scale
_MASKED = ("curvature", "depth", "normals")
_HEIGHT_JITTER_M = 0.15
_BATCH = 64


def curvature_pixels(curvature: NDArray[Any]) -> U8:
    """Return principal curvatures (..., 2) in 1/m as (..., 3) pixels: 127 + 128 k / (|k| + 2), third channel 0.

    127 is flat, 170 a radius of 1 m, 191 of 0.5 m, 223 of 0.167 m; below 127 is concave. The scale never clips, so
    the curvature can be had back: k = 2 s / (1 - |s|) with s = (pixel - 127) / 128.
    """
    pixels = np.zeros((*curvature.shape[:-1], 3), np.uint8)
    share = curvature / (np.abs(curvature) + CURVATURE_HALF)
    pixels[..., :2] = np.rint(np.clip(127 + 128 * share, 0, 255))
    return pixels


def normal_pixels(normals: NDArray[Any]) -> U8:
    """Return unit normals (..., 3) as pixels: 127 + 128 n, limited to 0..255."""
    pixels: U8 = np.rint(np.clip(127 + 128 * normals, 0, 255)).astype(np.uint8)
    return pixels


def depth_pixels(depth: NDArray[Any]) -> U16:
    """Return depth in metres (0: nothing) as 1/512 m, 65535 where nothing was hit."""
    units = np.rint(np.minimum(depth * 512.0, 65534))
    pixels: U16 = np.where(depth > 0, units, 65535).astype(np.uint16)
    return pixels


def edge_pixels(rgb: U8, sigma: float = 1.0) -> U16:
    """Return 65535 x the gradient (per pixel, grey in [0, 1]) of images (N,H,W,3) after a Gaussian of `sigma` pixels.

    Taskonomy's edge_texture is the same: Canny's first steps, without thinning and thresholds.
    """
    grey = rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255.0
    smooth = gaussian_filter(grey, (0, sigma, sigma))
    down, right = np.gradient(smooth, axis=(1, 2))
    pixels: U16 = np.rint(np.minimum(np.sqrt(down * down + right * right), 1.0) * 65535).astype(np.uint16)
    return pixels


class TargetRenderer:
    """Renders RGB and the targets of one building.

    Which triangle a pixel sees is asked of the renderer by giving each triangle a label of its own; curvature is the
    triangle's, normals are interpolated over it from those of its corners.
    """

    def __init__(self, scene: SceneMesh, camera: CameraConfig) -> None:
        self._scene = scene
        self._camera = camera
        self._renderer = Renderer(camera, replace(scene, semantic_id=np.arange(scene.n_triangles, dtype=np.int32)))
        self._flat = face_normals(scene.vertices, scene.faces)
        groups = smoothing_groups(scene.faces, scene.semantic_id)
        self._smooth = corner_normals(scene.vertices, scene.faces, groups)
        self._curvature = principal_curvatures(scene.vertices, scene.faces, self._smooth)
        self._corners = scene.vertices.astype(np.float64)[scene.faces]

    def render(self, poses: F64, tasks: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return pixels by folder name for poses (N,4); shapes (N,H,W[,3]), types as in the files."""
        shown = self._renderer.render(poses, ("rgb", "depth", "semantic"))
        rgb, depth, face = shown["rgb"], shown["depth"], shown["semantic"]
        hit = face >= 0
        out: dict[str, NDArray[Any]] = {"rgb": rgb}
        if "edges" in tasks:
            out[FOLDERS["edges"]] = edge_pixels(rgb)
        if "depth" in tasks:
            out[FOLDERS["depth"]] = depth_pixels(depth)
        if set(tasks) & set(_MASKED):
            out["mask_valid"] = np.where(hit, 255, 0).astype(np.uint8)
        if set(tasks) & {"curvature", "normals"}:
            rays = self._rays(poses)
            away = np.einsum("nhwk,nhwk->nhw", self._flat[face], rays) > 0  # the back of a surface
            if "curvature" in tasks:
                seen = np.where(away[..., None], -self._curvature[face][..., ::-1], self._curvature[face])
                out[FOLDERS["curvature"]] = curvature_pixels(np.where(hit[..., None], seen, 0.0))
            if "normals" in tasks:
                world = self._interpolated(face, self._eyes(poses) + rays * depth[..., None])
                world = np.where(away[..., None], -world, world)
                out[FOLDERS["normals"]] = normal_pixels(np.where(hit[..., None], _in_camera(world, poses[:, 3]), 0.0))
        return out

    def _eyes(self, poses: F64) -> F64:
        eyes = poses[:, None, None, :3].copy()
        eyes[..., 1] += self._camera.height_m
        return eyes

    def _rays(self, poses: F64) -> F64:
        """Return world directions (N,H,W,3) with length 1 along the optical axis."""
        width, height = self._camera.width, self._camera.height
        pixel = 2.0 * np.tan(np.radians(self._camera.hfov_deg) / 2) / width
        x = (np.arange(width) + 0.5 - width / 2) * pixel
        y = (height / 2 - np.arange(height) - 0.5) * pixel
        sin, cos = np.sin(poses[:, 3])[:, None], np.cos(poses[:, 3])[:, None]
        rays = np.empty((len(poses), height, width, 3))
        rays[..., 0], rays[..., 2] = (x * cos - sin)[:, None, :], (-x * sin - cos)[:, None, :]
        rays[..., 1] = y[:, None]
        return rays

    def _interpolated(self, face: NDArray[np.int32], points: F64) -> F64:
        """Return smooth normals where `points` (N,H,W,3) lie on the triangles `face` (N,H,W)."""
        corner = self._corners[face]
        a, b, p = (
            corner[..., 1, :] - corner[..., 0, :],
            corner[..., 2, :] - corner[..., 0, :],
            points - corner[..., 0, :],
        )
        aa, ab, bb, pa, pb = (np.einsum("nhwk,nhwk->nhw", *k) for k in ((a, a), (a, b), (b, b), (p, a), (p, b)))
        area = np.maximum(aa * bb - ab * ab, 1e-18)
        second, third = np.clip((bb * pa - ab * pb) / area, 0, 1), np.clip((aa * pb - ab * pa) / area, 0, 1)
        weights = np.stack([1 - second - third, second, third], axis=-1)
        normals = np.einsum("nhwc,nhwck->nhwk", weights, self._smooth[face])
        length = np.sqrt(np.einsum("nhwk,nhwk->nhw", normals, normals))[..., None]
        unit: F64 = np.divide(normals, length, out=np.zeros_like(normals), where=length > 1e-9)
        return unit


def _in_camera(world: F64, yaw: F64) -> F64:
    """Turn world directions (N,H,W,3) into the camera's frame: right, up, towards the viewer."""
    sin, cos = np.sin(yaw)[:, None, None], np.cos(yaw)[:, None, None]
    x, z = world[..., 0], world[..., 2]
    return np.stack([x * cos - z * sin, world[..., 1], x * sin + z * cos], axis=-1)


def viewpoints(path: Path, count: int, seed: int) -> F64:
    """Return `count` poses (N,4) on the walkable space of a building: any yaw, camera height varied by 15 cm."""
    rng = np.random.default_rng([seed, zlib.crc32(path.stem.encode())])
    points = cached_navmesh(path, NavMeshConfig()).sample(rng, count)
    points[:, 1] += rng.uniform(-_HEIGHT_JITTER_M, _HEIGHT_JITTER_M, count)
    return np.column_stack([points, rng.uniform(-np.pi, np.pi, count)])


def render_taskonomy(
    scene_paths: Sequence[Path],
    out_dir: Path,
    tasks: Sequence[str] = TASKS,
    views_per_building: int = 100,
    size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write `views_per_building` random views of each building with the targets of `tasks`; return `out_dir`.

    Views are square, `size` pixels, 90 degrees wide; what a building gets depends on its name and `seed` alone.
    Buildings that are already there are kept, so that an interrupted rendering goes on; a building's folder appears
    only when it is complete. Raises EnvsError for an unknown task, two buildings of one name, or a folder that holds
    images of another size, seed or number; SceneError for a building that cannot be used.
    """
    for task in tasks:
        if task not in FOLDERS:
            raise EnvsError(f"unknown task {task!r}{nearest(task, FOLDERS)}; there are {', '.join(TASKS)}")
    if not tasks or views_per_building < 1 or size < 8:
        raise EnvsError(f"nothing to render: tasks {list(tasks)}, {views_per_building} views, size {size} (at least 8)")
    names = [path.stem for path in scene_paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise EnvsError(f"two buildings are called {twice[0]!r}; their images would share a folder")
    _claim(out_dir, {"views_per_building": views_per_building, "size": size, "seed": seed})
    folders = sorted({"rgb", *(FOLDERS[t] for t in tasks), *(("mask_valid",) if set(tasks) & set(_MASKED) else ())})
    camera = CameraConfig(width=size, height=size)
    with tqdm(total=len(names) * views_per_building, desc="rendering", unit="view", disable=not progress) as bar:
        for path in scene_paths:
            if all((out_dir / folder / path.stem).is_dir() for folder in folders):
                bar.update(views_per_building)
                continue
            _render_building(path, out_dir, folders, tasks, viewpoints(path, views_per_building, seed), camera, bar)
    return out_dir


def _claim(out_dir: Path, made: dict[str, Any]) -> None:
    """Write how the folder is made, or check that it was made so."""
    manifest = out_dir / "render.json"
    if manifest.exists():
        try:
            before = json.loads(manifest.read_text())
        except json.JSONDecodeError:
            raise EnvsError(f"{manifest}: not JSON; choose another folder") from None
        if before != made:
            raise EnvsError(f"{out_dir} holds images made with {before}, not {made}; choose another folder")
    else:
        with atomic_path(manifest) as temporary:
            temporary.write_text(json.dumps(made) + "\n")


def _render_building(
    path: Path, out_dir: Path, folders: list[str], tasks: Sequence[str], poses: F64, camera: CameraConfig, bar: Any
) -> None:
    """Render a building into hidden folders, then give them their names."""
    if not np.isfinite(poses).all():
        raise SceneError(f"{path}: has no walkable floor to take pictures from")
    renderer = TargetRenderer(load_scene(path), camera)
    hidden = {folder: out_dir / folder / f".{path.stem}.part" for folder in folders}
    for part in hidden.values():
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    for start in range(0, len(poses), _BATCH):
        pixels = renderer.render(poses[start : start + _BATCH], tasks)
        for folder, part in hidden.items():
            for k, image in enumerate(pixels[folder]):
                name = f"point_{start + k}_view_0_domain_{folder}.png"
                Image.fromarray(image).save(part / name, compress_level=1)
        bar.update(len(pixels["rgb"]))
    for folder, part in hidden.items():
        final = out_dir / folder / path.stem
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
