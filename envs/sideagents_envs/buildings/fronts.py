"""Textures of things: neutral ones that the vertex colours tint, and fronts that are stretched over one face."""

from __future__ import annotations

import numpy as np

from sideagents_envs.buildings.dice import Dice
from sideagents_envs.buildings.textures import SIZE, Rgb, Texture, _axes, _texture, cloud, hsv

_GREY: Rgb = (236, 236, 236)


def smooth(dice: Dice) -> Texture:
    """Painted surface."""
    return _texture(np.zeros((32, 32), np.int64), 22 + cloud(dice, 4, 4, 9, 32), [_GREY], (1.0, 1.0), 12)


def wood(dice: Dice) -> Texture:
    """Wood grain along u."""
    return _texture(np.zeros((32, 32), np.int64), cloud(dice, 16, 2, 31, 32), [_GREY], (1.0, 0.5), 34)


def fabric(dice: Dice) -> Texture:
    """Coarse weave."""
    rows, columns = _axes(32)
    weave = np.where((rows // 4 + columns // 4) % 2 == 0, 10, 0)
    return _texture(np.zeros_like(rows), 12 + weave + cloud(dice, 8, 8, 8, 32), [_GREY], (0.5, 0.5), 22)


def plaid(dice: Dice) -> Texture:
    """Checked cloth."""
    rows, columns = _axes(32)
    return _texture(np.zeros_like(rows), 8 + (rows // 8 % 2 + columns // 8 % 2) * 11, [_GREY], (0.6, 0.6), 45)


def staves(dice: Dice) -> Texture:
    """Upright boards: crates and barrels."""
    rows, columns = _axes(32)
    tone = dice.grain(1, 4, 14)[0, columns // 8]
    hoop = rows % 16 < 3
    shade = np.where(columns % 8 == 0, 0, 14 + tone)
    return _texture(np.where(hoop, 1, 0), np.where(hoop, 20, shade), [_GREY, (110, 108, 104)], (0.8, 0.6), 40)


def leaves(dice: Dice) -> Texture:
    """Foliage."""
    return _texture(
        dice.grain(16, 16, 2).repeat(2, 0).repeat(2, 1),
        cloud(dice, 16, 16, 31, 32),
        [hsv(112, 60, 62), hsv(90, 55, 74)],
        (0.4, 0.4),
        45,
    )


def cabinet(dice: Dice) -> Texture:
    """Two doors with handles."""
    rows, columns = _axes(32)
    half = columns % 16
    frame = (rows < 2) | (rows > 29) | (half < 1) | (half > 14)
    panel = ((rows == 6) | (rows == 25)) & (half >= 4) & (half <= 11) | ((half == 4) | (half == 11)) & (rows >= 6) & (
        rows <= 25
    )
    handle = (np.abs(columns - 16) == 3) & (rows > 12) & (rows < 19)
    shade = np.where(frame, 4, np.where(panel, 12, 26))
    return _texture(np.where(handle, 1, 0), np.where(handle, 20, shade), [_GREY, (70, 66, 60)], (1.0, 1.0), 50)


def drawers(dice: Dice) -> Texture:
    """Three drawers with knobs."""
    rows, columns = _axes(30)
    third = rows % 10
    gap = (third < 1) | (columns < 1) | (columns > 28)
    knob = (np.abs(third - 5) < 2) & (np.abs(columns - 15) < 3)
    return _texture(np.where(knob, 1, 0), np.where(gap, 2, 26), [_GREY, (80, 74, 60)], (1.0, 1.0), 50)


def books(dice: Dice) -> Texture:
    """Four shelves of coloured books."""
    rows, columns = _axes()
    hue = dice.integer(0, 359)
    colors = [hsv(hue + 57 * k, 62, 58 + 8 * (k % 5)) for k in range(6)] + [(96, 70, 44), (40, 30, 24)]
    book = dice.grain(4, 22, 6)[rows // 16, columns // 3]
    height = 3 + dice.grain(4, 22, 4)[rows // 16, columns // 3]
    line = rows % 16
    ids = np.where(line >= 14, 6, np.where(line < height, 7, book))
    return _texture(ids, np.where(columns % 3 == 0, 10, 26), colors, (1.0, 1.0), 40)


def screen(dice: Dice) -> Texture:
    """A television or monitor that shows something."""
    rows, columns = _axes(32)
    edge = (rows < 2) | (rows > 29) | (columns < 2) | (columns > 29)
    ids = np.where(edge, 0, 1 + cloud(dice, 4, 4, 63, 32) // 22)
    return _texture(
        ids, np.full_like(rows, 24), [(24, 24, 26), hsv(210, 60, 60), hsv(190, 40, 80), hsv(30, 50, 80)], (1, 1)
    )


def hob(dice: Dice) -> Texture:
    """An oven's front."""
    rows, columns = _axes(32)
    glass = (rows > 10) & (rows < 27) & (columns > 4) & (columns < 27)
    knob = (rows > 2) & (rows < 7) & (columns % 8 > 2) & (columns % 8 < 6)
    return _texture(np.where(glass | knob, 1, 0), np.full_like(rows, 24), [(214, 214, 216), (38, 38, 42)], (1.0, 1.0))


def porthole(dice: Dice) -> Texture:
    """A washing machine's front."""
    rows, columns = _axes(32)
    distance = (rows - 17) * (rows - 17) + (columns - 16) * (columns - 16)
    ids = np.where(distance < 64, 1, np.where(distance < 110, 2, np.where(rows < 5, 3, 0)))
    return _texture(
        ids, 18 + 10 * (columns - rows) // 32, [(228, 228, 228), (52, 66, 84), (150, 152, 158), (170, 174, 180)], (1, 1)
    )


def window(dice: Dice) -> Texture:
    """Sky and a strip of green behind muntins."""
    rows, columns = _axes()
    bar = (rows % 31 < 3) | (columns % 31 < 3)
    sky = 31 - rows * 20 // SIZE
    hill = rows > 44 - cloud(dice, 1, 8, 10)
    ids = np.where(bar, 2, np.where(hill, 1, 0))
    return _texture(ids, np.where(bar, 30, sky), [hsv(205, 36, 98), hsv(96, 45, 72), (238, 236, 230)], (1.0, 1.0), 36)


def painting(dice: Dice) -> Texture:
    """An abstract picture in a frame, in loud colours: a landmark."""
    rows, columns = _axes()
    hue = dice.integer(0, 359)
    colors = [hsv(hue, 75, 85), hsv(hue + 140, 70, 75), hsv(hue + 200, 55, 92), hsv(hue + 60, 80, 60), (62, 44, 28)]
    field = cloud(dice, 4, 4, 99) + (rows if dice.chance(50) else columns) // 2
    ids = field * 4 // 132
    distance = (rows - dice.integer(18, 46)) * (rows - 32) + (columns - dice.integer(18, 46)) * (columns - 32)
    ids = np.where(np.abs(distance) < dice.integer(60, 200), (ids + 2) % 4, np.clip(ids, 0, 3))
    frame = (rows < 4) | (rows > 59) | (columns < 4) | (columns > 59)
    return _texture(np.where(frame, 4, ids), np.full_like(rows, 26), colors, (1.0, 1.0))


def rug(dice: Dice) -> Texture:
    """A rug with nested borders."""
    rows, columns = _axes()
    hue = dice.integer(0, 359)
    colors = [hsv(hue, 60, 62), hsv(hue + 30, 40, 85), hsv(hue + 180, 50, 55), hsv(hue + 210, 25, 90)]
    ring = np.minimum(np.minimum(rows, 63 - rows), np.minimum(columns, 63 - columns))
    center = (np.abs(rows - 32) + np.abs(columns - 32)) // 8 % 2
    ids = np.where(ring < 4, 0, np.where(ring < 8, 1, np.where(ring < 14, 2, np.where(center == 1, 3, 0))))
    return _texture(ids, 20 + cloud(dice, 16, 16, 11), colors, (1.0, 1.0), 22)


THINGS = {
    f.__name__: f
    for f in (
        smooth,
        wood,
        fabric,
        plaid,
        staves,
        leaves,
        cabinet,
        drawers,
        books,
        screen,
        hob,
        porthole,
        window,
        painting,
        rug,
    )
}
