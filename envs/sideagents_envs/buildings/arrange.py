"""Placing furniture: flush to a wall or with space to walk around it, doors clear, pictures where walls are bare.

No gap that an agent could enter is narrower than `_CLEAR` cm: two blocks are at least that far apart, and a block
either touches a wall or keeps that distance from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sideagents_envs.buildings import furniture as wall_furniture
from sideagents_envs.buildings import islands
from sideagents_envs.buildings.dice import Dice
from sideagents_envs.buildings.layout import Plan, Rect, Room
from sideagents_envs.buildings.pieces import Block, Style, make_style
from sideagents_envs.buildings.shell import HEIGHT, Side, sides
from sideagents_envs.buildings.solids import Item, Paint, box, placed
from sideagents_envs.buildings.textures import hsv

_CLEAR = 65
_WALKWAY = 80  # left between a piece and the opposite wall
_DOOR_DEPTH = 100  # kept free before a door
_DOOR_SIDE = 15
_COVE = 45

VARIANTS = {"painting": 4, "rug": 2, "books": 2}  # textures of which a building has several

Maker = Callable[[Dice, Style], Block]
w, i = wall_furniture, islands
# What a room type always wants first, then what may fill it up; free-standing pieces are listed apart.
_FIRST: dict[str, tuple[Maker, ...]] = {
    "living": (w.sofa, w.tv_stand),
    "bedroom": (w.bed, w.wardrobe),
    "kitchen": (w.counter,),
    "dining": (w.dresser,),
    "bathroom": (w.bathtub, w.washbasin, w.toilet),
    "storage": (w.rack, w.barrels),
    "office": (w.desk, w.bookshelf),
    "study": (w.desk, w.bookshelf),
    "library": (w.bookshelf, w.bookshelf),
    "playroom": (w.daybed, w.crates),
    "gallery": (w.half_column, w.bench),
    "laundry": (w.washer, w.boiler),
    "corridor": (w.console,),
}
_FILL: dict[str, tuple[Maker, ...]] = {
    "living": (w.stove, w.bookshelf, w.plant, w.daybed, w.floor_lamp, w.dresser, w.half_column),
    "bedroom": (w.dresser, w.plant, w.bookshelf, w.bench, w.floor_lamp),
    "kitchen": (w.bar, w.rack, w.stove, w.plant),
    "dining": (w.bar, w.console, w.plant, w.stove, w.half_column),
    "bathroom": (w.washer, w.plant, w.boiler),
    "storage": (w.crates, w.barrels, w.boiler, w.rack, w.crates),
    "office": (w.plant, w.floor_lamp, w.bookshelf, w.half_column, w.sofa),
    "study": (w.floor_lamp, w.plant, w.half_column),
    "library": (w.bookshelf, w.floor_lamp, w.daybed, w.bookshelf, w.half_column),
    "playroom": (w.bookshelf, w.plant, w.daybed, w.dresser),
    "gallery": (w.half_column, w.plant, w.bench, w.half_column, w.console),
    "laundry": (w.washer, w.rack, w.barrels),
    "corridor": (w.half_column, w.console, w.half_column),
}
_FREE: dict[str, tuple[Maker, ...]] = {
    "living": (i.coffee_table, i.ring_sofa, i.column, i.divider),
    "bedroom": (i.pouf,),
    "kitchen": (i.round_table, i.divider, i.barrel_table),
    "dining": (i.dining_table, i.round_table, i.column),
    "storage": (i.barrel_table, i.column),
    "office": (i.round_table, i.column, i.divider),
    "study": (i.pouf,),
    "library": (i.drum_shelf, i.round_table, i.drum_shelf),
    "playroom": (i.pouf, i.coffee_table, i.divider),
    "gallery": (i.pedestal, i.pedestal, i.column, i.pedestal),
}


@dataclass
class Furnished:
    """What stands in a room: items, footprints (cm) and lamp positions (m)."""

    items: list[Item] = field(default_factory=list)
    footprints: list[Rect] = field(default_factory=list)
    lamps: list[tuple[float, float, float]] = field(default_factory=list)


class _Floor:
    """The free floor of a room while it is being filled."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.walls = sides(room)
        self.taken: list[tuple[Rect, int]] = []
        self.doors = [
            wall.rect(low - _DOOR_SIDE, high + _DOOR_SIDE, _DOOR_DEPTH)
            for wall in self.walls
            for (low, high), _ in wall.holes
        ]

    def fits(self, rect: Rect, clear: int = _CLEAR) -> bool:
        """Return True when a block there leaves doors free and passages wide enough."""
        if any(rect.overlaps(door) for door in self.doors):
            return False
        for other, _ in self.taken:
            gx, gz = rect.gaps(other)
            if gx * gx + gz * gz < clear * clear:
                return False
        return True

    def against_wall(self, dice: Dice, block: Block) -> list[Item] | None:
        """Place a block flush to a wall, in a corner or clear of it; return its items, None when there is no room."""
        for wall in dice.shuffled(self.walls):
            last = wall.length - block.width
            if wall.depth - block.depth < _WALKWAY or last < 0:
                continue
            spots = [0, last] if last >= _CLEAR else []
            if last >= 2 * _CLEAR:
                spots += [dice.integer(_CLEAR, last - _CLEAR) for _ in range(4)]
            for start in dice.shuffled(spots):
                rect = wall.rect(start, start + block.width, block.depth)
                if self.fits(rect):
                    self.taken.append((rect, block.height))
                    x, z = wall.point(start + block.width / 2)
                    return [placed(item, wall.quarter, x, z) for item in block.items]
        return None

    def standing_free(self, dice: Dice, block: Block) -> list[Item] | None:
        """Place a block away from the walls."""
        quarter = dice.integer(0, 3)
        width, depth = (block.width, block.depth) if quarter % 2 == 0 else (block.depth, block.width)
        inner = self.room.inner.grown(-_CLEAR - 5)
        if inner.size[0] < width or inner.size[1] < depth:
            return None
        for _ in range(12):
            x, z = dice.integer(inner.x0, inner.x1 - width), dice.integer(inner.z0, inner.z1 - depth)
            rect = Rect(x, z, x + width, z + depth)
            if self.fits(rect, _CLEAR + 5):
                self.taken.append((rect, block.height))
                return [placed(item, quarter, x / 100 + width / 200, z / 100 + depth / 200) for item in block.items]
        return None

    def bare(self, wall: Side, low: int) -> list[tuple[int, int]]:
        """Return the stretches (cm along the wall) with no door, and nothing standing higher than `low` cm there."""
        blocked = [(a - 20, b + 20) for (a, b), _ in wall.holes]
        for rect, height in self.taken:
            if height <= low:
                continue
            for u in range(0, wall.length, 10):
                if rect.overlaps(wall.rect(u, u + 10, 30)):
                    blocked.append((u, u + 10))
        out, at = [], _COVE
        for a, b in sorted(blocked):
            if a - at >= 50:
                out.append((at, a))
            at = max(at, b)
        if wall.length - _COVE - at >= 50:
            out.append((at, wall.length - _COVE))
        return out


def _hang(dice: Dice, wall: Side, at: float, outer: bool) -> Item:
    """Return a window (outer walls), a painting, a round mirror or a clock, centred `at` cm along the wall."""
    x, z = wall.point(at)
    kind = dice.integer(0, 9)
    if outer and kind < 6:
        half, frame = dice.choose((0.45, 0.55)), Paint("smooth", (0.95, 0.95, 0.93))
        glass = Paint("window", (1.0, 1.0, 1.0), 0.9)
        item = Item(
            "window",
            box(-half, 0.95, 0.0, half, 2.0, 0.04, frame, glass, bottom=True)
            + box(-half - 0.06, 0.90, 0.0, half + 0.06, 0.95, 0.12, frame, bottom=True),
        )
    elif kind < 9:
        half, tall = dice.integer(25, 45, 5) / 100, dice.integer(25, 40, 5) / 100
        picture = Paint(f"painting_{dice.integer(0, VARIANTS['painting'] - 1)}", (1.0, 1.0, 1.0), 0.3)
        item = Item(
            "painting",
            box(
                -half,
                1.55 - tall,
                0.0,
                half,
                1.55 + tall,
                0.04,
                Paint("wood", (0.35, 0.25, 0.16)),
                picture,
                bottom=True,
            ),
        )
    else:
        color = hsv(dice.integer(0, 359), 60, 80)
        rim = Paint("smooth", (color[0] / 255, color[1] / 255, color[2] / 255))
        item = w.round_mirror(dice.integer(20, 32) / 100, rim)
    return placed(item, wall.quarter, x, z)


def _decorate(dice: Dice, floor: _Floor, plan: Plan) -> list[Item]:
    """Hang windows and pictures where walls are bare."""
    outer = {
        "south": plan.footprint.z0,
        "north": plan.footprint.z1,
        "west": plan.footprint.x0,
        "east": plan.footprint.x1,
    }
    items = []
    for wall in floor.walls:
        for low, high in floor.bare(wall, 90):
            count = min((high - low) // 150 + 1, 3) if high - low >= 130 else 0
            for k in range(count):
                if dice.chance(75):
                    at = low + (high - low) * (2 * k + 1) / (2 * count)
                    items.append(_hang(dice, wall, at, wall.line == outer[wall.name]))
    return items


def _overhead(dice: Dice, room: Room) -> tuple[list[Item], list[tuple[float, float, float]]]:
    """Return ceiling lamps along the room's longer side, and where their light is."""
    box_, (width, depth) = room.inner, room.inner.size
    count = 1 + max(width, depth) // 650
    lamp, height = i.ceiling_lamp(dice, HEIGHT - (0.03 if min(width, depth) < 200 else 0.0))
    items, lights = [], []
    for k in range(count):
        share = (2 * k + 1) / (2 * count)
        x = (box_.x0 + (width * share if width >= depth else width / 2)) / 100
        z = (box_.z0 + (depth * share if depth > width else depth / 2)) / 100
        items.append(placed(lamp, 0, x, z))
        lights.append((x, height, z))
    return items, lights


def furnish(dice: Dice, plan: Plan, room: Room) -> Furnished:
    """Return the furniture of a room, fit for its type and size."""
    style, floor = make_style(dice), _Floor(room)
    square_metres = room.inner.area // 10_000
    out = Furnished()
    wanted = max(2, min(6, square_metres * 10 // 38) - max(0, len(plan.rooms) - 6))  # many rooms: fewer pieces in each
    free = _FREE.get(room.kind, ())
    fill = dice.shuffled(_FILL[room.kind])
    for maker in _FIRST[room.kind]:
        out.items += floor.against_wall(dice, maker(dice, style)) or []
    for maker in free[:1] + tuple(dice.shuffled(free[1:])) if free else ():
        if len(floor.taken) < wanted:
            out.items += floor.standing_free(dice, maker(dice, style)) or []
    for maker in fill + fill:
        if len(floor.taken) < wanted:
            out.items += floor.against_wall(dice, maker(dice, style)) or []
    out.items += _decorate(dice, floor, plan)
    if min(room.inner.size) > 260 and dice.chance(60):
        x, z = (room.inner.x0 + room.inner.x1) / 200, (room.inner.z0 + room.inner.z1) / 200
        rug = i.make_rug(dice, dice.integer(140, 220, 10) / 100, dice.integer(120, 200, 10) / 100)
        out.items.append(placed(rug, 0, x, z))
    lamps, out.lamps = _overhead(dice, room)
    out.items += lamps
    out.footprints = [rect for rect, _ in floor.taken]
    return out
