"""The building itself: floors, walls with doorways, ceilings, vaults, coved corners, door frames and the outside."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sideagents_envs.buildings.layout import DOOR_HEIGHT_CM, WALL_HEIGHT_CM, Door, Plan, Rect, Room
from sideagents_envs.buildings.solids import Array, Item, Paint, Part, grid_part, patch, revolve, turn

HEIGHT = WALL_HEIGHT_CM / 100
DOOR_TOP = DOOR_HEIGHT_CM / 100
_ROWS = (0.0, 0.4, 1.2, DOOR_TOP, HEIGHT)
_CELL = 0.9  # grid of walls and floors: fine enough for light to vary
_OVERLAP = 0.02  # floors and ceilings reach under the walls, so that no crack shows
_ARCH_SEGMENTS = 8
_TRIM = 0.07  # width of a door frame


def _lines(length: float, cell: float = _CELL) -> list[float]:
    """Return equally spaced grid lines over [0, length]."""
    count = max(1, math.ceil(length / cell - 1e-9))
    return [round(length * k / count, 4) for k in range(count + 1)]


class Side:
    """One wall of a room seen from inside: a frame with `u` along the wall (to the right), y up, normal inwards.

    `quarter` is the turn that takes furniture built against the wall z = 0 (facing +z) to this wall.
    """

    def __init__(self, room: Room, name: str) -> None:
        box = room.inner
        self.name = name
        self.axis = "x" if name in ("south", "north") else "z"
        corner, self.direction, self.quarter = {
            "south": ((box.x0, box.z0), (1, 0), 0),
            "west": ((box.x0, box.z1), (0, -1), 1),
            "north": ((box.x1, box.z1), (-1, 0), 2),
            "east": ((box.x1, box.z0), (0, 1), 3),
        }[name]
        self.corner = corner
        self.length = box.size[0] if self.axis == "x" else box.size[1]
        self.depth = box.size[1] if self.axis == "x" else box.size[0]
        self.line = {"south": room.cell.z0, "north": room.cell.z1, "west": room.cell.x0, "east": room.cell.x1}[name]
        self.holes = sorted((self._span(d), d) for d in room.doors if d.axis == self.axis and d.line == self.line)

    def _span(self, door: Door) -> tuple[int, int]:
        """Return where a door lies along u."""
        start = self.corner[0] if self.axis == "x" else self.corner[1]
        sign = self.direction[0] + self.direction[1]
        a, b = sign * (door.low - start), sign * (door.high - start)
        return min(a, b), max(a, b)

    def point(self, u: float, depth: float = 0.0) -> tuple[float, float]:
        """Return (x, z) in metres of a point `u` cm along the wall and `depth` cm in front of it."""
        dx, dz = self.direction
        return (self.corner[0] + u * dx - depth * dz) / 100, (self.corner[1] + u * dz + depth * dx) / 100

    def rect(self, u0: int, u1: int, depth: int) -> Rect:
        """Return the floor rectangle from u0 to u1 cm along the wall, reaching `depth` cm into the room."""
        dx, dz = self.direction
        xs = sorted((self.corner[0] + u0 * dx, self.corner[0] + u1 * dx - depth * dz))
        zs = sorted((self.corner[1] + u0 * dz, self.corner[1] + u1 * dz + depth * dx))
        return Rect(xs[0], zs[0], xs[1], zs[1])


def sides(room: Room) -> list[Side]:
    """Return the room's four walls."""
    return [Side(room, name) for name in ("south", "west", "north", "east")]


def _wall(side: Side, paint: Paint) -> Iterator[Part]:
    """Yield a wall's surface with its doorways left out."""
    ox, oz = side.point(0)
    axis = (float(side.direction[0]), 0.0, float(side.direction[1]))

    def piece(u0: float, u1: float, rows: tuple[float, ...]) -> Part:
        return patch((ox, 0.0, oz), axis, (0, 1, 0), [u0 + k for k in _lines(u1 - u0)], rows, paint)

    at = 0.0
    for (low, high), door in side.holes:
        u0, u1 = low / 100, high / 100
        yield piece(at, u0, _ROWS)
        yield piece(u0, u1, (DOOR_TOP, HEIGHT))
        if door.arch:
            yield _spandrel(side, u0, u1, paint)
        at = u1
    yield piece(at, side.length / 100, _ROWS)


def _arch(width: float, grow: float = 0.0) -> list[tuple[float, float, float, float]]:
    """Return a round arch as (s, y, ds, dy) points from left to right, (ds, dy) pointing into the opening."""
    radius = width / 2
    out = []
    for k in range(_ARCH_SEGMENTS + 1):
        cos, sin = turn(math.pi * (1 - k / _ARCH_SEGMENTS))
        out.append((radius + (radius + grow) * cos, DOOR_TOP - radius + (radius + grow) * sin, -cos, -sin))
    return out


def _spandrel(side: Side, u0: float, u1: float, paint: Paint) -> Part:
    """Return the wall between an arch and the lintel's height."""
    arch = np.array([(u0 + s, y) for s, y, _, _ in _arch(u1 - u0)])
    uv = np.stack([arch, np.stack([arch[:, 0], np.full(len(arch), DOOR_TOP)], axis=1)], axis=1)
    ox, oz = side.point(0)
    dx, dz = side.direction
    points = np.stack([ox + uv[..., 0] * dx, uv[..., 1], oz + uv[..., 0] * dz], axis=-1)
    normal = np.broadcast_to(np.array([-dz, 0.0, dx]), points.shape)
    return grid_part(points, normal, uv, paint)


def room_items(room: Room, wall: Paint, floor: Paint, ceiling: Paint, coves: bool, vault: bool) -> list[Item]:
    """Return floor, walls and ceiling of a room, with round corners and a barrel vault where asked for."""
    box = room.inner
    w, d = (k / 100 + 2 * _OVERLAP for k in box.size)
    x0, z0 = box.x0 / 100 - _OVERLAP, box.z0 / 100 - _OVERLAP
    walls = sides(room)
    items = [
        Item("floor", [patch((x0, 0.0, z0), (0, 0, 1), (1, 0, 0), _lines(d, 0.75), _lines(w, 0.75), floor)]),
        Item("wall", [part for side in walls for part in _wall(side, wall)]),
        Item("ceiling", [patch((x0, HEIGHT, z0), (1, 0, 0), (0, 0, 1), _lines(w, 1.4), _lines(d, 1.4), ceiling)]),
    ]
    if coves:
        parts = [_cove(walls[k - 1], walls[k], wall, room) for k in range(4) if _corner_free(walls[k - 1], walls[k])]
        items += [Item("cove", [part]) for part in parts]
    if vault:
        items.append(Item("vault", [_vault(box, ceiling)]))
    return items


def _corner_free(before: Side, after: Side) -> bool:
    """Return True when no door stands close to the corner where `before` starts and `after` ends."""
    near_start = any(low < 60 for (low, _), _ in before.holes)
    near_end = any(after.length - high < 60 for (_, high), _ in after.holes)
    return not (near_start or near_end)


def _cove(before: Side, after: Side, paint: Paint, room: Room) -> Part:
    """Return a concave quarter cylinder in the corner where `before` starts."""
    radius = 0.4
    x, z = before.point(40, 40)
    start = {"south": math.pi / 2, "west": math.pi, "north": 1.5 * math.pi, "east": 0.0}[before.name]
    part = revolve([(radius, y) for y in (HEIGHT, DOOR_TOP, 0.4, 0.0)], paint, 5, (x, 0, z), start, math.pi / 2)
    return replace(part, uv=part.uv * (1.0, -1.0) + (0.0, HEIGHT))


def _vault(box: Rect, paint: Paint) -> Part:
    """Return a shallow barrel vault over the room's shorter side, springing at 2.2 m, its crown at 2.48 m."""
    width, length = min(box.size) / 100, max(box.size) / 100
    rise = 0.28
    radius = (width * width / 4 + rise * rise) / (2 * rise)
    angle = math.asin(width / (2 * radius))
    x, z = (box.x0 + box.x1) / 200, (box.z0 + box.z1) / 200
    along = "x" if box.size[0] >= box.size[1] else "z"
    profile = [(radius, length / 2 - k) for k in _lines(length, 1.0)]
    center = (x, 2.2 + rise - radius, z)
    middle = math.pi if along == "x" else math.pi / 2
    return revolve(profile, paint, 8, center, middle - angle, 2 * angle, along)


def door_items(door: Door, wall: int, trim: Paint, floor: Paint) -> list[Item]:
    """Return one item: the frame of a doorway (jambs, lintel or arch) and its threshold."""
    width = (door.high - door.low) / 100
    if door.arch:
        spring = DOOR_TOP - width / 2
        arch, rim = _arch(width), [(s, y) for s, y, _, _ in _arch(width, _TRIM)]
        left = [(0.0, 0.0, 1.0, 0.0), (0.0, spring, 1.0, 0.0)]
        right = [(width, spring, -1.0, 0.0), (width, 0.0, -1.0, 0.0)]
        strips = [
            (left, [(-_TRIM, 0.0), (-_TRIM, spring)]),
            (arch, rim),
            (right, [(width + _TRIM, spring), (width + _TRIM, 0.0)]),
        ]
    else:
        corner = [(0.0, 0.0), (0.0, DOOR_TOP), (width, DOOR_TOP), (width, 0.0)]
        rim = [(-_TRIM, 0.0), (-_TRIM, DOOR_TOP + _TRIM), (width + _TRIM, DOOR_TOP + _TRIM), (width + _TRIM, 0.0)]
        facing = [(1.0, 0.0), (0.0, -1.0), (-1.0, 0.0)]
        strips = [([(*corner[k], *facing[k]), (*corner[k + 1], *facing[k])], rim[k : k + 2]) for k in range(3)]
    reach = wall / 200 + 0.025
    parts = [part for inner, outer in strips for part in _frame_strip(inner, outer, reach, wall / 200, trim)]
    half = wall / 200 + _OVERLAP
    parts.append(patch((0.0, 0.004, -half), (0, 0, 1), (1, 0, 0), (0, 2 * half), _lines(width), floor))
    # Local x runs along the wall; for walls along z the frame is turned by a quarter.
    along_x = door.axis == "x"
    offset = (door.low / 100, 0.0, door.line / 100) if along_x else (door.line / 100, 0.0, door.low / 100)
    if not along_x:
        parts = [replace(p, points=_quarter(p.points), normals=_quarter(p.normals)) for p in parts]
    return [Item("doorway", [replace(p, points=p.points + np.array(offset)) for p in parts])]


def _quarter(vectors: Array) -> Array:
    """Turn vectors (V,3) so that +x becomes +z."""
    return np.stack([-vectors[:, 2], vectors[:, 1], vectors[:, 0]], axis=1)


def _frame_strip(
    inner: list[tuple[float, float, float, float]],
    outer: list[tuple[float, float]],
    reach: float,
    half: float,
    paint: Paint,
) -> Iterator[Part]:
    """Yield the jamb surface, the two faces and the two outer edges of a door frame along one outline."""
    line = np.array([k[:2] for k in inner])
    normal = np.array([k[2:] for k in inner])
    rim = np.array(outer)
    steps = line[1:] - line[:-1]
    along = np.array([0.0, *np.cumsum(np.sqrt(steps[:, 0] * steps[:, 0] + steps[:, 1] * steps[:, 1]))])

    def surface(a: Array, ta: float, b: Array, tb: float, normals: Array, width: float) -> Part:
        points = np.stack([np.column_stack([a, np.full(len(a), ta)]), np.column_stack([b, np.full(len(b), tb)])], 1)
        uv = np.stack([np.column_stack([along, 0 * along]), np.column_stack([along, 0 * along + width])], 1)
        return grid_part(points, np.broadcast_to(normals[:, None], points.shape), uv, paint)

    flat = np.zeros((len(line), 3))
    face = flat + (0.0, 0.0, 1.0)
    inward = np.column_stack([normal, np.zeros(len(line))])
    yield surface(line, -reach, line, reach, inward, 2 * reach)
    yield surface(line, reach, rim, reach, face, _TRIM)
    yield surface(rim, -reach, line, -reach, -face, _TRIM)
    yield surface(rim, reach, rim, half, -inward, reach - half)
    yield surface(rim, -half, rim, -reach, -inward, reach - half)


def outside_item(plan: Plan, wall: Paint, roof: Paint) -> list[Item]:
    """Return the outer walls and the roof slab."""
    box = plan.footprint.grown(plan.wall // 2)
    x0, z0, x1, z1 = box.x0 / 100, box.z0 / 100, box.x1 / 100, box.z1 / 100
    w, d, top = x1 - x0, z1 - z0, HEIGHT + 0.15
    rows = (0.0, top)
    walls = [
        patch((x0, 0, z1), (1, 0, 0), (0, 1, 0), _lines(w, 3.5), rows, wall),
        patch((x1, 0, z0), (-1, 0, 0), (0, 1, 0), _lines(w, 3.5), rows, wall),
        patch((x0, 0, z0), (0, 0, 1), (0, 1, 0), _lines(d, 3.5), rows, wall),
        patch((x1, 0, z1), (0, 0, -1), (0, 1, 0), _lines(d, 3.5), rows, wall),
    ]
    slab = patch((x0, top, z1), (1, 0, 0), (0, 0, -1), _lines(w, 3.5), _lines(d, 3.5), roof)
    return [Item("facade", walls), Item("roof", [slab])]
