"""The compiled halves of the renderer: rays before Embree, pixels after it. One pass each, single precision."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

SNAP = 2.0**14  # camera positions and vertices lie on a grid of 1/SNAP metres (0.06 mm), see render.py
FAR = np.float32(1e30)
SKY = (178, 204, 229)  # what a ray sees that hits nothing
AMBIENT = np.float32(0.35)  # head light of plain surfaces: AMBIENT + (1 - AMBIENT) |cos(angle of incidence)|

_ZERO = np.float32(0)
_ONE = np.float32(1)
_HALF = np.float32(0.5)


class Surface(NamedTuple):
    """Appearance of all triangles of all buildings, building by building.

    uv (F, 3, 2) float32; colors (F, 3, 3) uint8; texture (F,) int32, -1 for none; lit (F,) bool, head light or not;
    semantic (F,) int32; row t of `levels` = first texel,
    height and width of texture t in `texels` (P, 3) uint8; first_face (S,) int64 per building.
    """

    uv: Float32
    colors: UInt8
    texture: Int32
    lit: npt.NDArray[np.bool_]
    semantic: Int32
    texels: UInt8
    levels: Int64
    first_face: Int64


@nb.njit(cache=True)
def cast_rays(
    view: Float32, scene: Int64, poses: Float64, eye_height: float, offsets: Float64, cells: Float64, rays: Any
) -> None:
    """Fill origins, directions (n, 3), reach and start (n,) of N images from `view` (H*W, 3), camera-frame directions.

    A direction has length 1 along the optical axis, so that reach is depth. A ray starts at its camera, or, when the
    camera stands outside of its building's cell (2, 3), where it enters the cell; there it also ends.
    """
    origins, directions, reach, start = rays
    n_pixels = len(view)
    for image in range(len(poses)):
        s = scene[image]
        sin, cos = np.float32(np.sin(poses[image, 3])), np.float32(np.cos(poses[image, 3]))
        local = np.empty(3, np.float64)
        local[0] = np.rint(poses[image, 0] * SNAP) / SNAP
        local[1] = np.rint((poses[image, 1] + eye_height) * SNAP) / SNAP
        local[2] = np.rint(poses[image, 2] * SNAP) / SNAP
        inside = True
        for axis in range(3):
            inside = inside and cells[s, 0, axis] <= local[axis] <= cells[s, 1, axis]
        ox = np.float32(local[0] + offsets[s, 0])
        oy = np.float32(local[1] + offsets[s, 1])
        oz = np.float32(local[2] + offsets[s, 2])
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
            reach[i] = FAR
            start[i] = _ZERO
        if not inside:
            for i in range(base, base + n_pixels):
                _clip(local, cells[s], origins[i], directions[i], reach, start, i)


@nb.njit(cache=True)
def _clip(
    local: Float64, cell: Float64, origin: Float32, direction: Float32, reach: Float32, start: Float32, i: int
) -> None:
    """Limit ray i to its building's cell; a ray that misses the cell gets no reach at all."""
    enter, leave = 0.0, 1e30
    for axis in range(3):
        d = float(direction[axis])
        if d == 0.0:
            if not cell[0, axis] <= local[axis] <= cell[1, axis]:
                leave = -1.0
            continue
        a = (cell[0, axis] - local[axis]) / d
        b = (cell[1, axis] - local[axis]) / d
        enter = max(enter, min(a, b))
        leave = min(leave, max(a, b))
    if leave <= enter:
        reach[i] = _ZERO
        return
    start[i] = np.float32(enter)
    reach[i] = np.float32(leave - enter)
    for axis in range(3):
        origin[axis] = np.float32(origin[axis] + enter * direction[axis])


@nb.njit(cache=True)
def shade(view: Float32, scene: Int64, poses: Float64, rays: Any, hits: Any, surface: Surface, wanted: Any) -> None:
    """Fill the wanted channels from Embree's hits; a channel of length 0 is not wanted.

    `wanted` = rgb uint8 (n, 3), depth, distance float32 (n,), normals float32 (n, 3), semantic int32 (n,), n = N*H*W.
    """
    _, directions, _, start = rays
    geometry, primitive, u_hit, v_hit, reach, face_normal = hits
    rgb, depth, distance, normals, semantic = wanted
    n_pixels = len(view)
    for image in range(len(poses)):
        s = scene[image]
        sin, cos = np.float32(np.sin(poses[image, 3])), np.float32(np.cos(poses[image, 3]))
        for p in range(n_pixels):
            i = image * n_pixels + p
            if geometry[i] != s:
                _nothing(i, rgb, depth, distance, normals, semantic)
                continue
            face = surface.first_face[s] + primitive[i]
            along = start[i] + reach[i]
            if len(depth):
                depth[i] = along
            if len(distance):
                x, y = view[p, 0], view[p, 1]
                distance[i] = along * np.sqrt(x * x + y * y + _ONE)
            if len(semantic):
                semantic[i] = surface.semantic[face]
            if len(normals):
                _normal(i, face_normal[i], directions[i], sin, cos, normals)
            if len(rgb):
                light = _head_light(face_normal[i], directions[i]) if surface.lit[face] else _ONE
                _color(i, face, u_hit[i], v_hit[i], light, surface, rgb)


@nb.njit(cache=True)
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


@nb.njit(cache=True)
def _normal(i: int, n: Float32, d: Float32, sin: np.float32, cos: np.float32, out: Float32) -> None:
    """Unit normal on the camera's side of the surface, in the camera's frame: right, up, towards the viewer."""
    length = np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2])
    if length == _ZERO:
        out[i, 0] = out[i, 1] = out[i, 2] = _ZERO
        return
    scale = _ONE / length
    if n[0] * d[0] + n[1] * d[1] + n[2] * d[2] > _ZERO:
        scale = -scale
    out[i, 0] = (n[0] * cos - n[2] * sin) * scale
    out[i, 1] = n[1] * scale
    out[i, 2] = (n[0] * sin + n[2] * cos) * scale


@nb.njit(cache=True)
def _head_light(n: Float32, d: Float32) -> Any:
    along = n[0] * d[0] + n[1] * d[1] + n[2] * d[2]
    lengths = (n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) * (d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
    if lengths == _ZERO:
        return _ONE
    return AMBIENT + (_ONE - AMBIENT) * np.abs(along) / np.sqrt(lengths)


@nb.njit(cache=True)
def _color(i: int, face: int, u: np.float32, v: np.float32, light: np.float32, surface: Surface, rgb: UInt8) -> None:
    """Corner colours, interpolated, times the texel, times the light; u and v weigh the second and third corner."""
    w = _ONE - u - v
    color = surface.colors[face]
    red = (w * color[0, 0] + u * color[1, 0] + v * color[2, 0]) * light
    green = (w * color[0, 1] + u * color[1, 1] + v * color[2, 1]) * light
    blue = (w * color[0, 2] + u * color[1, 2] + v * color[2, 2]) * light
    texture = surface.texture[face]
    if texture >= 0:
        uv = surface.uv[face]
        s = w * uv[0, 0] + u * uv[1, 0] + v * uv[2, 0]
        t = w * uv[0, 1] + u * uv[1, 1] + v * uv[2, 1]
        first, height, width = surface.levels[texture]
        column = min(int((s - np.floor(s)) * np.float32(width)), width - 1)
        row = min(int((t - np.floor(t)) * np.float32(height)), height - 1)
        texel = surface.texels[first + row * width + column]
        scale = np.float32(1 / 255)
        red *= texel[0] * scale
        green *= texel[1] * scale
        blue *= texel[2] * scale
    rgb[i, 0] = np.uint8(red + _HALF)
    rgb[i, 1] = np.uint8(green + _HALF)
    rgb[i, 2] = np.uint8(blue + _HALF)
