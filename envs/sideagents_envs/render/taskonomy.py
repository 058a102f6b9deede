"""Images of buildings with targets computed by the renderer, in the folder layout of Taskonomy (Zamir et al. 2018).

    OUT/rgb/BUILDING/point_P_view_0_domain_rgb.png                                  8 bit RGB
    OUT/principal_curvature/BUILDING/point_P_view_0_domain_principal_curvature.png  8 bit, see `curvature_pixels`
    OUT/depth_zbuffer/...   16 bit, 1/512 m along the optical axis, 65535 where nothing was hit
    OUT/normal/...          8 bit, 127 + 128 n: x to the right, y up, z towards the viewer
    OUT/edge_texture/...    16 bit, 65535 x gradient of the smoothed grey image
    OUT/edge_occlusion/...  16 bit, 65535 x jump of the depth
    OUT/depth_euclidean/... as depth_zbuffer, along the ray
    OUT/reshading/...       8 bit, 255 x cosine to a light at the camera
    OUT/keypoints2d/..., OUT/keypoints3d/...  16 bit, 65535 x corner response of the grey image, of the normals
    OUT/segment_semantic/...  8 bit, the number of the object's class
    OUT/class_scene/...npy  float32, 1 for the room that the camera stands in, else 0
    OUT/mask_valid/...      8 bit, 255 where a surface was hit; with targets that are of surfaces
    OUT/render.json         how it was made

Autoencoding and denoising need the RGB images alone: noise is drawn anew whenever an image is read for training. What
the pixels mean: `sideagents_envs.render.pixels`.
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
from tqdm import tqdm

from sideagents_envs.cache import atomic_path
from sideagents_envs.config import CameraConfig, NavMeshConfig
from sideagents_envs.errors import EnvsError, SceneError, nearest
from sideagents_envs.reading import MEGABYTE, read_regular
from sideagents_envs.render.curvature import corner_normals, face_normals, principal_curvatures, smoothing_groups
from sideagents_envs.render.pixels import (
    ROOM_CLASSES,
    curvature_pixels,
    depth_pixels,
    edge_pixels,
    keypoints2d_pixels,
    keypoints3d_pixels,
    normal_pixels,
    occlusion_pixels,
    reshading_pixels,
    room_number,
    semantic_number,
)
from sideagents_envs.render.rays import Renderer
from sideagents_envs.scenes.scene import SceneMesh, load_scene
from sideagents_envs.walk.navmesh import cached_navmesh

F64 = NDArray[np.float64]

FOLDERS = {
    "curvature": "principal_curvature",
    "denoising": "rgb",
    "depth": "depth_zbuffer",
    "normals": "normal",
    "autoencoding": "rgb",
    "edges": "edge_texture",
    "segmentation": "segment_semantic",
    "reshading": "reshading",
    "keypoints3d": "keypoints3d",
    "keypoints2d": "keypoints2d",
    "occlusion_edges": "edge_occlusion",
    "euclidean_depth": "depth_euclidean",
    "room": "class_scene",
}
TASKS = ("curvature", "denoising", "depth", "normals", "autoencoding", "edges")  # of the shipped bases
_OF_SURFACES = ("curvature", "normals", "reshading", "keypoints3d")  # computed from normals
_MASKED = (*_OF_SURFACES, "depth", "euclidean_depth", "occlusion_edges")
_HEIGHT_JITTER_M = 0.15
_LEVEL = 0.9  # vertical part of the normal of what counts as floor
_BATCH = 64


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
        of_objects = np.array([semantic_number(thing.category) for thing in scene.objects], np.uint8)
        self._classes = of_objects[scene.semantic_id]

    def render(self, poses: F64, tasks: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return pixels by folder name for poses (N,4); shapes (N,H,W[,3]), types as in the files; rooms (N,1,C)."""
        shown = self._renderer.render(poses, ("rgb", "depth", "semantic"))
        rgb, depth, face = shown["rgb"], shown["depth"], shown["semantic"]
        hit = face >= 0
        found: dict[str, NDArray[Any]] = {}
        if "edges" in tasks:
            found["edges"] = edge_pixels(rgb)
        if "keypoints2d" in tasks:
            found["keypoints2d"] = keypoints2d_pixels(rgb)
        if "depth" in tasks:
            found["depth"] = depth_pixels(depth)
        if "occlusion_edges" in tasks:
            found["occlusion_edges"] = occlusion_pixels(depth)
        if "segmentation" in tasks:
            found["segmentation"] = np.where(hit, self._classes[face], 0).astype(np.uint8)
        if "room" in tasks:
            found["room"] = self._rooms(poses)
        if set(tasks) & {*_OF_SURFACES, "euclidean_depth"}:
            found |= self._of_rays(poses, depth, face, hit, tasks)
        out = {"rgb": rgb, **{FOLDERS[task]: pixels for task, pixels in found.items()}}
        if set(tasks) & set(_MASKED):
            out["mask_valid"] = np.where(hit, 255, 0).astype(np.uint8)
        return out

    def _of_rays(
        self, poses: F64, depth: NDArray[Any], face: NDArray[np.int32], hit: NDArray[np.bool_], tasks: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """Return the targets that need to know from where a surface is seen."""
        found: dict[str, NDArray[Any]] = {}
        rays = self._rays(poses)
        length = np.sqrt(np.einsum("nhwk,nhwk->nhw", rays, rays))
        if "euclidean_depth" in tasks:
            found["euclidean_depth"] = depth_pixels(depth * length)
        if not set(tasks) & set(_OF_SURFACES):
            return found
        away = np.einsum("nhwk,nhwk->nhw", self._flat[face], rays) > 0  # the back of a surface
        if "curvature" in tasks:
            seen = np.where(away[..., None], -self._curvature[face][..., ::-1], self._curvature[face])
            found["curvature"] = curvature_pixels(np.where(hit[..., None], seen, 0.0))
        if not set(tasks) & {"normals", "reshading", "keypoints3d"}:
            return found
        world = self._interpolated(face, self._eyes(poses) + rays * depth[..., None])
        world = np.where(away[..., None], -world, world)
        world = np.where(hit[..., None], world, 0.0)
        if "reshading" in tasks:
            found["reshading"] = reshading_pixels(np.einsum("nhwk,nhwk->nhw", world, rays) / length)
        if "keypoints3d" in tasks:
            found["keypoints3d"] = keypoints3d_pixels(world)
        if "normals" in tasks:
            found["normals"] = normal_pixels(_in_camera(world, poses[:, 3]))
        return found

    def _rooms(self, poses: F64) -> NDArray[np.float32]:
        """Return (N,1,C): 1 for the type of the room whose floor is under the agent, the highest one below it."""
        floors = np.flatnonzero(self._flat[:, 1] > _LEVEL)
        corners = self._corners[floors]
        result = np.zeros((len(poses), 1, len(ROOM_CLASSES)), np.float32)
        for row, (x, y, z) in enumerate(poses[:, :3]):
            inside = _contains(corners[..., (0, 2)], np.array([x, z]))
            below = inside & (corners[..., 1].max(axis=1) <= y + 2 * _HEIGHT_JITTER_M)
            number = 0
            if below.any():
                candidates = np.flatnonzero(below)
                highest = candidates[np.argmax(corners[candidates, :, 1].max(axis=1))]
                number = room_number(self._scene.objects[self._scene.semantic_id[floors[highest]]].room)
            result[row, 0, number] = 1.0
        return result

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


def _contains(triangles: F64, point: F64) -> NDArray[np.bool_]:
    """Whether triangles (F,3,2) contain a point (2,), borders included."""
    following = np.roll(triangles, -1, axis=1)
    edge, to = following - triangles, point - triangles
    side = edge[..., 0] * to[..., 1] - edge[..., 1] * to[..., 0]
    inside: NDArray[np.bool_] = (side >= 0).all(axis=1) | (side <= 0).all(axis=1)
    return inside


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
            raise EnvsError(f"unknown task {task!r}{nearest(task, FOLDERS)}; there are {', '.join(FOLDERS)}")
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
            before = json.loads(read_regular(manifest, "how the folder is made", MEGABYTE, EnvsError))
        except ValueError:
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
                name = f"point_{start + k}_view_0_domain_{folder}"
                if folder == FOLDERS["room"]:
                    np.save(part / f"{name}.npy", image, allow_pickle=False)
                else:
                    Image.fromarray(image).save(part / f"{name}.png", compress_level=1)
        bar.update(len(pixels["rgb"]))
    for folder, part in hidden.items():
        final = out_dir / folder / path.stem
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
