"""First-person images by ray casting with Embree: one call renders all cameras in one set of buildings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from PIL import Image

from sideagents_envs.config import CameraConfig
from sideagents_envs.errors import EnvsError, nearest
from sideagents_envs.scene import SceneMesh
from sideagents_envs.shading import SNAP, Surface, cast_rays, shade

CHANNELS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "rgb": (np.uint8, (3,)),
    "depth": (np.float32, ()),
    "distance": (np.float32, ()),
    "normals": (np.float32, (3,)),
    "semantic": (np.int32, ()),
}
_MARGIN = 2.0  # metres of free space around each building


class Renderer:
    """Renders batches of poses in a set of buildings, which stand in one Embree scene: one call casts all rays.

    `EmbeddedWorld` keeps one renderer for each building, and calls those whose buildings are in use.

    What a camera sees depends on its own building alone: buildings stand in disjoint cells of a ground grid, a ray that
    leaves its cell has hit nothing, and cells are whole metres apart with vertices and cameras on a grid of 1/16384 m,
    so that moving a building leaves the arithmetic of its rays unchanged.
    """

    def __init__(self, camera: CameraConfig, scenes: Sequence[SceneMesh]) -> None:
        self.camera = camera
        self._view = _view_directions(camera)
        self._rays = _ray_buffers(0)
        self.set_scenes(scenes)

    def set_scenes(self, scenes: Sequence[SceneMesh]) -> None:
        """Replace the buildings; `scene_index` of `render` counts along `scenes`."""
        if not scenes:
            raise EnvsError("a renderer needs at least one building")
        self.scenes = tuple(scenes)
        self._offsets, self._cells = _place([scene.bounds.astype(np.float64) for scene in self.scenes])
        self._embree = EmbreeScene(robust=True)
        for scene, offset in zip(self.scenes, self._offsets, strict=True):
            snapped = np.rint(scene.vertices.astype(np.float64) * SNAP) / SNAP + offset
            TriangleMesh(self._embree, snapped.astype(np.float32), scene.faces)
        self._surface = _surface(self.scenes)

    def render(
        self, scene_index: npt.ArrayLike, poses: npt.ArrayLike, channels: Iterable[str] = ("rgb",)
    ) -> dict[str, npt.NDArray[Any]]:
        """Render N images in one ray-casting call.

        scene_index (N,) int; poses (N, 4): x, y of the floor under the agent, z in metres, yaw in radians, to the left.
        channels, each (N, H, W): `rgb` uint8 (.., 3); `depth` float32 metres along the optical axis, `distance` float32
        metres along the ray, both 0 where nothing is hit; `normals` float32 (.., 3) unit, camera frame (right, up,
        towards the viewer), 0 where nothing is hit; `semantic` int32 index into the building's `objects`, -1 nothing.
        Raises EnvsError for an unknown channel, a building that is not there, or a pose that is not finite.
        """
        # copies: numba would compile once more for read-only input
        scene, pose = np.array(scene_index, np.int64, order="C"), np.array(poses, np.float64, order="C")
        names = tuple(channels)
        self._check(scene, pose, names)
        n = len(pose) * len(self._view)
        if len(self._rays[2]) != n:
            self._rays = _ray_buffers(n)
        cast_rays(self._view, scene, pose, self.camera.height_m, self._offsets, self._cells, self._rays)
        origins, directions, reach, _ = self._rays
        hit = self._embree.run(origins, directions, dists=reach, output=True)
        hits = (hit["geomID"], hit["primID"], hit["u"], hit["v"], hit["tfar"], hit["Ng"])
        wanted = {
            name: np.empty((n if name in names else 0, *shape), dtype) for name, (dtype, shape) in CHANNELS.items()
        }
        shade(self._view, scene, pose, self._rays, hits, self._surface, tuple(wanted.values()))
        size = (len(pose), self.camera.height, self.camera.width)
        return {name: wanted[name].reshape(*size, *CHANNELS[name][1]) for name in names}

    def _check(self, scene: npt.NDArray[np.int64], pose: npt.NDArray[np.float64], names: tuple[str, ...]) -> None:
        for name in names:
            if name not in CHANNELS:
                raise EnvsError(f"unknown channel {name!r}{nearest(name, CHANNELS)}; there are {', '.join(CHANNELS)}")
        if pose.ndim != 2 or pose.shape[1] != 4 or scene.shape != pose.shape[:1]:
            raise EnvsError(f"expected building indices (N,) and poses (N, 4), got {scene.shape} and {pose.shape}")
        if len(scene) and not 0 <= scene.min() <= scene.max() < len(self.scenes):
            raise EnvsError(f"building indices {scene.tolist()} must lie in 0..{len(self.scenes) - 1}")
        if not np.isfinite(pose).all():
            raise EnvsError(f"pose {int(np.flatnonzero(~np.isfinite(pose).all(axis=1))[0])} is not finite")


def _view_directions(camera: CameraConfig) -> npt.NDArray[np.float32]:
    """Directions through the pixel centres, row by row from the top left, (H*W, 3), with z = -1."""
    pixel = 2.0 * math.tan(math.radians(camera.hfov_deg) / 2) / camera.width
    x = (np.arange(camera.width) + 0.5 - camera.width / 2) * pixel
    y = (camera.height / 2 - np.arange(camera.height) - 0.5) * pixel
    directions = np.empty((camera.height, camera.width, 3), np.float32)
    directions[..., 0], directions[..., 1], directions[..., 2] = x[None, :], y[:, None], -1.0
    return directions.reshape(-1, 3)


def _ray_buffers(n: int) -> tuple[npt.NDArray[np.float32], ...]:
    """Origins, directions (n, 3), reach, start (n,)."""
    return tuple(np.empty(shape, np.float32) for shape in ((n, 3), (n, 3), (n,), (n,)))


def _place(bounds: list[npt.NDArray[np.float64]]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Place buildings in rows and columns on the ground, the first where it is.

    Returns whole-metre offsets (S, 3), and each building's cell (S, 2, 3) in its own coordinates; placed cells are
    disjoint in x or z.
    """
    boxes = np.array(bounds)
    boxes = np.stack([np.floor(boxes[:, 0] - _MARGIN), np.ceil(boxes[:, 1] + _MARGIN)], axis=1)
    columns = math.ceil(math.sqrt(len(boxes)))
    column, row = np.arange(len(boxes)) % columns, np.arange(len(boxes)) // columns
    offsets = np.zeros((len(boxes), 3))
    for axis, place in ((0, column), (2, row)):
        sizes = boxes[:, 1, axis] - boxes[:, 0, axis]
        widths = [sizes[place == i].max() for i in range(place.max() + 1)]
        starts = np.concatenate([[0.0], np.cumsum(widths)])
        offsets[:, axis] = boxes[0, 0, axis] + starts[place] - boxes[:, 0, axis]
    return offsets, boxes


def _surface(scenes: Sequence[SceneMesh]) -> Surface:
    """Join the appearance tables of the buildings."""
    white = np.full((1, 1, 3), 255, np.uint8)
    pyramids = [_halvings(texture) for texture in (white, *(t for scene in scenes for t in scene.textures))]
    first_level = np.cumsum([0] + [len(pyramid) for pyramid in pyramids])
    images = [image for pyramid in pyramids for image in pyramid]
    first_texel = np.cumsum([0] + [image.shape[0] * image.shape[1] for image in images])
    levels = np.array([(f, *i.shape[:2], 0) for f, i in zip(first_texel, images, strict=False)], np.int32)
    for first, pyramid in zip(first_level, pyramids, strict=False):
        levels[first, 3] = len(pyramid) - 1

    before = np.cumsum([1] + [len(scene.textures) for scene in scenes])
    ids = [np.where(s.texture_id >= 0, s.texture_id + n, 0) for s, n in zip(scenes, before, strict=False)]
    texture = first_level[np.concatenate(ids)].astype(np.int32)
    faces = np.cumsum([0] + [scene.n_triangles for scene in scenes])
    paint = np.empty((faces[-1], 16), np.float32)
    paint[:, :9] = np.concatenate([scene.colors.reshape(-1, 9) for scene in scenes])
    paint[:, :9] /= 255
    paint[:, 9:15] = np.concatenate([scene.uv.reshape(-1, 6) for scene in scenes])
    paint[:, 15] = np.concatenate([_uv_per_metre(scene) for scene in scenes])
    paint[:, 15] *= np.sqrt(levels[texture, 1] * levels[texture, 2].astype(np.float32))
    return Surface(
        paint=paint,
        texture=texture,
        lit=np.concatenate([~scene.unlit for scene in scenes]),
        semantic=np.concatenate([scene.semantic_id for scene in scenes]),
        levels=levels,
        texels=np.concatenate([image.reshape(-1, 3) for image in images]),
        first_face=faces[:-1].astype(np.int64),
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
