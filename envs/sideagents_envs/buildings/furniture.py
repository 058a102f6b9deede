"""Furniture that stands against a wall. Each function draws one block in the local frame of `pieces.Block`."""

from __future__ import annotations

import math
from dataclasses import replace

from sideagents_envs.buildings.dice import Dice
from sideagents_envs.buildings.pieces import Block, Style, barrel, bolster, bowl, legs, pillar, tinted, vase
from sideagents_envs.buildings.solids import (
    Item,
    Paint,
    Part,
    box,
    cylinder,
    disc,
    patch,
    revolve,
    round_slab,
    sphere,
    torus,
)


def sofa(dice: Dice, style: Style) -> Block:
    """A sofa with rolled arms, a rolled back and two cushions."""
    w, d = dice.integer(150, 210, 10), 85
    x = w / 200
    cloth = style.cloth
    parts = box(-x, 0.05, 0.0, x, 0.40, 0.85, cloth) + box(-x, 0.40, 0.0, x, 0.74, 0.22, cloth)
    parts += bolster(0.11, -x, x, "x", (0, 0.74, 0.11), cloth, half=True)
    for side in (-1, 1):
        center = side * (x - 0.12)
        parts += box(center - 0.12, 0.40, 0.22, center + 0.12, 0.52, 0.84, cloth)
        parts += bolster(0.12, 0.0, 0.85, "z", (center, 0.52, 0.0), cloth, half=True)
    cushions = [sphere(0.2, (s * (x - 0.45), 0.55, 0.36), style.accent, 8, 5, 0.75) for s in (-1, 1)]
    return Block(w, d, 85, [Item("sofa", parts), Item("cushion", cushions)])


def bed(dice: Dice, style: Style) -> Block:
    """A bed with a round-topped headboard, bolsters, a blanket, and drum tables with globe lamps."""
    w = dice.choose((100, 140, 160))
    x = w / 200
    tables = 2 if w > 100 else 1
    frame = box(-x, 0.0, 0.0, x, 0.26, 2.0, style.wood) + box(-x, 0.26, 0.0, x, 0.85, 0.07, style.wood)
    frame += box(-x + 0.02, 0.26, 0.07, x - 0.02, 0.46, 1.98, style.white)
    blanket = box(-x, 0.30, 0.75, x, 0.50, 2.0, style.cloth)
    pillows = [
        p
        for s in ((-1, 1) if w > 100 else (0,))
        for p in bolster(0.11, s * x / 2 - 0.26, s * x / 2 + 0.26, "x", (0, 0.53, 0.25), style.accent, 8)
    ]
    items = [Item("bed", frame + blanket), Item("pillow", pillows)]
    for side in (-1, 1) if tables == 2 else (1,):
        center = (side * (x + 0.22), 0.0, 0.22)
        items.append(Item("nightstand", cylinder(0.22, 0.0, 0.5, style.wood, 12, center)))
        lamp = [
            revolve([(0.07, 0.5), (0.02, 0.56), (0.02, 0.66)], style.metal, 8, center),
            sphere(0.13, (center[0], 0.78, 0.22), Paint("smooth", (1.0, 0.95, 0.8), 0.8), 8, 5),
        ]
        items.append(Item("lamp", lamp))
    width = w + 45 * tables
    shift = 0.0 if tables == 2 else -0.225
    return Block((width + 4) // 5 * 5, 200, 85, [_shifted(item, shift) for item in items])


def _ring(outer: float, inner: float, center: tuple[float, float, float], paint: Paint) -> Part:
    """Return a flat ring that faces the room."""
    return revolve([(outer, 0.0), (inner, 0.0)], paint, 12, center, axis="z")


def _shifted(item: Item, x: float) -> Item:
    return Item(item.category, [replace(p, points=p.points + (x, 0.0, 0.0)) for p in item.parts])


def wardrobe(dice: Dice, style: Style) -> Block:
    """A wardrobe with two doors and a cornice."""
    w = dice.integer(100, 160, 10)
    x = w / 200
    parts = box(-x, 0.0, 0.0, x, 2.0, 0.55, style.wood, Paint("cabinet", style.wood.tint))
    parts += box(-x, 2.0, 0.0, x, 2.08, 0.60, tinted(style.wood, 0.8), bottom=True)
    return Block(w, 60, 208, [Item("wardrobe", parts)])


def bookshelf(dice: Dice, style: Style) -> Block:
    """A shelf full of books with a round vase on top."""
    w, h = dice.integer(80, 160, 10), dice.choose((110, 180, 210))
    x = w / 200
    front = Paint(dice.choose(("books_0", "books_1")))
    items = [Item("bookshelf", box(-x, 0.0, 0.0, x, h / 100, 0.32, style.wood, front))]
    if h < 150:
        items.append(Item("vase", [vase(dice, h / 100, (dice.integer(-20, 20) / 100, 0.0, 0.16), style.clay)]))
    return Block(w, 35, h, items)


def tv_stand(dice: Dice, style: Style) -> Block:
    """A low cabinet with a television."""
    x = dice.integer(130, 180, 10) / 200
    stand = box(-x, 0.0, 0.0, x, 0.5, 0.42, style.wood, Paint("drawers", style.wood.tint))
    screen = box(-0.55, 0.6, 0.06, 0.55, 1.22, 0.12, Paint("smooth", (0.1, 0.1, 0.1)), Paint("screen", (1, 1, 1), 0.7))
    foot = box(-0.1, 0.5, 0.04, 0.1, 0.62, 0.2, style.metal)
    return Block(round(x * 200), 45, 125, [Item("cabinet", stand), Item("tv", screen + foot)])


def desk(dice: Dice, style: Style) -> Block:
    """A desk with a monitor, a globe and a round stool under it."""
    x = dice.integer(120, 160, 10) / 200
    table = box(-x, 0.70, 0.0, x, 0.75, 0.65, style.wood, bottom=True)
    table += box(-x, 0.0, 0.02, -x + 0.4, 0.70, 0.62, style.wood, Paint("drawers", style.wood.tint))
    table += box(x - 0.05, 0.0, 0.02, x, 0.70, 0.62, style.wood)
    monitor = box(
        -0.28, 0.88, 0.14, 0.28, 1.22, 0.18, Paint("smooth", (0.12, 0.12, 0.12)), Paint("screen", (1, 1, 1), 0.7)
    )
    monitor += cylinder(0.03, 0.75, 0.9, style.metal, 6, (0, 0, 0.16)) + cylinder(
        0.12, 0.75, 0.77, style.metal, 10, (0, 0, 0.16)
    )
    globe = [
        sphere(0.13, (x - 0.2, 0.92, 0.3), style.accent, 8, 5),
        *cylinder(0.08, 0.75, 0.8, style.wood, 8, (x - 0.2, 0, 0.3)),
    ]
    stool = cylinder(0.19, 0.40, 0.47, style.cloth, 12, (0.15, 0.0, 0.62)) + cylinder(
        0.05, 0.0, 0.4, style.metal, 8, (0.15, 0.0, 0.62)
    )
    return Block(
        round(x * 200),
        85,
        125,
        [Item("desk", table), Item("monitor", monitor), Item("globe", globe), Item("stool", stool)],
    )


def counter(dice: Dice, style: Style) -> Block:
    """A kitchen run: cupboards, oven, bowl sink, wall cupboards, a round hood, a fridge at the end."""
    w = dice.integer(220, 300, 10)
    x = w / 200
    body = Paint("smooth", style.accent.tint)
    items = []
    x0, x1 = -x + 0.65, x
    fridge = box(
        -x, 0.0, 0.0, -x + 0.65, 1.8, 0.62, Paint("smooth", (0.9, 0.9, 0.92)), Paint("cabinet", (0.9, 0.9, 0.92))
    )
    items.append(Item("fridge", fridge))
    oven = x1 - 0.6
    run = box(x0, 0.0, 0.0, oven, 0.86, 0.6, body, Paint("cabinet", body.tint)) + box(
        x0, 0.86, 0.0, x1, 0.9, 0.62, style.stone
    )
    items.append(Item("counter", run))
    items.append(Item("stove", box(oven, 0.0, 0.0, x1, 0.86, 0.6, style.metal, Paint("hob"))))
    plates = [
        disc(0.09, 0.905, Paint("smooth", (0.12, 0.12, 0.12)), 10, (oven + a, 0, b))
        for a in (0.17, 0.43)
        for b in (0.18, 0.44)
    ]
    items.append(Item("hob", plates))
    hood = revolve([(0.32, 1.55), (0.26, 1.68), (0.12, 1.85)], style.metal, 10, (oven + 0.3, 0, 0.0), math.pi, math.pi)
    flue = revolve([(0.12, 1.85), (0.12, 2.5)], style.metal, 10, (oven + 0.3, 0, 0.0), math.pi, math.pi)
    items.append(Item("hood", [hood, flue]))
    items.append(Item("sink", bowl(0.2, 0.9, ((x0 + oven) / 2, 0, 0.32), style.white)))
    shelf = box(x0, 1.5, 0.0, oven - 0.05, 2.15, 0.34, body, Paint("cabinet", body.tint), bottom=True)
    items.append(Item("cupboard", shelf))
    return Block(w, 65, 180, items)


def bathtub(dice: Dice, style: Style) -> Block:
    """A tub with a half-round trough."""
    x, top, r = 0.8, 0.56, 0.31
    tub = box(-x, 0.0, 0.0, x, top, 0.75, style.white)[1:]
    inner = x - 0.1
    mid = 0.375
    for z0, z1 in ((0.0, mid - r), (mid + r, 0.75)):
        tub.append(patch((-x, top, z1), (1, 0, 0), (0, 0, -1), (0, 2 * x), (0, z1 - z0), style.white))
    for x0, x1 in ((-x, -inner), (inner, x)):
        tub.append(patch((x0, top, mid + r), (1, 0, 0), (0, 0, -1), (0, x1 - x0), (0, 2 * r), style.white))
    around = (tinted(style.white, 0.9), 10, (0, top, mid), -math.pi / 2, math.pi, "x")
    tub.append(revolve([(r, inner), (r, -inner)], *around))
    tub.append(revolve([(r, -inner), (0.0, -inner)], *around))
    tub.append(revolve([(0.0, inner), (r, inner)], *around))
    tap = torus(0.08, 0.02, (-x + 0.12, top + 0.08, mid), style.metal, 8, 8, "z")
    return Block(160, 75, 60, [Item("bathtub", tub), Item("tap", [tap])])


def toilet(dice: Dice, style: Style) -> Block:
    """A toilet."""
    seat = (0, 0, 0.42)
    parts = [
        revolve([(0.12, 0.0), (0.13, 0.2), (0.20, 0.36), (0.21, 0.42)], style.white, 12, seat),
        disc(0.21, 0.42, style.white, 12, seat),
        *box(-0.2, 0.0, 0.0, 0.2, 0.40, 0.35, style.white),
    ]
    parts += box(-0.2, 0.40, 0.0, 0.2, 0.80, 0.18, style.white)
    return Block(45, 65, 80, [Item("toilet", parts)])


def washbasin(dice: Dice, style: Style) -> Block:
    """A half-round cabinet with a bowl, and a round mirror above it."""
    cupboard = round_slab(0.45, 0.0, 0.78, Paint("smooth", style.accent.tint), 10)
    cupboard += round_slab(0.48, 0.78, 0.82, style.stone, 10, bottom=True)
    mirror = round_mirror(0.3, style.metal)
    return Block(
        100,
        50,
        185,
        [
            Item("washbasin", cupboard),
            Item("sink", bowl(0.18, 0.82, (0, 0, 0.22), style.white)),
            mirror,
        ],
    )


def washer(dice: Dice, style: Style) -> Block:
    """One or two washing machines with round doors."""
    count = dice.integer(1, 2)
    x = 0.3 * count
    items = []
    for k in range(count):
        center = -x + 0.3 + 0.6 * k
        items.append(
            Item(
                "washer",
                box(center - 0.3, 0.0, 0.0, center + 0.3, 0.85, 0.55, style.white, Paint("porthole"))
                + [_ring(0.2, 0.14, (center, 0.40, 0.56), style.metal)],
            )
        )
    items.append(Item("basket", [revolve([(0.14, 0.85), (0.2, 1.1)], style.stave, 10, (0.1, 0.0, 0.28))]))
    return Block(60 * count, 60, 110, items)


def boiler(dice: Dice, style: Style) -> Block:
    """An upright tank with domed ends on a square plinth."""
    center = (0, 0, 0.325)
    tank = [
        revolve([(0.28, 0.25 + 1.15 * k / 3) for k in range(4)], style.metal, 14, center),
        sphere(0.28, (0, 1.4, 0.325), style.metal, 14, 4, 0.6, 0.0),
    ]
    return Block(65, 65, 160, [Item("boiler", box(-0.325, 0.0, 0.0, 0.325, 0.25, 0.65, style.stone) + tank)])


def barrels(dice: Dice, style: Style) -> Block:
    """Barrels on a plinth."""
    count = dice.integer(1, 3)
    x = 0.35 * count
    items = [Item("plinth", box(-x, 0.0, 0.0, x, 0.25, 0.7, style.wood))]
    for k in range(count):
        items.append(
            Item("barrel", barrel(0.25, dice.integer(75, 95) / 100, 0.33, (-x + 0.35 + 0.7 * k, 0, 0.35), style))
        )
    return Block(70 * count, 70, 115, items)


def crates(dice: Dice, style: Style) -> Block:
    """Stacked crates with a ball or pipes on top."""
    parts = box(-0.6, 0.0, 0.0, 0.0, 0.6, 0.6, style.stave) + box(
        0.0, 0.0, 0.0, 0.6, 0.6, 0.6, tinted(style.stave, 0.85)
    )
    parts += box(-0.45, 0.6, 0.05, 0.05, 1.1, 0.55, style.stave)
    items = [Item("crate", parts)]
    if dice.chance(50):
        items.append(Item("ball", [sphere(0.2, (0.32, 0.8, 0.3), style.accent, 10, 6)]))
    else:
        items.append(
            Item("pipe", [p for z in (0.15, 0.4) for p in bolster(0.1, 0.08, 0.58, "x", (0, 0.7, z), style.metal, 8)])
        )
    return Block(120, 60, 110, items)


def rack(dice: Dice, style: Style) -> Block:
    """An open rack with tins and boxes."""
    w = dice.integer(100, 150, 10)
    x = w / 200
    parts = box(-x, 0.0, 0.0, -x + 0.04, 1.7, 0.4, style.metal) + box(x - 0.04, 0.0, 0.0, x, 1.7, 0.4, style.metal)
    parts.append(patch((-x, 0.0, 0.02), (1, 0, 0), (0, 1, 0), (0, 2 * x), (0, 1.7), tinted(style.wood, 0.5)))
    things: list[Item] = []
    for y in (0.1, 0.6, 1.1, 1.6):
        parts += box(-x, y, 0.0, x, y + 0.04, 0.4, style.wood, bottom=True)
        at = -x + 0.18
        while at < x - 0.15 and y < 1.6:
            kind = dice.integer(0, 2)
            paint = dice.choose((style.accent, style.clay, style.cloth, style.stone))
            if kind == 0:
                things.append(Item("tin", cylinder(0.11, y + 0.04, y + 0.34, paint, 8, (at, 0, 0.2))))
            elif kind == 1:
                things.append(Item("carton", box(at - 0.13, y + 0.04, 0.06, at + 0.13, y + 0.30, 0.34, paint)))
            at += 0.32
    return Block(w, 40, 170, [Item("rack", parts), *things])


def dresser(dice: Dice, style: Style) -> Block:
    """A chest of drawers with vases."""
    x = dice.integer(90, 130, 10) / 200
    items = [Item("dresser", box(-x, 0.0, 0.0, x, 0.85, 0.45, style.wood, Paint("drawers", style.wood.tint)))]
    items.append(Item("vase", [vase(dice, 0.85, (dice.integer(-30, 30) / 100, 0.0, 0.22), style.clay, 1.2)]))
    return Block(round(x * 200), 45, 85, items)


def console(dice: Dice, style: Style) -> Block:
    """A half-round console with a vase: shallow enough for corridors."""
    r = dice.choose((0.3, 0.35, 0.4))
    parts = round_slab(r, 0.0, 0.78, style.wood, 10) + round_slab(r + 0.03, 0.78, 0.82, style.stone, 10, bottom=True)
    item = Item("vase", [vase(dice, 0.82, (0, 0, r * 0.45), style.clay)])
    return Block(round(r * 200) + 10, round(r * 100) + 5, 82, [Item("console", parts), item])


def bar(dice: Dice, style: Style) -> Block:
    """A half-round bar with a thick top."""
    r = dice.choose((0.8, 0.95, 1.1))
    parts = round_slab(r, 0.0, 1.0, style.wood, 14) + round_slab(r + 0.05, 1.0, 1.06, style.stone, 14, bottom=True)
    items = [Item("bar", parts)]
    items += [Item("vase", [vase(dice, 1.06, (s * 0.3, 0, 0.35), p)]) for s, p in ((-1, style.clay), (1, style.accent))]
    return Block(round(r * 200) + 10, round(r * 100) + 5, 106, items)


def daybed(dice: Dice, style: Style) -> Block:
    """A half-round divan with a rolled back."""
    r = dice.choose((0.85, 1.0))
    parts = round_slab(r, 0.06, 0.42, style.cloth, 14)
    parts += box(-r, 0.42, 0.0, r, 0.74, 0.2, style.cloth) + bolster(
        0.1, -r, r, "x", (0, 0.74, 0.1), style.cloth, half=True
    )
    ball = sphere(0.18, (0.35, 0.56, 0.38), style.accent, 8, 5, 0.8)
    return Block(round(r * 200), round(r * 100), 84, [Item("sofa", parts), Item("cushion", [ball])])


def half_column(dice: Dice, style: Style) -> Block:
    """A half-round pilaster from floor to ceiling."""
    r = dice.choose((0.15, 0.2, 0.25))
    parts = pillar(r, 2.5, style.stone, segments=10, start=math.pi, sweep=math.pi)
    wide = -(-round(r * 260) // 5) * 5
    return Block(wide, -(-wide // 10) * 5, 250, [Item("column", parts)])


def plant(dice: Dice, style: Style) -> Block:
    """A plant in a pot: a ball, a cone or three balls."""
    center = (0, 0, 0.225)
    pot = [
        revolve([(0.14, 0.0), (0.2, 0.38)], style.clay, 10, center),
        disc(0.2, 0.36, Paint("smooth", (0.25, 0.17, 0.1)), 10, center),
    ]
    kind = dice.integer(0, 2)
    if kind == 0:
        crown = [
            sphere(0.22, (0, 0.98, 0.225), style.leaf, 8, 5),
            revolve([(0.025, 0.36), (0.025, 0.8)], style.wood, 4, center),
        ]
    elif kind == 1:
        crown = [revolve([(0.22, 0.38), (0.15, 0.8), (0.0, 1.4)], style.leaf, 10, center)]
    else:
        crown = [
            sphere(r, (x, y, z), style.leaf, 8, 4)
            for r, x, y, z in ((0.19, 0.03, 0.55, 0.22), (0.15, -0.04, 0.85, 0.22))
        ]
    return Block(45, 45, 120, [Item("plant", pot + crown)])


def floor_lamp(dice: Dice, style: Style) -> Block:
    """A standing lamp on a drum."""
    center = (0, 0, 0.2)
    glow = Paint("smooth", (1.0, 0.93, 0.76), 0.8)
    parts = cylinder(0.18, 0.0, 0.12, style.metal, 10, center) + [
        revolve([(0.035, 0.12), (0.03, 1.3)], style.metal, 5, center)
    ]
    parts += [revolve([(0.19, 1.25), (0.11, 1.55)], glow, 10, center)]
    return Block(40, 40, 155, [Item("lamp", parts)])


def stove(dice: Dice, style: Style) -> Block:
    """A round tiled stove with a dome, on a square hearth."""
    center = (0, 0, 0.4)
    tile = Paint("plaid", style.clay.tint)
    parts = box(-0.4, 0.0, 0.0, 0.4, 0.3, 0.8, style.stone)
    parts += [
        revolve([(0.34, 0.3 + 1.3 * k / 2) for k in range(3)], tile, 12, center),
        sphere(0.34, (0, 1.6, 0.4), tile, 12, 3, 0.7, 0.0),
    ]
    return Block(80, 80, 185, [Item("stove", parts)])


def bench(dice: Dice, style: Style) -> Block:
    """A wooden bench with round legs and a rolled cushion."""
    x = dice.integer(100, 150, 10) / 200
    parts = box(-x, 0.38, 0.0, x, 0.44, 0.4, style.wood, bottom=True) + legs(
        x - 0.08, 0.06, 0.34, 0.38, style.wood, 0.04
    )
    parts += bolster(0.1, -x + 0.1, x - 0.1, "x", (0, 0.54, 0.12), style.cloth)
    return Block(round(x * 200), 40, 65, [Item("bench", parts)])


def round_mirror(radius: float, rim: Paint) -> Item:
    """Return a round mirror with a thick rim for the wall, its centre at 1.55 m."""
    glass = revolve([(radius, 0.03), (0.0, 0.03)], Paint("smooth", (0.75, 0.86, 0.92), 0.5), 12, (0, 1.55, 0), axis="z")
    return Item("mirror", [glass, _ring(radius + 0.05, radius - 0.02, (0, 1.55, 0.035), rim)])
