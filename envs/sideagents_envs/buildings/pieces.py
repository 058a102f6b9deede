"""Building blocks of furniture: what stands together, its footprint, and the paints of a room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sideagents_envs.buildings.dice import Dice
from sideagents_envs.buildings.solids import Color, Item, Paint, Part, cylinder, revolve
from sideagents_envs.buildings.textures import Rgb, hsv


@dataclass(frozen=True)
class Block:
    """Furniture that is placed as one: `width` x `depth` cm, `height` cm.

    Local frame in metres: x along the wall (0 in the middle), y up, z out of the wall (the back at z = 0).
    """

    width: int
    depth: int
    height: int
    items: list[Item]


@dataclass(frozen=True)
class Style:
    """Paints of a room's furniture."""

    wood: Paint
    cloth: Paint
    accent: Paint
    stone: Paint
    metal: Paint
    white: Paint
    leaf: Paint
    clay: Paint
    stave: Paint


def _color(rgb: Rgb) -> Color:
    return rgb[0] / 255, rgb[1] / 255, rgb[2] / 255


def make_style(dice: Dice) -> Style:
    """Return random paints: wood from pale to dark, two cloths of different hue."""
    hue = dice.integer(0, 359)
    wood = hsv(dice.integer(16, 36), dice.integer(30, 70), dice.integer(40, 92))
    return Style(
        wood=Paint("wood", _color(wood)),
        cloth=Paint(
            dice.choose(("fabric", "plaid", "fabric")), _color(hsv(hue, dice.integer(30, 70), dice.integer(45, 85)))
        ),
        accent=Paint("fabric", _color(hsv(hue + dice.integer(90, 270), dice.integer(40, 75), dice.integer(55, 95)))),
        stone=Paint("smooth", _color(hsv(dice.integer(20, 60), dice.integer(4, 22), dice.integer(60, 95)))),
        metal=Paint("smooth", _color(hsv(210, 8, dice.integer(28, 62)))),
        white=Paint("smooth", (0.96, 0.96, 0.95)),
        leaf=Paint("leaves"),
        clay=Paint(
            "smooth", _color(hsv(dice.choose((14, 20, 200, 350, 48)), dice.integer(35, 65), dice.integer(50, 85)))
        ),
        stave=Paint("staves", _color(hsv(dice.integer(20, 34), dice.integer(35, 60), dice.integer(50, 80)))),
    )


def tinted(paint: Paint, factor: float) -> Paint:
    """Return the paint darker (factor below 1)."""
    return replace(paint, tint=(paint.tint[0] * factor, paint.tint[1] * factor, paint.tint[2] * factor))


def bolster(
    radius: float,
    low: float,
    high: float,
    axis: str,
    center: Sequence[float],
    paint: Paint,
    segments: int = 10,
    half: bool = False,
) -> list[Part]:
    """Return a lying cylinder along `axis` with both ends; `half` keeps the upper half."""
    sweep = math.pi if half else 2 * math.pi
    start = (0.0 if axis == "z" else math.pi / 2) if half else 0.0
    around = (paint, segments, center, start, sweep, axis)
    return [
        revolve([(radius, low), (radius, high)], *around),
        revolve([(radius, high), (0.0, high)], *around),
        revolve([(0.0, low), (radius, low)], *around),
    ]


def legs(x: float, z0: float, z1: float, height: float, paint: Paint, radius: float = 0.03) -> list[Part]:
    """Return four round legs at +-x."""
    return [
        revolve([(radius * 0.8, 0.0), (radius, height)], paint, 6, (px, 0.0, pz)) for px in (-x, x) for pz in (z0, z1)
    ]


def bowl(radius: float, y: float, center: Sequence[float], paint: Paint, segments: int = 10) -> list[Part]:
    """Return an open hemispherical bowl standing at height `y`, seen inside and outside."""
    turns = [math.pi / 2 * k / 3 for k in range(4)]
    outer = [(round(radius * math.sin(a), 6), round(y + radius * (1 - math.cos(a)), 6)) for a in turns]
    inner = [(r * 0.88, y + radius - (y + radius - h) * 0.88) for r, h in reversed(outer)]
    rim = [(outer[-1][0], y + radius), (inner[0][0], y + radius)]
    return [revolve(profile, paint, segments, center) for profile in (outer, rim, inner)]


def pillar(
    radius: float,
    height: float,
    paint: Paint,
    center: Sequence[float] = (0, 0, 0),
    segments: int = 12,
    start: float = 0.0,
    sweep: float = 2 * math.pi,
) -> list[Part]:
    """Return a round column with base and capital; with `sweep` pi a half column."""
    wide = radius * 1.3
    shaft = [(radius, 0.18 + (height - 0.36) * k / 2) for k in range(3)]
    around = (paint, segments, center, start, sweep)
    return [
        revolve([(wide, 0.0), (wide, 0.12)], *around),
        revolve([(wide, 0.12), (radius, 0.18)], *around),
        revolve(shaft, *around),
        revolve([(radius, height - 0.18), (wide, height)], *around),
    ]


def vase(dice: Dice, y: float, center: Sequence[float], paint: Paint, size: float = 1.0) -> Part:
    """Return a bellied vase of about 0.35 m x `size`."""
    belly, neck = dice.integer(9, 14) / 100 * size, dice.integer(4, 7) / 100 * size
    profile = [
        (0.06 * size, 0.0),
        (belly, 0.13 * size),
        (neck, 0.30 * size),
        (neck * 1.4, 0.38 * size),
    ]
    return revolve([(r, y + h) for r, h in profile], paint, 8, center)


def barrel(y: float, height: float, radius: float, center: Sequence[float], style: Style) -> list[Part]:
    """Return a bellied barrel."""
    bulge = ((0.82, 0.0), (0.94, 0.22), (1.0, 0.5), (0.94, 0.78), (0.82, 1.0))
    side = revolve([(radius * r, y + height * h) for r, h in bulge], style.stave, 12, center)
    return [side, *cylinder(radius * 0.8, y + height - 0.03, y + height - 0.02, style.wood, 12, center)[1:]]
