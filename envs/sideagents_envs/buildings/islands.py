"""Furniture that stands free in a room, drawn around the origin; ceiling lamps and rugs."""

from __future__ import annotations

import math
from dataclasses import replace

from sideagents_envs.buildings.dice import Dice
from sideagents_envs.buildings.pieces import Block, Style, barrel, legs, pillar, tinted, vase
from sideagents_envs.buildings.solids import Item, Paint, Part, box, cylinder, disc, revolve, round_slab, sphere, torus


def round_table(dice: Dice, style: Style) -> Block:
    """A round table on a turned foot with round stools under it."""
    r = dice.choose((0.5, 0.55, 0.6))
    table = cylinder(r, 0.70, 0.75, style.wood, 16)
    table.append(revolve([(0.0, 0.70), (r, 0.70)], tinted(style.wood, 0.7), 16))
    table.append(revolve([(0.3, 0.0), (0.26, 0.06), (0.08, 0.12), (0.06, 0.4), (0.1, 0.6), (0.2, 0.7)], style.wood, 10))
    items = [Item("table", table), Item("vase", [vase(dice, 0.75, (0, 0, 0), style.clay)])]
    for x, z in ((r, 0.0), (-r, 0.0), (0.0, r), (0.0, -r))[: dice.choose((2, 4))]:
        items.append(
            Item(
                "stool",
                cylinder(0.18, 0.40, 0.46, style.cloth, 10, (x, 0, z))
                + cylinder(0.06, 0.0, 0.4, style.wood, 8, (x, 0, z)),
            )
        )
    size = round(200 * r) + 40
    return Block(size, size, 75, items)


def dining_table(dice: Dice, style: Style) -> Block:
    """A long table with a chair at each side."""
    x, z = dice.integer(120, 180, 10) / 200, 0.42
    table = box(-x, 0.70, -z, x, 0.75, z, style.wood, bottom=True) + legs(
        x - 0.08, -z + 0.08, z - 0.08, 0.7, style.wood, 0.045
    )
    items = [Item("table", table), Item("vase", [vase(dice, 0.75, (0.1, 0, 0), style.clay)])]
    for side in (-1, 1):
        z0, z1 = sorted((side * (z - 0.2), side * (z + 0.2)))
        chair = box(-0.21, 0.40, z0, 0.21, 0.46, z1, style.cloth, bottom=True)
        back = side * (z + 0.18)
        chair += box(-0.21, 0.0, min(back, back + side * 0.04), 0.21, 0.92, max(back, back + side * 0.04), style.wood)
        items.append(Item("chair", chair))
    return Block(round(200 * x), 130, 92, items)


def coffee_table(dice: Dice, style: Style) -> Block:
    """A low drum table with a bowl or ball on it."""
    r = dice.choose((0.35, 0.4, 0.45))
    parts = [
        revolve([(r * 0.8, 0.0), (r * 0.9, 0.12), (r, 0.25), (r * 0.9, 0.37)], style.wood, 14),
        disc(r * 0.9, 0.37, style.stone, 14),
    ]
    size = -(-round(200 * r) // 10) * 10
    return Block(
        size, size, 55, [Item("table", parts), Item("ball", [sphere(0.1, (0.08, 0.47, 0.05), style.clay, 8, 5)])]
    )


def barrel_table(dice: Dice, style: Style) -> Block:
    """A barrel with a round top."""
    parts = barrel(0.0, 0.85, 0.34, (0, 0, 0), style) + cylinder(0.4, 0.86, 0.9, style.wood, 14)
    return Block(80, 80, 90, [Item("barrel", parts)])


def column(dice: Dice, style: Style) -> Block:
    """A round column from floor to ceiling."""
    r = dice.choose((0.16, 0.2, 0.25))
    size = -(-round(r * 260) // 10) * 10
    return Block(size, size, 250, [Item("column", pillar(r, 2.5, style.stone))])


def ring_sofa(dice: Dice, style: Style) -> Block:
    """A half-round sofa around an open seat more than a metre wide."""
    parts = round_slab(1.15, 0.06, 0.42, style.cloth, 14, 0.65, math.pi, math.pi, (0, 0, -0.6))
    parts += round_slab(1.15, 0.42, 0.82, style.cloth, 14, 0.97, math.pi, math.pi, (0, 0, -0.6))
    return Block(230, 120, 82, [Item("sofa", parts)])


def pouf(dice: Dice, style: Style) -> Block:
    """A round pouf."""
    return Block(70, 70, 45, [Item("pouf", [sphere(0.34, (0, 0.204, 0), style.accent, 10, 6, 0.6)])])


def pedestal(dice: Dice, style: Style) -> Block:
    """A pedestal with a ball, a ring or a large vase."""
    kind = dice.integer(0, 2)
    if kind == 0:
        work: Part = sphere(0.24, (0, 1.02, 0), style.accent, 14, 8)
    elif kind == 1:
        work = torus(0.22, 0.08, (0, 1.08, 0), style.clay, 14, 8, dice.choose(("x", "z")))
    else:
        work = vase(dice, 0.8, (0, 0, 0), style.clay, 1.9)
    stand = (
        box(-0.25, 0.0, -0.25, 0.25, 0.8, 0.25, style.stone)
        if dice.chance(50)
        else cylinder(0.25, 0.0, 0.8, style.stone, 14)
    )
    return Block(60, 60, 140, [Item("pedestal", stand), Item("sculpture", [work])])


def divider(dice: Dice, style: Style) -> Block:
    """A low wall with round ends."""
    x = dice.integer(80, 130, 10) / 200
    parts = box(-x, 0.0, -0.15, x, 1.1, 0.15, style.stone)
    parts += round_slab(0.15, 0.0, 1.1, style.stone, 8, 0.0, -math.pi / 2, math.pi, (x, 0, 0))
    parts += round_slab(0.15, 0.0, 1.1, style.stone, 8, 0.0, math.pi / 2, math.pi, (-x, 0, 0))
    return Block(round(200 * x) + 30, 30, 110, [Item("divider", parts)])


def drum_shelf(dice: Dice, style: Style) -> Block:
    """A round bookcase."""
    books = Paint(dice.choose(("books_0", "books_1")))
    parts = [
        revolve([(0.42, 0.1), (0.42, 1.2)], books, 14),
        *cylinder(0.46, 0.0, 0.1, style.wood, 14),
        *cylinder(0.46, 1.2, 1.26, style.wood, 14),
    ]
    return Block(95, 95, 126, [Item("bookshelf", parts)])


def ceiling_lamp(dice: Dice, height: float) -> tuple[Item, float]:
    """Return a lamp under the ceiling around the origin, and the height of its light."""
    glow = Paint("smooth", (1.0, 0.97, 0.88), 0.9)
    brass = Paint("smooth", (0.72, 0.58, 0.32))
    kind = dice.integer(0, 2)
    if kind == 0:  # a bowl against the ceiling
        low = [(0.0, height - 0.14), (0.16, height - 0.11), (0.25, height - 0.04), (0.27, height)]
        return Item("lamp", [revolve(low, glow, 10)]), height - 0.25
    rod = revolve([(0.015, height - 0.35), (0.015, height)], brass, 3)
    if kind == 1:
        return Item("lamp", [rod, sphere(0.17, (0, height - 0.45, 0), glow, 8, 5)]), height - 0.5
    shade = revolve([(0.3, height - 0.5), (0.2, height - 0.36), (0.03, height - 0.3)], brass, 10)
    bulb = revolve([(0.0, height - 0.58), (0.1, height - 0.5), (0.08, height - 0.42)], glow, 8)
    return Item("lamp", [rod, shade, bulb]), height - 0.55


def make_rug(dice: Dice, width: float, depth: float) -> Item:
    """Return a flat rug around the origin, rectangular or round: thin enough to walk over."""
    paint = Paint(dice.choose(("rug_0", "rug_1")))
    if dice.chance(40):
        r = min(width, depth) / 2
        part = disc(r, 0.01, paint, 14)
        return Item("rug", [replace(part, uv=part.uv / (2 * r) + 0.5)])
    part = box(-width / 2, 0.0, -depth / 2, width / 2, 0.01, depth / 2, paint)[0]
    return Item("rug", [replace(part, uv=part.uv / (width, depth))])
