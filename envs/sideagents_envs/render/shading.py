"""The compiled halves of the renderer: rays before Embree, pixels after it, in single precision.

Pixels are worked on in blocks that stay in the processor's nearest cache: a block has a row for every quantity, one
number for each of its pixels, so that each step of the work is a loop that the compiler makes vectors of.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sideagents_envs.kernels import kernel
from sideagents_envs.render.packets import (
    DIRECTION,
    FACE,
    HIT_U,
    HIT_V,
    LANES,
    MESH_ID,
    NORMAL,
    ORIGIN,
    PACKET,
    REACH,
    aligned,
    cast_packet,
    copy_lanes,
    fill_lanes,
)

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]

SNAP = 2.0**14  # camera positions and vertices lie on a grid of 1/SNAP metres (0.06 mm), see rays.py
MESH = 0  # Embree's number of the only mesh; other numbers: nothing was hit
SKY = (178, 204, 229)  # what a ray sees that hits nothing
AMBIENT = np.float32(0.35)  # head light of plain surfaces: AMBIENT + (1 - AMBIENT) |cos(angle of incidence)|

_ZERO = np.float32(0)
_ONE = np.float32(1)
_HALF = np.float32(0.5)
_SKY = np.int32(SKY[0] | SKY[1] << 8 | SKY[2] << 16)

_N = 256  # pixels of a block
PACKETS = _N // LANES  # of a block
_LANE_BYTES = 4 * LANES  # of a packet's row
# rows of a block: floats
_DX, _DY, _DZ, _ALONG, _U, _V, _NX, _NY, _NZ, _LIGHT = range(10)
_PAINT = 10  # 16 rows, as in `Surface.paint`
_RED, _PLACE = 26, 29  # rows of each colour; of both texture coordinates
_ENDLESS = 31  # infinity, from which a ray's reach comes
_FLOATS = 32
# rows of a block: integers
_FACE, _MESH, _TEXTURE, _LEVEL, _TEXEL, _SIZE, _OUT = range(7)
_NONE = 7  # -1: nothing is hit yet
_INTEGERS = 8


class Surface(NamedTuple):
    """Appearance of all triangles of a building.

    paint (F, 16) float32, one cache line each: colours of the three corners in [0, 1], their texture coordinates,
    texels per metre; texture (F,) int32: 32 x its row of `levels` + how many halved copies follow that; lit (F,) bool,
    under the head light or not, and whether any is; semantic (F,) int32; levels (L, 2) int32: first texel, and 65536 x
    height + width; texels (P,) int32, red the lowest byte, row 0 white for faces without a texture.
    """

    paint: Float32
    texture: Int32
    lit: npt.NDArray[np.bool_]
    any_lit: bool
    semantic: Int32
    levels: Int32
    texels: Int32


class Tiles(NamedTuple):
    """The pixels of an image in the order in which they are worked on: their numbers, their directions x and y.

    Eight in a row are neighbours; the last ones are there more than once where an image does not come out even.
    """

    pixel: Int32
    x: Float32
    y: Float32


class Block(NamedTuple):
    """Rows of floats and of integers, and the addresses of both."""

    floats: Float32
    integers: Int32
    to_floats: int
    to_integers: int


def new_block() -> Block:
    """Return a block in which nothing is hit, under full light."""
    floats, integers = aligned(_FLOATS * _N), aligned(_INTEGERS * _N).view(np.int32)
    floats[_LIGHT * _N : (_LIGHT + 1) * _N] = 1.0
    floats[_ENDLESS * _N :] = np.inf
    integers[_NONE * _N :] = -1
    return Block(floats, integers, floats.ctypes.data, integers.ctypes.data)


@kernel
def cast_rays(view: Float32, poses: Float64, eye_height: float, rays: Any) -> None:
    """Fill origins and directions (n, 3) of N images from `view` (H*W, 3), camera-frame directions; n = N*H*W.

    A direction has length 1 along the optical axis, so that the reach of a ray is depth.
    """
    origins, directions = rays
    n_pixels = len(view)
    for image in range(len(poses)):
        sin, cos = np.float32(np.sin(poses[image, 3])), np.float32(np.cos(poses[image, 3]))
        ox, oy, oz = _eye(poses, image, eye_height)
        base = image * n_pixels
        for p in range(n_pixels):
            x, y = view[p, 0], view[p, 1]
            i = base + p
            origins[i, 0] = ox
            origins[i, 1] = oy
            origins[i, 2] = oz
            directions[i, 0], directions[i, 2] = turned(x, sin, cos)
            directions[i, 1] = y


@kernel
def shade_hits(hits: Any, tiles: Tiles, poses: Float64, surface: Surface, block: Block, wanted: Any) -> None:
    """Fill the wanted channels of N images from the hits of `cast_rays`'s rays, as embreex returns them.

    `wanted` = rgb uint8 (n, 3), depth, distance float32 (n,), normals float32 (n, 3), semantic int32 (n,), n = N*H*W; a
    channel of length 0 is not wanted.
    """
    geometry, primitive, u, v, reach, normal = hits
    floats, integers, _, _ = block
    n_pixels = len(geometry) // max(len(poses), 1)
    for image in range(len(poses)):
        sin, cos = np.float32(np.sin(poses[image, 3])), np.float32(np.cos(poses[image, 3]))
        for start in range(0, len(tiles.pixel), _N):
            n = min(_N, len(tiles.pixel) - start)
            _aim(tiles, start, n, sin, cos, floats)
            for i in range(n):
                ray = image * n_pixels + tiles.pixel[start + i]
                integers[_MESH * _N + i] = np.int32(geometry[ray])
                integers[_FACE * _N + i] = np.int32(primitive[ray])
                floats[_U * _N + i] = u[ray]
                floats[_V * _N + i] = v[ray]
                floats[_ALONG * _N + i] = reach[ray]
                for axis in range(3):
                    floats[(_NX + axis) * _N + i] = normal[ray, axis]
            _shade(tiles, start, n, surface, block, len(wanted[0]) > 0)
            _write(tiles, start, n, image * n_pixels, sin, cos, surface.semantic, block, wanted)


@kernel
def render_packets(
    scenes: npt.NDArray[np.int64],
    n_pixels: int,
    tiles: Tiles,
    poses: Float64,
    eye_height: float,
    surface: Surface,
    packets: Any,
    block: Block,
    wanted: Any,
) -> int:
    """Cast all rays of N images and fill the wanted channels, see `shade_hits`; return how many rays hit nothing.

    scenes: addresses of Embree's function, of its scene, and of the one in which those rays are cast once more, or 0.
    """
    rays, numbers, address = packets
    floats, _, to_floats, to_integers = block
    directed = surface.any_lit or len(wanted[3]) > 0
    lost = 0
    for image in range(len(poses)):
        sin, cos = np.float32(np.sin(poses[image, 3])), np.float32(np.cos(poses[image, 3]))
        ox, oy, oz = _eye(poses, image, eye_height)
        for first in range(0, len(rays), PACKET):
            for lane in range(first, first + LANES):
                rays[lane + ORIGIN * LANES] = ox
                rays[lane + (ORIGIN + 1) * LANES] = oy
                rays[lane + (ORIGIN + 2) * LANES] = oz
        for start in range(0, len(tiles.pixel), _N):
            n = min(_N, len(tiles.pixel) - start)
            _aim(tiles, start, n, sin, cos, floats)
            for i in range(0, n, LANES):
                packet = address + 4 * PACKET * (i // LANES)
                for axis in range(3):
                    copy_lanes(packet + _LANE_BYTES * (DIRECTION + axis), to_floats + 4 * ((_DX + axis) * _N + i))
                copy_lanes(packet + _LANE_BYTES * REACH, to_floats + 4 * _ENDLESS * _N)
                copy_lanes(packet + _LANE_BYTES * MESH_ID, to_integers + 4 * _NONE * _N)
                lost += cast_packet(scenes[0], scenes[1], scenes[2], numbers, address, PACKET * (i // LANES))
            # only now: what Embree has just written is slow to read
            for i in range(0, n, LANES):
                packet = address + 4 * PACKET * (i // LANES)
                if directed:
                    for axis in range(3):
                        copy_lanes(to_floats + 4 * ((_NX + axis) * _N + i), packet + _LANE_BYTES * (NORMAL + axis))
                copy_lanes(to_floats + 4 * (_ALONG * _N + i), packet + _LANE_BYTES * REACH)
                copy_lanes(to_floats + 4 * (_U * _N + i), packet + _LANE_BYTES * HIT_U)
                copy_lanes(to_floats + 4 * (_V * _N + i), packet + _LANE_BYTES * HIT_V)
                copy_lanes(to_integers + 4 * (_FACE * _N + i), packet + _LANE_BYTES * FACE)
                copy_lanes(to_integers + 4 * (_MESH * _N + i), packet + _LANE_BYTES * MESH_ID)
            _shade(tiles, start, n, surface, block, len(wanted[0]) > 0)
            _write(tiles, start, n, image * n_pixels, sin, cos, surface.semantic, block, wanted)
    return lost


@kernel
def turned(x: Any, sin: Any, cos: Any) -> Any:
    """Turn a camera's direction (x, -1), to the right and backwards, by the yaw: its x and z in the building."""
    return x * cos - sin, -x * sin - cos


@kernel
def _eye(poses: Float64, image: int, height: float) -> Any:
    """Where the camera is, on the grid."""
    return (
        np.float32(np.rint(poses[image, 0] * SNAP) / SNAP),
        np.float32(np.rint((poses[image, 1] + height) * SNAP) / SNAP),
        np.float32(np.rint(poses[image, 2] * SNAP) / SNAP),
    )


@kernel
def _aim(tiles: Tiles, start: int, n: int, sin: Any, cos: Any, floats: Float32) -> None:
    """Fill a block's directions."""
    x, y = tiles.x, tiles.y
    for i in range(n):
        floats[_DX * _N + i], floats[_DZ * _N + i] = turned(x[start + i], sin, cos)
    for i in range(n):
        floats[_DY * _N + i] = y[start + i]


@kernel
def _shade(tiles: Tiles, start: int, n: int, surface: Surface, block: Block, colored: bool) -> None:
    """Fill a block's colours: interpolated corner colour x texel x light; u and v weigh the second and third corner.

    The texel comes from the copy of the texture whose texels are about as large as the pixel's footprint in metres, so
    that fine patterns far away are averaged instead of sampled at random; near by it is the texture itself.
    """
    if not colored:
        return
    floats, integers, _, _ = block
    levels, texels = surface.levels, surface.texels
    pixel = abs(tiles.x[1] - tiles.x[0]) if len(tiles.x) > 1 else _ONE
    _gather(n, surface.paint, surface.texture, block)
    if surface.any_lit:
        _head_light(n, surface.lit, floats, integers)
    for c in range(3):
        for i in range(n):
            u, v = floats[_U * _N + i], floats[_V * _N + i]
            color = (
                (_ONE - u - v) * floats[(_PAINT + c) * _N + i]
                + u * floats[(_PAINT + 3 + c) * _N + i]
                + v * floats[(_PAINT + 6 + c) * _N + i]
            )
            floats[(_RED + c) * _N + i] = color * floats[_LIGHT * _N + i]
    for c in range(2):
        for i in range(n):
            u, v = floats[_U * _N + i], floats[_V * _N + i]
            place = (
                (_ONE - u - v) * floats[(_PAINT + 9 + c) * _N + i]
                + u * floats[(_PAINT + 11 + c) * _N + i]
                + v * floats[(_PAINT + 13 + c) * _N + i]
            )
            floats[(_PLACE + c) * _N + i] = place - np.floor(place)
    for i in range(n):
        footprint = floats[_ALONG * _N + i] * pixel * floats[(_PAINT + 15) * _N + i] + _ONE
        # the exponent of a float is the floor of its logarithm: no division, no branch
        integers[_LEVEL * _N + i] = (np.float32(footprint).view(np.int32) >> np.int32(23)) - np.int32(127)
        integers[_LEVEL * _N + i] = min(integers[_LEVEL * _N + i], integers[_TEXTURE * _N + i] & np.int32(31)) + (
            integers[_TEXTURE * _N + i] >> np.int32(5)
        )
    for i in range(n):
        level = np.uint64(integers[_LEVEL * _N + i])
        integers[_TEXEL * _N + i] = levels[level, 0]
        integers[_SIZE * _N + i] = levels[level, 1]
    for i in range(n):
        height = (integers[_SIZE * _N + i] >> np.int32(16)) & np.int32(0xFFFF)
        width = integers[_SIZE * _N + i] & np.int32(0xFFFF)
        column = min(np.int32(floats[_PLACE * _N + i] * np.float32(width)), np.int32(width - 1))
        row = min(np.int32(floats[(_PLACE + 1) * _N + i] * np.float32(height)), np.int32(height - 1))
        integers[_TEXEL * _N + i] += np.int32(row * width) + column
    for i in range(n):
        integers[_TEXEL * _N + i] = texels[np.uint64(integers[_TEXEL * _N + i])]
    for i in range(n):
        integers[_OUT * _N + i] = np.int32(0)
    for c in range(3):
        shift = np.int32(8 * c)
        for i in range(n):
            texel = np.float32((integers[_TEXEL * _N + i] >> shift) & np.int32(255))
            integers[_OUT * _N + i] |= np.int32(floats[(_RED + c) * _N + i] * texel + _HALF) << shift


@kernel
def _gather(n: int, paint: Float32, texture: Int32, block: Block) -> None:
    """Fill in the paint of the faces that were hit: of eight neighbours, most often one face for all."""
    floats, integers, to_floats, to_integers = block
    for first in range(0, n, LANES):
        common = integers[_FACE * _N + first] if integers[_MESH * _N + first] == MESH else np.int32(0)
        others = np.int32(0)
        for i in range(first, first + LANES):
            others |= (integers[_FACE * _N + i] ^ common) | integers[_MESH * _N + i]
        seen = np.uint64(common)
        for c in range(16):
            fill_lanes(to_floats + 4 * ((_PAINT + c) * _N + first), paint[seen, c])
        fill_lanes(to_integers + 4 * (_TEXTURE * _N + first), texture[seen])
        if others == 0:
            continue
        for i in range(first, first + LANES):
            if integers[_MESH * _N + i] != MESH:
                # numbers of an earlier ray, and a reach without end, which no texture has a row for
                floats[_ALONG * _N + i] = floats[_U * _N + i] = floats[_V * _N + i] = _ZERO
            elif integers[_FACE * _N + i] != common:
                seen = np.uint64(integers[_FACE * _N + i])
                for c in range(16):
                    floats[(_PAINT + c) * _N + i] = paint[seen, c]
                integers[_TEXTURE * _N + i] = texture[seen]


@kernel
def _head_light(n: int, lit: npt.NDArray[np.bool_], floats: Float32, integers: Int32) -> None:
    """Fill in how bright the faces are: those that are lit by how they face the camera, the others fully."""
    for i in range(n):
        light = _ONE
        if integers[_MESH * _N + i] == MESH and lit[np.uint64(integers[_FACE * _N + i])]:
            nx, ny, nz = floats[_NX * _N + i], floats[_NY * _N + i], floats[_NZ * _N + i]
            dx, dy, dz = floats[_DX * _N + i], floats[_DY * _N + i], floats[_DZ * _N + i]
            lengths = (nx * nx + ny * ny + nz * nz) * (dx * dx + dy * dy + dz * dz)
            facing = np.abs(nx * dx + ny * dy + nz * dz) / np.sqrt(lengths) if lengths > _ZERO else _ONE
            light = AMBIENT + (_ONE - AMBIENT) * facing
        floats[_LIGHT * _N + i] = light


@kernel
def _write(
    tiles: Tiles, start: int, n: int, base: int, sin: Any, cos: Any, semantic: Int32, block: Block, wanted: Any
) -> None:
    """Write a block's pixels to the wanted channels; `base` is the number of the image's first pixel."""
    rgb, depth, distance, normals, labels = wanted
    floats, integers, _, _ = block
    if len(rgb):
        for i in range(n):
            pixel = np.uint64(base + tiles.pixel[start + i])
            color = integers[_OUT * _N + i] if integers[_MESH * _N + i] == MESH else _SKY
            rgb[pixel, 0] = color
            rgb[pixel, 1] = color >> 8
            rgb[pixel, 2] = color >> 16
    if len(depth):
        for i in range(n):
            along = floats[_ALONG * _N + i] if integers[_MESH * _N + i] == MESH else _ZERO
            depth[np.uint64(base + tiles.pixel[start + i])] = along
    if len(distance):
        for i in range(n):
            x, y = tiles.x[start + i], tiles.y[start + i]
            along = floats[_ALONG * _N + i] if integers[_MESH * _N + i] == MESH else _ZERO
            distance[np.uint64(base + tiles.pixel[start + i])] = along * np.sqrt(x * x + y * y + _ONE)
    if len(labels):
        for i in range(n):
            hit = integers[_MESH * _N + i] == MESH
            label = semantic[np.uint64(integers[_FACE * _N + i])] if hit else np.int32(-1)
            labels[np.uint64(base + tiles.pixel[start + i])] = label
    if len(normals):
        for i in range(n):
            hit = integers[_MESH * _N + i] == MESH
            _normal(np.uint64(base + tiles.pixel[start + i]), i, hit, floats, sin, cos, normals)


@kernel
def _normal(pixel: Any, i: int, seen: bool, floats: Float32, sin: Any, cos: Any, out: Float32) -> None:
    """Unit normal on the camera's side of the surface, in the camera's frame: right, up, towards the viewer."""
    x, y, z = floats[_NX * _N + i], floats[_NY * _N + i], floats[_NZ * _N + i]
    length = np.sqrt(x * x + y * y + z * z)
    scale = _ONE / length if seen and length > _ZERO else _ZERO
    if x * floats[_DX * _N + i] + y * floats[_DY * _N + i] + z * floats[_DZ * _N + i] > _ZERO:
        scale = -scale
    out[pixel, 0] = (x * cos - z * sin) * scale
    out[pixel, 1] = y * scale
    out[pixel, 2] = (x * sin + z * cos) * scale
