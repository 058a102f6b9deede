"""Baked light: a few lamps, an ambient term that depends on the normal, and darker corners, written into COLOR_0.

There is no ray tracing and there are no cast shadows: light stays in its room. Only +, -, *, / and square roots are
used, which IEEE arithmetic fixes to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.buildings.layout import WALL_HEIGHT_CM, Rect
from sideagents_envs.buildings.solids import Array, Color, Part

_CORNER_DEPTH = 0.30  # share of light lost right in a corner
_CORNER_REACH = 0.35  # metres from the corner where half of that is left
_SHADOW = 0.45  # share of light lost on the floor under and beside furniture


@dataclass(frozen=True)
class Light:
    """The light of one room.

    `ambient` is the colour of the undirected light; `tilt` (3,) brightens surfaces that face along it; `lamps` are
    (x, y, z, power, colour); `room` is the floor rectangle (cm), `solid` are the footprints of furniture (cm).
    """

    ambient: Color
    tilt: Color
    lamps: Sequence[tuple[float, float, float, float, Color]]
    room: Rect
    solid: Sequence[Rect] = ()


def _dot(a: Array, b: Array) -> Array:
    """Row-wise dot product in a fixed order of additions."""
    return cast(Array, a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2])


def _corners(points: Array, normals: Array, room: Rect) -> Array:
    """Return how much light corners leave, (V,) in (0, 1]."""
    left = np.ones(len(points))
    planes = (
        (0, room.x0 / 100, 1),
        (0, room.x1 / 100, -1),
        (2, room.z0 / 100, 1),
        (2, room.z1 / 100, -1),
        (1, 0.0, 1),
        (1, WALL_HEIGHT_CM / 100, -1),
    )
    for axis, level, sign in planes:
        distance = np.maximum((points[:, axis] - level) * sign, 0.0) / _CORNER_REACH
        facing = 1.0 - np.abs(normals[:, axis])  # a surface does not darken itself
        left *= 1.0 - _CORNER_DEPTH * facing / (1.0 + distance * distance)
    return left


def _contact(points: Array, normals: Array, solid: Sequence[Rect]) -> Array:
    """Return how much light furniture leaves on the floor near it, (V,) in (0, 1]."""
    left = np.ones(len(points))
    floor = np.flatnonzero((points[:, 1] < 0.03) & (normals[:, 1] > 0.9))
    x, z = points[floor, 0], points[floor, 2]
    for rect in solid:
        dx = np.maximum(np.maximum(rect.x0 / 100 - x, x - rect.x1 / 100), 0.0)
        dz = np.maximum(np.maximum(rect.z0 / 100 - z, z - rect.z1 / 100), 0.0)
        left[floor] *= 1.0 - _SHADOW / (1.0 + (dx * dx + dz * dz) / 0.06)
    return left


def bake(parts: Sequence[Part], light: Light) -> NDArray[np.uint8]:
    """Return the vertex colours u8 (V,3) of all parts together: tint x light, never brighter than white."""
    counts = [len(p.points) for p in parts]
    points, normals = np.concatenate([p.points for p in parts]), np.concatenate([p.normals for p in parts])
    tint, glow = np.repeat([p.tint for p in parts], counts, axis=0), np.repeat([p.glow for p in parts], counts)
    tilt = 1.0 + _dot(normals, np.broadcast_to(np.array(light.tilt), normals.shape))
    lit = [tilt * light.ambient[c] for c in range(3)]
    for x, y, z, power, color in light.lamps:
        to_lamp = np.array([x, y, z]) - points
        square = _dot(to_lamp, to_lamp)
        cosine = _dot(to_lamp, normals) / np.sqrt(np.maximum(square, 1e-6))
        # Half-Lambert keeps some shape on the side turned away; the falloff is softened near the lamp.
        wrapped = np.maximum(0.25 + 0.75 * cosine, 0.0) * power / (1.0 + square / 5.0)
        lit = [lit[c] + wrapped * color[c] for c in range(3)]
    shade = _corners(points, normals, light.room) * _contact(points, normals, light.solid)
    colors = [(glow + (1.0 - glow) * np.minimum(lit[c] * shade, 1.0)) * tint[:, c] * 255.0 for c in range(3)]
    rounded: NDArray[np.uint8] = np.floor(np.clip(np.stack(colors, axis=1), 0.0, 255.0) + 0.5).astype(np.uint8)
    return rounded
