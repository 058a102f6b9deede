"""Solids that furniture is made of: boxes, surfaces of revolution, round slabs; with normals and texture coordinates.

Lengths in metres. Faces are wound counter-clockwise seen from outside. Coordinates are rounded to a tenth of a
millimetre, so that the last bit of a sine, which differs between machines, never reaches a file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Color = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """A piece of surface with one texture: `points` (V,3), `normals` (V,3), `uv` (V,2) in metres, `faces` (F,3).

    `tint` multiplies the texture; `glow` in [0, 1] is how much of the colour does not depend on the room's light.
    """

    points: Array
    normals: Array
    uv: Array
    faces: NDArray[np.int64]
    texture: str
    tint: Color = (1.0, 1.0, 1.0)
    glow: float = 0.0


@dataclass
class Item:
    """One object of the building, one node of the file."""

    category: str
    parts: list[Part] = field(default_factory=list)


@dataclass(frozen=True)
class Paint:
    """Texture and tint of a surface."""

    texture: str
    tint: Color = (1.0, 1.0, 1.0)
    glow: float = 0.0


def turn(angle: float) -> tuple[float, float]:
    """Return cosine and sine, rounded so that every machine agrees."""
    return round(math.cos(angle), 9) + 0.0, round(math.sin(angle), 9) + 0.0


def grid_part(points: Array, normals: Array, uv: Array, paint: Paint, flip: bool = False) -> Part:
    """Return the surface over a grid of `points` (M,N,3); `flip` turns the winding."""
    m, n = points.shape[:2]
    index = np.arange(m * n).reshape(m, n)
    a, b, c, d = (k.ravel() for k in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    flat = points.reshape(-1, 3)
    edge1, edge2 = flat[faces[:, 1]] - flat[faces[:, 0]], flat[faces[:, 2]] - flat[faces[:, 0]]
    cross = np.stack(
        [
            edge1[:, (i + 1) % 3] * edge2[:, (i + 2) % 3] - edge1[:, (i + 2) % 3] * edge2[:, (i + 1) % 3]
            for i in range(3)
        ],
        1,
    )
    # Poles of spheres give triangles without area; they are dropped.
    faces = faces[(np.abs(cross) > 1e-9).any(axis=1)]
    if flip:
        faces = faces[:, ::-1]
    return Part(flat, normals.reshape(-1, 3), uv.reshape(-1, 2), faces, paint.texture, paint.tint, paint.glow)


def patch(
    origin: Sequence[float],
    u_axis: Sequence[float],
    v_axis: Sequence[float],
    u: Sequence[float],
    v: Sequence[float],
    paint: Paint,
    uv_shift: tuple[float, float] = (0.0, 0.0),
) -> Part:
    """Return a flat rectangle with grid lines at `u` and `v` (metres along unit axes); it faces u_axis x v_axis."""
    base, ua, va = (np.asarray(k, dtype=np.float64) for k in (origin, u_axis, v_axis))
    uu, vv = np.meshgrid(np.asarray(u, dtype=np.float64), np.asarray(v, dtype=np.float64), indexing="ij")
    points = base + uu[..., None] * ua + vv[..., None] * va
    normal = np.array([ua[1] * va[2] - ua[2] * va[1], ua[2] * va[0] - ua[0] * va[2], ua[0] * va[1] - ua[1] * va[0]])
    uv = np.stack([uu + uv_shift[0], vv + uv_shift[1]], axis=-1)
    return grid_part(points, np.broadcast_to(normal, points.shape), uv, paint)


def box(
    x0: float,
    y0: float,
    z0: float,
    x1: float,
    y1: float,
    z1: float,
    paint: Paint,
    front: Paint | None = None,
    bottom: bool = False,
) -> list[Part]:
    """Return a box; `front` paints the +z face with its texture stretched over it once."""
    w, h, d = x1 - x0, y1 - y0, z1 - z0
    face = front or paint
    parts = [
        patch((x0, y1, z1), (1, 0, 0), (0, 0, -1), (0, w), (0, d), paint),
        patch((x0, y0, z0), (0, 0, 1), (0, 1, 0), (0, d), (0, h), paint),
        patch((x1, y0, z1), (0, 0, -1), (0, 1, 0), (0, d), (0, h), paint),
        patch((x0, y0, z1), (1, 0, 0), (0, 1, 0), (0, w), (0, h), face),
        patch((x1, y0, z0), (-1, 0, 0), (0, 1, 0), (0, w), (0, h), paint),
    ]
    if front is not None:
        parts[3] = replace(parts[3], uv=parts[3].uv / (w, h))
    if bottom:
        parts.append(patch((x0, y0, z0), (1, 0, 0), (0, 0, 1), (0, w), (0, d), paint))
    return parts


def revolve(
    profile: Sequence[tuple[float, float]],
    paint: Paint,
    segments: int = 12,
    center: Sequence[float] = (0, 0, 0),
    start: float = 0.0,
    sweep: float = 2 * math.pi,
    axis: str = "y",
) -> Part:
    """Return a smooth surface of revolution: `profile` is (radius, height) from bottom to top, seen from outside.

    `axis` "x" or "z" lays the axis down. Normals follow the profile smoothly: use several calls for a sharp edge.
    """
    r = np.array([p[0] for p in profile])
    h = np.array([p[1] for p in profile])
    dr, dh = _slopes(r), _slopes(h)
    length = np.sqrt(dr * dr + dh * dh)
    nr, nh = dh / length, -dr / length
    turns = [turn(start + sweep * k / segments) for k in range(segments + 1)]
    cos, sin = np.array([t[0] for t in turns])[:, None], np.array([t[1] for t in turns])[:, None]
    one = np.ones_like(cos)
    points = np.stack([r * cos, h * one, -r * sin], axis=-1)
    normals = np.stack([nr * cos, nh * one, -nr * sin], axis=-1)
    steps = np.sqrt((r[1:] - r[:-1]) * (r[1:] - r[:-1]) + (h[1:] - h[:-1]) * (h[1:] - h[:-1]))
    along = np.array([0.0, *np.cumsum(steps)])
    around = abs(sweep) * max(float(r.max()), 0.05) * np.arange(segments + 1) / segments
    uv = np.stack(np.broadcast_arrays(around[:, None], along), axis=-1)
    if axis == "x":  # y -> x, x -> -y: a proper rotation, so the winding stays
        points, normals = (np.stack([k[..., 1], -k[..., 0], k[..., 2]], axis=-1) for k in (points, normals))
    elif axis == "z":
        points, normals = (np.stack([k[..., 0], -k[..., 2], k[..., 1]], axis=-1) for k in (points, normals))
    return grid_part(points + np.asarray(center, dtype=np.float64), normals, uv, paint)


def _slopes(values: Array) -> Array:
    """Return central differences, one-sided at the ends."""
    slopes = np.empty_like(values)
    slopes[1:-1] = values[2:] - values[:-2]
    slopes[0], slopes[-1] = values[1] - values[0], values[-1] - values[-2]
    return slopes


def disc(
    radius: float,
    y: float,
    paint: Paint,
    segments: int = 12,
    center: Sequence[float] = (0, 0, 0),
    inner: float = 0.0,
    start: float = 0.0,
    sweep: float = 2 * math.pi,
) -> Part:
    """Return a flat disc or ring at height `y`, facing up."""
    part = revolve([(radius, y), (inner, y)], paint, segments, center, start, sweep)
    flat = part.points - np.asarray(center, dtype=np.float64)
    return replace(part, uv=np.stack([flat[:, 0], flat[:, 2]], axis=1))


def cylinder(
    radius: float,
    y0: float,
    y1: float,
    paint: Paint,
    segments: int = 12,
    center: Sequence[float] = (0, 0, 0),
    top: Paint | None = None,
) -> list[Part]:
    """Return an upright cylinder with a lid."""
    side = revolve([(radius, y0), (radius, y1)], paint, segments, center)
    return [side, disc(radius, y1, top or paint, segments, center)]


def sphere(
    radius: float,
    center: Sequence[float],
    paint: Paint,
    segments: int = 10,
    rings: int = 6,
    squash: float = 1.0,
    low: float = -1.0,
) -> Part:
    """Return an ellipsoid of revolution (height = squash x width); `low` in [-1, 1) cuts it off below (0: a dome)."""
    first = math.asin(low)
    angles = [first + (math.pi / 2 - first) * k / rings for k in range(rings + 1)]
    profile = [(radius * turn(a)[0], radius * squash * turn(a)[1]) for a in angles]
    return revolve(profile, paint, segments, center)


def torus(
    ring: float, tube: float, center: Sequence[float], paint: Paint, segments: int = 14, sides: int = 8, axis: str = "y"
) -> Part:
    """Return a torus of ring radius `ring` and tube radius `tube`."""
    turns = [turn(2 * math.pi * k / sides) for k in range(sides + 1)]
    part = revolve([(ring + tube * c, tube * s) for c, s in turns], paint, segments, center, axis=axis)
    # The closed profile's first and last normals come from one-sided differences: set them to the true outward one.
    normals = part.normals.reshape(segments + 1, sides + 1, 3).copy()
    middle = normals[:, 1] + normals[:, -2]
    length = np.sqrt(middle[:, :1] * middle[:, :1] + middle[:, 1:2] * middle[:, 1:2] + middle[:, 2:] * middle[:, 2:])
    normals[:, 0] = normals[:, -1] = middle / length
    return replace(part, normals=normals.reshape(-1, 3))


def round_slab(
    radius: float,
    y0: float,
    y1: float,
    paint: Paint,
    segments: int = 10,
    inner: float = 0.0,
    start: float = math.pi,
    sweep: float = math.pi,
    center: Sequence[float] = (0, 0, 0),
    bottom: bool = False,
) -> list[Part]:
    """Return a sector of a disc or ring with thickness: outer face, inner face, top and the two flat ends.

    The angle grows from +x towards -z; the default sector is the half with z >= 0, its flat side at z = 0.
    """
    parts = [
        revolve([(radius, y0), (radius, y1)], paint, segments, center, start, sweep),
        disc(radius, y1, paint, segments, center, inner, start, sweep),
    ]
    if inner > 0:
        parts.append(revolve([(inner, y1), (inner, y0)], paint, segments, center, start, sweep))
    if bottom:
        parts.append(revolve([(inner, y0), (radius, y0)], paint, segments, center, start, sweep))
    for angle, sign in ((start, 1.0), (start + sweep, -1.0)):
        cos, sin = turn(angle)
        near = (center[0] + inner * cos, y0 + center[1], center[2] - inner * sin)
        far = (center[0] + radius * cos, y0 + center[1], center[2] - radius * sin)
        origin, along = (near, (cos, 0.0, -sin)) if sign > 0 else (far, (-cos, 0.0, sin))
        parts.append(patch(origin, along, (0, 1, 0), (0, radius - inner), (0, y1 - y0), paint))
    return parts


def placed(item: Item, quarter: int, x: float, z: float) -> Item:
    """Turn an item by `quarter` x 90 degrees about y (counter-clockwise from above) and move it."""
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter % 4]
    parts = []
    for part in item.parts:
        points, normals = (
            np.stack([k[:, 0] * cos + k[:, 2] * sin, k[:, 1], k[:, 2] * cos - k[:, 0] * sin], axis=1)
            for k in (part.points, part.normals)
        )
        parts.append(replace(part, points=points + np.array([x, 0.0, z]), normals=normals))
    return Item(item.category, parts)
