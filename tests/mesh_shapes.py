"""Hand-made meshes with known walkable space, and exact lengths of taut strings around their corners."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np

from shared_data import shared_data

Part = tuple[np.ndarray, np.ndarray]
RADIUS = 0.1


def quad(a, b, c, d) -> Part:
    return np.array([a, b, c, d], float), np.array([[0, 1, 2], [0, 2, 3]])


def floor(x0, x1, z0, z1, y=0.0) -> Part:
    return quad((x0, y, z0), (x0, y, z1), (x1, y, z1), (x1, y, z0))


def ramp(x0, x1, z0, z1, y0, y1) -> Part:
    """A slope that rises along x."""
    return quad((x0, y0, z0), (x0, y0, z1), (x1, y1, z1), (x1, y1, z0))


def wall(xa, za, xb, zb, y0=0.0, y1=2.5) -> Part:
    """A vertical wall of no thickness."""
    return quad((xa, y0, za), (xb, y0, zb), (xb, y1, zb), (xa, y1, za))


def box(x0, x1, y0, y1, z0, z1) -> Part:
    corners = np.array([[x, y, z] for x in (x0, x1) for y in (y0, y1) for z in (z0, z1)], float)
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return corners, np.array([t for a, b, c, d in sides for t in ((a, b, c), (a, c, d))])


def room(x0, x1, z0, z1, y=0.0) -> list[Part]:
    corners = [(x0, z0), (x1, z0), (x1, z1), (x0, z1)]
    walls = [wall(*corners[i], *corners[(i + 1) % 4], y, y + 2.5) for i in range(4)]
    return [floor(x0, x1, z0, z1, y), *walls]


def join(*parts: Part) -> Part:
    vertices, faces, count = [], [], 0
    for points, triangles in parts:
        vertices.append(points)
        faces.append(triangles + count)
        count += len(points)
    return np.concatenate(vertices), np.concatenate(faces)


def turned(part: Part, degrees: float) -> Part:
    """The mesh turned to the left about the vertical axis."""
    return part[0] @ rotation(degrees).T, part[1]


def rotation(degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def two_storeys() -> Part:
    """A floor at 0 and one at 3 above it, joined by a ramp, a landing and a bridge beside the ramp."""
    return join(
        floor(0, 6, 0, 4),
        ramp(6, 12, 0, 2, 0, 3),
        floor(12, 14, 0, 4, 3),
        floor(6, 12, 2.2, 4, 3),
        floor(0, 6, 0, 4, 3),
    )


def taut(start, end, *corners, radius=RADIUS) -> float:
    """Length of a string from start to end (x, z) around discs at corners that all lie on the same side of it."""
    points = [np.array(p, float) for p in (start, *corners, end)]
    first, last = points[1] - points[0], points[-1] - points[-2]
    turn = first[0] * last[1] - first[1] * last[0]
    side = math.copysign(1.0, turn)
    total, directions = 0.0, []
    for i in range(len(points) - 1):
        leg = points[i + 1] - points[i]
        length, angle = math.hypot(*leg), math.atan2(leg[1], leg[0])
        if i == 0:
            angle -= side * math.asin(radius / length)
        if i == len(points) - 2:
            angle += side * math.asin(radius / length)
        total += length if 0 < i < len(points) - 2 else math.sqrt(length**2 - radius**2)
        directions.append(angle)
    for a, b in itertools.pairwise(directions):
        total += radius * abs((b - a + math.pi) % (2 * math.pi) - math.pi)
    return total


def shared_scene(name: str) -> Path:
    """A file of the shared scenes; the test is skipped where they are absent."""
    return shared_data(f"scenes/{name}")
