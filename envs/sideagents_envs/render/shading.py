"""The compiled halves of the renderer: rays before Embree, pixels after it. One pass each, single precision."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]

SNAP = 2.0**14  # camera positions and vertices lie on a grid of 1/SNAP metres (0.06 mm), see render.py
MESH = 0  # Embree's number of the only mesh; other numbers: nothing was hit
SKY = (178, 204, 229)  # what a ray sees that hits nothing
AMBIENT = np.float32(0.35)  # head light of plain surfaces: AMBIENT + (1 - AMBIENT) |cos(angle of incidence)|

_ZERO = np.float32(0)
_ONE = np.float32(1)
_HALF = np.float32(0.5)


class Surface(NamedTuple):
    """Appearance of all triangles of a building.

    paint (F, 16) float32, one cache line each: colours of the three corners in [0, 1], their texture coordinates,
    texels per metre; texture (F,) int32 row of `levels`; lit (F,) bool, under the head light or not; semantic (F,)
    int32; levels (L, 4) int32: first texel, height, width, and how many times halved copies follow; texels (P, 3)
    uint8, row 0 white for faces without a texture.
    """

    paint: Float32
    texture: Int32
    lit: npt.NDArray[np.bool_]
    semantic: Int32
    levels: Int32
    texels: UInt8


@nb.njit(cache=True)
def cast_rays(view: Float32, poses: Float64, eye_height: float, rays: Any) -> None:
    """Fill origins and directions (n, 3) of N images from `view` (H*W, 3), camera-frame directions; n = N*H*W.

    A direction has length 1 along the optical axis, so that the reach of a ray is depth.
    """
    origins, directions = rays
    n_pixels = len(view)
    for image in range(len(poses)):
        sin, cos = np.float32(np.sin(poses[image, 3])), np.float32(np.cos(poses[image, 3]))
        ox = np.float32(np.rint(poses[image, 0] * SNAP) / SNAP)
        oy = np.float32(np.rint((poses[image, 1] + eye_height) * SNAP) / SNAP)
        oz = np.float32(np.rint(poses[image, 2] * SNAP) / SNAP)
        base = image * n_pixels
        for p in range(n_pixels):
            x, y = view[p, 0], view[p, 1]
            i = base + p
            origins[i, 0] = ox
            origins[i, 1] = oy
            origins[i, 2] = oz
            directions[i, 0] = x * cos - sin
            directions[i, 1] = y
            directions[i, 2] = -x * sin - cos


@nb.njit(cache=True)
def shade(view: Float32, poses: Float64, directions: Float32, hits: Any, surface: Surface, wanted: Any) -> None:
    """Fill the wanted channels from Embree's hits; a channel of length 0 is not wanted.

    `wanted` = rgb uint8 (n, 3), depth, distance float32 (n,), normals float32 (n, 3), semantic int32 (n,), n = N*H*W.
    """
    geometry, primitive, u_hit, v_hit, reach, face_normal = hits
    rgb, depth, distance, normals, semantic = wanted
    paint, texture, lit, labels, levels, texels = surface  # attribute access in the loop costs 30 ns
    n_pixels = len(view)
    pixel = np.abs(view[1, 0] - view[0, 0]) if n_pixels > 1 else _ONE
    for image in range(len(poses)):
        sin, cos = np.float32(np.sin(poses[image, 3])), np.float32(np.cos(poses[image, 3]))
        for p in range(n_pixels):
            i = image * n_pixels + p
            if geometry[i] != MESH:
                _nothing(i, rgb, depth, distance, normals, semantic)
                continue
            face = primitive[i]
            along = reach[i]
            if len(depth):
                depth[i] = along
            if len(distance):
                x, y = view[p, 0], view[p, 1]
                distance[i] = along * np.sqrt(x * x + y * y + _ONE)
            if len(semantic):
                semantic[i] = labels[face]
            if len(normals):
                _normal(i, face_normal, directions, sin, cos, normals)
            if len(rgb):
                light = _head_light(i, face_normal, directions) if lit[face] else _ONE
                _color(i, face, u_hit[i], v_hit[i], light, along * pixel, paint, texture[face], levels, texels, rgb)


@nb.njit(cache=True, inline="always")
def _nothing(i: int, rgb: UInt8, depth: Float32, distance: Float32, normals: Float32, semantic: Int32) -> None:
    if len(rgb):
        rgb[i, 0], rgb[i, 1], rgb[i, 2] = SKY
    if len(depth):
        depth[i] = _ZERO
    if len(distance):
        distance[i] = _ZERO
    if len(normals):
        normals[i, 0] = normals[i, 1] = normals[i, 2] = _ZERO
    if len(semantic):
        semantic[i] = -1


@nb.njit(cache=True, inline="always")
def _normal(i: int, normal: Float32, direction: Float32, sin: Any, cos: Any, out: Float32) -> None:
    """Unit normal on the camera's side of the surface, in the camera's frame: right, up, towards the viewer."""
    x, y, z = normal[i, 0], normal[i, 1], normal[i, 2]
    length = np.sqrt(x * x + y * y + z * z)
    scale = _ONE / length if length > _ZERO else _ZERO
    if x * direction[i, 0] + y * direction[i, 1] + z * direction[i, 2] > _ZERO:
        scale = -scale
    out[i, 0] = (x * cos - z * sin) * scale
    out[i, 1] = y * scale
    out[i, 2] = (x * sin + z * cos) * scale


@nb.njit(cache=True, inline="always")
def _head_light(i: int, normal: Float32, direction: Float32) -> Any:
    nx, ny, nz = normal[i, 0], normal[i, 1], normal[i, 2]
    dx, dy, dz = direction[i, 0], direction[i, 1], direction[i, 2]
    lengths = (nx * nx + ny * ny + nz * nz) * (dx * dx + dy * dy + dz * dz)
    facing = np.abs(nx * dx + ny * dy + nz * dz) / np.sqrt(lengths) if lengths > _ZERO else _ONE
    return AMBIENT + (_ONE - AMBIENT) * facing


@nb.njit(cache=True, inline="always")
def _color(
    i: int,
    face: int,
    u: Any,
    v: Any,
    light: Any,
    footprint: Any,
    paint: Float32,
    texture: int,
    levels: Int32,
    texels: UInt8,
    rgb: UInt8,
) -> None:
    """Interpolated corner colour x texel x light; u and v are the weights of the second and third corner.

    The texel comes from the copy of the texture whose texels are about as large as the pixel's `footprint` in metres,
    so that fine patterns far away are averaged instead of sampled at random; near by it is the texture itself.
    """
    w = _ONE - u - v
    # the exponent of a float is the floor of its logarithm: no division, no branch
    halvings = (np.float32(footprint * paint[face, 15] + _ONE).view(np.int32) >> 23) - 127
    level = texture + min(halvings, levels[texture, 3])
    s = w * paint[face, 9] + u * paint[face, 11] + v * paint[face, 13]
    t = w * paint[face, 10] + u * paint[face, 12] + v * paint[face, 14]
    first, height, width = levels[level, 0], levels[level, 1], levels[level, 2]
    column = min(np.int64((s - np.floor(s)) * np.float32(width)), width - 1)
    row = min(np.int64((t - np.floor(t)) * np.float32(height)), height - 1)
    texel = first + row * width + column
    for c in range(3):
        color = w * paint[face, c] + u * paint[face, 3 + c] + v * paint[face, 6 + c]
        rgb[i, c] = np.uint8(color * light * np.float32(texels[texel, c]) + _HALF)
