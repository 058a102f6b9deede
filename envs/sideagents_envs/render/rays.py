"""First-person images by ray casting with Embree: one call renders all cameras in one building."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from PIL import Image

from sideagents_envs.config import CameraConfig
from sideagents_envs.errors import EnvsError, nearest
from sideagents_envs.render.shading import MESH, SNAP, Surface, cast_rays, shade
from sideagents_envs.scenes.scene import SceneMesh

CHANNELS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "rgb": (np.uint8, (3,)),
    "depth": (np.float32, ()),
    "distance": (np.float32, ()),
    "normals": (np.float32, (3,)),
    "semantic": (np.int32, ()),
}


class Renderer:
    """Renders batches of poses in one building: one call casts all rays.

    Vertices and cameras lie on a grid of 1/16384 m: their differences, which ray casting works with, are then exact in
    single precision within a kilometre.

    Embree's fast mode, which takes four fifths of the time, loses rays that run exactly along an edge. Rays that hit
    nothing are therefore cast once more in its robust mode, so that no closed surface is seen through.
    """

    def __init__(self, camera: CameraConfig, scene: SceneMesh) -> None:
        self.camera = camera
        self.scene = scene
        self._view = _view_directions(camera)
        self._rays = _ray_buffers(0)
        self._fast = _embree_scene(scene, robust=False)
        self._surface = _surface(scene)

    def render(self, poses: npt.ArrayLike, channels: Iterable[str] = ("rgb",)) -> dict[str, npt.NDArray[Any]]:
        """Render N images in one ray-casting call.

        poses (N, 4): x, y of the floor under the agent, z in metres, yaw in radians, to the left.
        channels, each (N, H, W): `rgb` uint8 (.., 3); `depth` float32 metres along the optical axis, `distance` float32
        metres along the ray, both 0 where nothing is hit; `normals` float32 (.., 3) unit, camera frame (right, up,
        towards the viewer), 0 where nothing is hit; `semantic` int32 index into the building's `objects`, -1 nothing.
        Raises EnvsError for an unknown channel, or a pose that is not finite.
        """
        pose = np.array(poses, np.float64, order="C")  # a copy: numba would compile once more for read-only input
        names = tuple(channels)
        self._check(pose, names)
        n = len(pose) * len(self._view)
        if len(self._rays[0]) != n:
            self._rays = _ray_buffers(n)
        cast_rays(self._view, pose, self.camera.height_m, self._rays)
        directions = self._rays[1]
        hit = self._cast()
        hits = (hit["geomID"], hit["primID"], hit["u"], hit["v"], hit["tfar"], hit["Ng"])
        wanted = {
            name: np.empty((n if name in names else 0, *shape), dtype) for name, (dtype, shape) in CHANNELS.items()
        }
        shade(self._view, pose, directions, hits, self._surface, tuple(wanted.values()))
        size = (len(pose), self.camera.height, self.camera.width)
        return {name: wanted[name].reshape(*size, *CHANNELS[name][1]) for name in names}

    def _cast(self) -> dict[str, npt.NDArray[Any]]:
        """Cast the prepared rays; what hits nothing is cast again with care."""
        origins, directions = self._rays
        hit: dict[str, npt.NDArray[Any]] = self._fast.run(origins, directions, output=True)
        lost = np.flatnonzero(hit["geomID"] != MESH)
        if lost.size:
            again = self._robust.run(origins[lost], directions[lost], output=True)
            for name, values in hit.items():
                values[lost] = again[name]
        return hit

    @cached_property
    def _robust(self) -> EmbreeScene:
        return _embree_scene(self.scene, robust=True)  # made when a ray is lost: in closed buildings never

    def _check(self, pose: npt.NDArray[np.float64], names: tuple[str, ...]) -> None:
        for name in names:
            if name not in CHANNELS:
                raise EnvsError(f"unknown channel {name!r}{nearest(name, CHANNELS)}; there are {', '.join(CHANNELS)}")
        if pose.ndim != 2 or pose.shape[1] != 4:
            raise EnvsError(f"expected poses (N, 4), got {pose.shape}")
        if not np.isfinite(pose).all():
            raise EnvsError(f"pose {int(np.flatnonzero(~np.isfinite(pose).all(axis=1))[0])} is not finite")


def _embree_scene(scene: SceneMesh, *, robust: bool) -> EmbreeScene:
    embree = EmbreeScene(robust=robust)
    snapped = np.rint(scene.vertices.astype(np.float64) * SNAP) / SNAP
    TriangleMesh(embree, snapped.astype(np.float32), scene.faces)
    return embree


def _view_directions(camera: CameraConfig) -> npt.NDArray[np.float32]:
    """Directions through the pixel centres, row by row from the top left, (H*W, 3), with z = -1."""
    pixel = 2.0 * math.tan(math.radians(camera.hfov_deg) / 2) / camera.width
    x = (np.arange(camera.width) + 0.5 - camera.width / 2) * pixel
    y = (camera.height / 2 - np.arange(camera.height) - 0.5) * pixel
    directions = np.empty((camera.height, camera.width, 3), np.float32)
    directions[..., 0], directions[..., 1], directions[..., 2] = x[None, :], y[:, None], -1.0
    return directions.reshape(-1, 3)


def _ray_buffers(n: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Origins and directions (n, 3)."""
    return np.empty((n, 3), np.float32), np.empty((n, 3), np.float32)


def _surface(scene: SceneMesh) -> Surface:
    """Lay out the building's appearance for the shader."""
    white = np.full((1, 1, 3), 255, np.uint8)
    pyramids = [_halvings(texture) for texture in (white, *scene.textures)]
    first_level = np.cumsum([0] + [len(pyramid) for pyramid in pyramids])
    images = [image for pyramid in pyramids for image in pyramid]
    first_texel = np.cumsum([0] + [image.shape[0] * image.shape[1] for image in images])
    levels = np.array([(f, *i.shape[:2], 0) for f, i in zip(first_texel, images, strict=False)], np.int32)
    for first, pyramid in zip(first_level, pyramids, strict=False):
        levels[first, 3] = len(pyramid) - 1

    texture = first_level[np.where(scene.texture_id >= 0, scene.texture_id + 1, 0)].astype(np.int32)
    paint = np.empty((scene.n_triangles, 16), np.float32)
    paint[:, :9] = scene.colors.reshape(-1, 9)
    paint[:, :9] /= 255
    paint[:, 9:15] = scene.uv.reshape(-1, 6)
    paint[:, 15] = _uv_per_metre(scene)
    paint[:, 15] *= np.sqrt(levels[texture, 1] * levels[texture, 2].astype(np.float32))
    return Surface(
        paint=paint,
        texture=texture,
        lit=~scene.unlit,
        semantic=scene.semantic_id.copy(),
        levels=levels,
        texels=np.concatenate([image.reshape(-1, 3) for image in images]),
    )


def _halvings(texture: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
    """Return the texture and its copies at half, a quarter ... of its size, down to one texel across."""
    pyramid = [texture]
    while min(pyramid[-1].shape[:2]) > 1:
        pyramid.append(np.asarray(Image.fromarray(pyramid[-1]).reduce(2)))
    return pyramid


def _uv_per_metre(scene: SceneMesh) -> npt.NDArray[np.float32]:
    """Square root of area in texture coordinates per square metre of each triangle, (F,); 0 for slivers."""
    corners = scene.vertices[scene.faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    (a, b), (c, d) = (scene.uv[:, 1] - scene.uv[:, 0]).T, (scene.uv[:, 2] - scene.uv[:, 0]).T
    covered = np.abs(a * d - b * c)
    density: npt.NDArray[np.float32] = np.divide(covered, area, out=np.zeros_like(area), where=area > 1e-12)
    return np.sqrt(density)
