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
from sideagents_envs.render.packets import LANES, Library, PacketScene, new_packets, packet_library
from sideagents_envs.render.shading import (
    MESH,
    PACKETS,
    SNAP,
    Block,
    Surface,
    Tiles,
    cast_rays,
    new_block,
    render_packets,
    shade_hits,
)
from sideagents_envs.scenes.scene import SceneMesh

CHANNELS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "rgb": (np.uint8, (3,)),
    "depth": (np.float32, ()),
    "distance": (np.float32, ()),
    "normals": (np.float32, (3,)),
    "semantic": (np.int32, ()),
}


_LONGEST = 0xFFFF  # texels of a texture's side: 16 bits, see `Surface.levels`
_TILE = (2, 4)  # pixels across and down whose rays are cast together


class Renderer:
    """Renders batches of poses in one building: one call casts all rays.

    Vertices and cameras lie on a grid of 1/16384 m: their differences, which ray casting works with, are then exact in
    single precision within a kilometre.

    Embree's fast mode, which takes most of the time, loses rays that run exactly along an edge. Rays that hit nothing
    are therefore cast once more in its robust mode, so that no closed surface is seen through; of eight neighbours that
    all hit nothing, one (see `cast_packet`). `lost`: how many rays of the last call hit nothing at first. packets: rays
    are cast eight at a time where the processor can.
    """

    def __init__(self, camera: CameraConfig, scene: SceneMesh, *, packets: bool = True) -> None:
        self.camera = camera
        self.scene = scene
        self.lost = 0
        library = packet_library() if packets else None
        self.rays = SingleRays(camera, scene) if library is None else PacketRays(camera, scene, library)
        self._surface = _surface(scene)
        self._block = new_block()

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
        n = len(pose) * self.camera.height * self.camera.width
        wanted = {
            name: np.empty((n if name in names else 0, *shape), dtype) for name, (dtype, shape) in CHANNELS.items()
        }
        self.lost = self.rays.fill(pose, self._surface, self._block, tuple(wanted.values()))
        size = (len(pose), self.camera.height, self.camera.width)
        return {name: wanted[name].reshape(*size, *CHANNELS[name][1]) for name in names}

    def _check(self, pose: npt.NDArray[np.float64], names: tuple[str, ...]) -> None:
        for name in names:
            if name not in CHANNELS:
                raise EnvsError(f"unknown channel {name!r}{nearest(name, CHANNELS)}; there are {', '.join(CHANNELS)}")
        if pose.ndim != 2 or pose.shape[1] != 4:
            raise EnvsError(f"expected poses (N, 4), got {pose.shape}")
        if not np.isfinite(pose).all():
            raise EnvsError(f"pose {int(np.flatnonzero(~np.isfinite(pose).all(axis=1))[0])} is not finite")


class PacketRays:
    """Rays eight at a time, and no image of rays or hits in memory."""

    def __init__(self, camera: CameraConfig, scene: SceneMesh, library: Library) -> None:
        self._camera, self._scene, self._library = camera, scene, library
        self.tiles = _tiles(camera, *_TILE)
        self.packets = new_packets(PACKETS)
        self._fast = PacketScene(library, _snapped(scene), scene.faces, robust=False)
        self._robust: PacketScene | None = None  # made when a ray is lost: in closed buildings never

    def scenes(self) -> npt.NDArray[np.int64]:
        """Return the addresses of Embree's function, of the fast scene, and of the robust one, 0 without it."""
        robust = 0 if self._robust is None else self._robust.handle
        return np.array([self._library.intersect, self._fast.handle, robust], np.int64)

    def fill(self, poses: npt.NDArray[np.float64], surface: Surface, block: Block, wanted: tuple[Any, ...]) -> int:
        """Fill the wanted channels; return how many rays hit nothing in the fast mode."""
        lost = self._render(poses, surface, block, wanted)
        if lost and self._robust is None:
            self._robust = PacketScene(self._library, _snapped(self._scene), self._scene.faces, robust=True)
            lost = self._render(poses, surface, block, wanted)
        return lost

    def _render(self, poses: npt.NDArray[np.float64], surface: Surface, block: Block, wanted: tuple[Any, ...]) -> int:
        pixels, height = self._camera.height * self._camera.width, self._camera.height_m
        lost: int = render_packets(
            self.scenes(), pixels, self.tiles, poses, height, surface, self.packets, block, wanted
        )
        return lost


class SingleRays:
    """One ray after another, by embreex's own classes: for processors and versions without packets."""

    def __init__(self, camera: CameraConfig, scene: SceneMesh) -> None:
        self._camera, self._scene = camera, scene
        self._view = _view_directions(camera)
        self._tiles = _tiles(camera, camera.width, 1)
        self._fast = _embree_scene(scene, robust=False)

    def fill(self, poses: npt.NDArray[np.float64], surface: Surface, block: Block, wanted: tuple[Any, ...]) -> int:
        """Fill the wanted channels; return how many rays hit nothing in the fast mode."""
        n = len(poses) * len(self._view)
        rays = np.empty((n, 3), np.float32), np.empty((n, 3), np.float32)
        cast_rays(self._view, poses, self._camera.height_m, rays)
        hit: dict[str, npt.NDArray[Any]] = self._fast.run(*rays, output=True)
        lost = np.flatnonzero(hit["geomID"] != MESH)
        if lost.size:
            again = self._robust.run(rays[0][lost], rays[1][lost], output=True)
            for name, values in hit.items():
                values[lost] = again[name]
        hits = tuple(hit[name] for name in ("geomID", "primID", "u", "v", "tfar", "Ng"))
        shade_hits(hits, self._tiles, poses, surface, block, wanted)
        return int(lost.size)

    @cached_property
    def _robust(self) -> EmbreeScene:
        return _embree_scene(self._scene, robust=True)  # made when a ray is lost: in closed buildings never


def _embree_scene(scene: SceneMesh, *, robust: bool) -> EmbreeScene:
    embree = EmbreeScene(robust=robust)
    TriangleMesh(embree, _snapped(scene), scene.faces)
    return embree


def _snapped(scene: SceneMesh) -> npt.NDArray[np.float32]:
    """The building's vertices on the grid."""
    snapped: npt.NDArray[np.float64] = np.rint(scene.vertices.astype(np.float64) * SNAP) / SNAP
    return snapped.astype(np.float32)


def _tiles(camera: CameraConfig, across: int, down: int) -> Tiles:
    """Return an image's pixels tile by tile; those at its edges fill the tiles that reach beyond them."""
    rows = np.minimum(np.arange(-(-camera.height // down) * down), camera.height - 1)
    columns = np.minimum(np.arange(-(-camera.width // across) * across), camera.width - 1)
    grid = rows[:, None] * camera.width + columns
    parts = grid.reshape(len(rows) // down, down, len(columns) // across, across).swapaxes(1, 2).reshape(-1)
    pixel = np.concatenate([parts, np.repeat(parts[-1:], -len(parts) % LANES)]).astype(np.int32)
    view = _view_directions(camera)[pixel]
    return Tiles(pixel, np.ascontiguousarray(view[:, 0]), np.ascontiguousarray(view[:, 1]))


def _view_directions(camera: CameraConfig) -> npt.NDArray[np.float32]:
    """Directions through the pixel centres, row by row from the top left, (H*W, 3), with z = -1."""
    pixel = 2.0 * math.tan(math.radians(camera.hfov_deg) / 2) / camera.width
    x = (np.arange(camera.width) + 0.5 - camera.width / 2) * pixel
    y = (camera.height / 2 - np.arange(camera.height) - 0.5) * pixel
    directions = np.empty((camera.height, camera.width, 3), np.float32)
    directions[..., 0], directions[..., 1], directions[..., 2] = x[None, :], y[:, None], -1.0
    return directions.reshape(-1, 3)


def _surface(scene: SceneMesh) -> Surface:
    """Lay out the building's appearance for the shader."""
    white = np.full((1, 1, 3), 255, np.uint8)
    pyramids = [_halvings(texture) for texture in (white, *scene.textures)]
    first_level = np.cumsum([0] + [len(pyramid) for pyramid in pyramids])
    images = [image for pyramid in pyramids for image in pyramid]
    first_texel = np.cumsum([0] + [image.shape[0] * image.shape[1] for image in images])
    levels = np.array([(f, i.shape[0] << 16 | i.shape[1]) for f, i in zip(first_texel, images, strict=False)])
    copies = np.array([len(pyramid) - 1 for pyramid in pyramids])
    place = np.where(scene.texture_id >= 0, scene.texture_id + 1, 0)
    sides = np.sqrt(np.array([float(pyramid[0].shape[0] * pyramid[0].shape[1]) for pyramid in pyramids], np.float32))
    paint = np.empty((scene.n_triangles, 16), np.float32)
    paint[:, :9] = scene.colors.reshape(-1, 9)
    paint[:, :9] /= 255
    paint[:, 9:15] = scene.uv.reshape(-1, 6)
    paint[:, 15] = _uv_per_metre(scene)
    paint[:, 15] *= sides[place]
    return Surface(
        paint=paint,
        texture=(32 * first_level[place] + copies[place]).astype(np.int32),
        lit=~scene.unlit,
        any_lit=bool((~scene.unlit).any()),
        semantic=scene.semantic_id.copy(),
        levels=levels.astype(np.uint32).view(np.int32),
        texels=np.concatenate([_packed(image) for image in images]),
    )


def _packed(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Return an image's texels (H * W,), red the lowest byte."""
    texels = image.reshape(-1, 3).astype(np.int32)
    packed: npt.NDArray[np.int32] = texels[:, 0] | texels[:, 1] << 8 | texels[:, 2] << 16
    return packed


def _halvings(texture: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
    """Return the texture and its copies at half, a quarter ... of its size, down to one texel across."""
    thinned = -(-max(texture.shape[:2]) // _LONGEST)
    pyramid = [texture[::thinned, ::thinned]]
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
