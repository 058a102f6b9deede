"""Floor plans: rooms by recursive splitting, a corridor in part of them, doors that connect everything.

All lengths here are whole centimetres (multiples of 5), so that no decision hangs on a rounding. x and z are the
horizontal axes of the building, y is up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sideagents_envs.buildings.dice import Dice

WALL_HEIGHT_CM = 250
DOOR_HEIGHT_CM = 210
_SMALLEST_SIDE = 240
_Wall = tuple[int, int, tuple[str, int, int, int]]  # two cells and (axis, line, low, high) of the wall between
_DOOR_MARGIN = 35  # from a door to the centre line of the next wall


@dataclass(frozen=True)
class Rect:
    """An axis-aligned rectangle, cm."""

    x0: int
    z0: int
    x1: int
    z1: int

    @property
    def size(self) -> tuple[int, int]:
        """Extent along x and z."""
        return self.x1 - self.x0, self.z1 - self.z0

    @property
    def area(self) -> int:
        """Area in square centimetres."""
        return (self.x1 - self.x0) * (self.z1 - self.z0)

    def grown(self, by: int) -> Rect:
        """Return the rectangle with every side moved outwards."""
        return Rect(self.x0 - by, self.z0 - by, self.x1 + by, self.z1 + by)

    def gaps(self, other: Rect) -> tuple[int, int]:
        """Return the gaps along x and z, 0 where the two overlap on that axis."""
        return (
            max(other.x0 - self.x1, self.x0 - other.x1, 0),
            max(other.z0 - self.z1, self.z0 - other.z1, 0),
        )

    def overlaps(self, other: Rect) -> bool:
        """Return True when the interiors meet."""
        return self.x0 < other.x1 and other.x0 < self.x1 and self.z0 < other.z1 and other.z0 < self.z1


@dataclass(frozen=True)
class Door:
    """An opening in a wall along `axis`: centre line at `line` on the other axis, from `low` to `high` on `axis`."""

    axis: str  # "x": the wall runs along x (line is a z coordinate); "z": along z (line is an x coordinate)
    line: int
    low: int
    high: int
    rooms: tuple[int, int]
    arch: bool


@dataclass
class Room:
    """A room: `cell` reaches to the centre lines of its walls, `inner` to their faces."""

    index: int
    kind: str
    cell: Rect
    inner: Rect
    doors: list[Door] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Room name as written into node extras."""
        return f"{self.kind}_{self.index}"


@dataclass(frozen=True)
class Plan:
    """One storey: footprint, wall thickness, rooms and doors."""

    footprint: Rect
    wall: int
    rooms: tuple[Room, ...]
    doors: tuple[Door, ...]


def _fives(length: int) -> int:
    """Round down to a multiple of 5 cm."""
    return length // 5 * 5


def _split(dice: Dice, rect: Rect) -> tuple[Rect, Rect] | None:
    """Cut a rectangle across its longer side, near the middle; None when a part would be too small."""
    width, depth = rect.size
    long = max(width, depth)
    low = max(_SMALLEST_SIDE, _fives(long * 36 // 100))
    high = _fives(long) - low
    if low > high:
        return None
    cut = dice.integer(low, high, 5)
    if width >= depth:
        return Rect(rect.x0, rect.z0, rect.x0 + cut, rect.z1), Rect(rect.x0 + cut, rect.z0, rect.x1, rect.z1)
    return Rect(rect.x0, rect.z0, rect.x1, rect.z0 + cut), Rect(rect.x0, rect.z0 + cut, rect.x1, rect.z1)


def _cells(dice: Dice, footprint: Rect) -> tuple[list[Rect], int]:
    """Return the cells, corridors first, and how many of them are corridors."""
    width, depth = footprint.size
    cells = [footprint]
    corridors = 0
    wanted = dice.integer(4, 8)
    if wanted >= 5 and dice.chance(60):
        corridors = 1
        breadth = dice.integer(140, 175, 5)
        along_x = dice.chance(50)
        across = depth if along_x else width
        at = dice.integer(_fives(across * 4 // 10), _fives(across * 6 // 10 - breadth // 2), 5)
        box = footprint
        if along_x:
            low, high = box.z0 + at, box.z0 + at + breadth
            cells = [Rect(box.x0, z0, box.x1, z1) for z0, z1 in ((low, high), (box.z0, low), (high, box.z1))]
        else:
            low, high = box.x0 + at, box.x0 + at + breadth
            cells = [Rect(x0, box.z0, x1, box.z1) for x0, x1 in ((low, high), (box.x0, low), (high, box.x1))]
    while len(cells) < wanted:
        # The largest cell is cut; a little jitter lets plans differ.
        order = sorted(
            range(corridors, len(cells)), key=lambda i: (-cells[i].area * dice.integer(80, 120), cells[i].x0)
        )
        cuts = ((i, _split(dice, cells[i])) for i in order)
        chosen = next(((i, parts) for i, parts in cuts if parts), None)
        if chosen is None:
            break
        i, parts = chosen
        cells.pop(i)
        cells.extend(parts)
    return cells, corridors


def _kinds(dice: Dice, cells: list[Rect], corridors: int) -> list[str]:
    """Give every cell a room type: the largest is the living room, small ones are bathrooms and stores."""
    kinds = ["corridor"] * len(cells)
    order = sorted(range(corridors, len(cells)), key=lambda i: (-cells[i].area, cells[i].x0, cells[i].z0))
    large = ["living", "bedroom", "kitchen", "dining"]
    small = ["bathroom", "storage", "study", "laundry"]
    rest = dice.shuffled(["bedroom", "office", "library", "playroom", "gallery", "dining", "kitchen"])
    large = large[:1] + dice.shuffled(large[1:])
    small = small[:1] + dice.shuffled(small[1:])
    pool = large + rest
    for rank, i in enumerate(order):
        is_small = rank >= len(order) - 2 and len(order) >= 4 and cells[i].area < 160_000
        kinds[i] = small.pop(0) if is_small else pool.pop(0)
    return kinds


def _shared(a: Rect, b: Rect) -> tuple[str, int, int, int] | None:
    """Return (axis, line, low, high) of the wall two cells share, or None."""
    if a.x1 == b.x0 or b.x1 == a.x0:
        low, high = max(a.z0, b.z0), min(a.z1, b.z1)
        return ("z", a.x1 if a.x1 == b.x0 else a.x0, low, high) if high > low else None
    if a.z1 == b.z0 or b.z1 == a.z0:
        low, high = max(a.x0, b.x0), min(a.x1, b.x1)
        return ("x", a.z1 if a.z1 == b.z0 else a.z0, low, high) if high > low else None
    return None


def _doors(dice: Dice, cells: list[Rect], kinds: list[str]) -> list[Door]:
    """Connect all cells by a random spanning tree (corridors first), then most of the loops that walls allow."""
    walls: list[_Wall] = []
    for a in range(len(cells)):
        for b in range(a + 1, len(cells)):
            shared = _shared(cells[a], cells[b])
            if shared and shared[3] - shared[2] >= 110 + 2 * _DOOR_MARGIN:
                walls.append((a, b, shared))
    walls = dice.shuffled(walls)
    walls.sort(key=lambda w: "corridor" not in (kinds[w[0]], kinds[w[1]]))  # stable: the shuffle stays within groups
    group = list(range(len(cells)))
    chosen: list[_Wall] = []
    spare: list[_Wall] = []
    for wall in walls:
        a, b = group[wall[0]], group[wall[1]]
        (chosen if a != b else spare).append(wall)
        group = [a if g == b else g for g in group]
    chosen += [wall for wall in spare if dice.chance(75)]
    doors = []
    for a, b, (axis, line, low, high) in chosen:
        width = dice.integer(90, 110, 5)
        start = dice.integer(_fives(low + _DOOR_MARGIN), _fives(high - _DOOR_MARGIN - width), 5)
        doors.append(Door(axis, line, start, start + width, (a, b), dice.chance(40)))
    return doors


def make_plan(dice: Dice) -> Plan:
    """Return a random plan of 4-8 rooms on about 12 x 12 m, every room reachable."""
    while True:
        width, depth = dice.integer(1100, 1300, 5), dice.integer(1100, 1300, 5)
        x0, z0 = -_fives(width // 2), -_fives(depth // 2)
        footprint = Rect(x0, z0, x0 + width, z0 + depth)
        cells, corridors = _cells(dice, footprint)
        kinds = _kinds(dice, cells, corridors)
        doors = _doors(dice, cells, kinds)
        reached = {0}
        for _ in cells:
            for door in doors:
                if door.rooms[0] in reached or door.rooms[1] in reached:
                    reached |= set(door.rooms)
        if len(cells) >= 4 and len(reached) == len(cells):
            break
    wall = dice.choose((12, 14))  # even: half of it is a whole centimetre
    rooms = []
    for i, (cell, kind) in enumerate(zip(cells, kinds, strict=True)):
        rooms.append(Room(i, kind, cell, cell.grown(-wall // 2), [d for d in doors if i in d.rooms]))
    return Plan(footprint, wall, tuple(rooms), tuple(doors))
