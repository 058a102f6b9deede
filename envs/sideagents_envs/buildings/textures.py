"""Procedural textures: small palette images for walls, floors, fabrics and fronts.

An image is drawn as a material number (0-7) and a shade (0-31) per texel; both together index a palette of 256 colours.
Everything is integer arithmetic. Patterns are coarse on purpose: at 64 x 64 pixels a texel finer than a few
centimetres is only flicker.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.buildings.dice import Dice

Ints = NDArray[np.int64]
Rgb = tuple[int, int, int]
SIZE = 64
_SHADES = 32


@dataclass(frozen=True)
class Texture:
    """A palette image: `index` u8 (h, w), `palette` u8 (256, 3); `period_m` is what one repeat measures (u, v)."""

    index: NDArray[np.uint8]
    palette: NDArray[np.uint8]
    period_m: tuple[float, float]

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """The image as u8 (h, w, 3)."""
        image: NDArray[np.uint8] = self.palette[self.index]
        return image


def hsv(hue: int, saturation: int, value: int) -> Rgb:
    """Return the colour of a hue in degrees, saturation and value in percent."""
    r, g, b = colorsys.hsv_to_rgb((hue % 360) / 360, saturation / 100, value / 100)
    return round(255 * r), round(255 * g), round(255 * b)


def shade_of(color: Rgb, percent: int) -> Rgb:
    """Return the colour made darker or lighter."""
    return tuple(min(255, c * percent // 100) for c in color)  # type: ignore[return-value]


def _texture(ids: Ints, shade: Ints, colors: Sequence[Rgb], period: tuple[float, float], contrast: int = 30) -> Texture:
    """Make the image; shade 0-31 spans `contrast` percent below the colour and a quarter of that above it."""
    ramp = 100 - contrast + (contrast * 5 // 4) * np.arange(_SHADES) // (_SHADES - 1)
    palette = np.zeros((256, 3), dtype=np.int64)
    for i, color in enumerate(colors[:8]):
        palette[i * _SHADES : (i + 1) * _SHADES] = np.array(color) * ramp[:, None] // 100
    index = ids * _SHADES + np.clip(shade, 0, _SHADES - 1)
    return Texture(index.astype(np.uint8), np.clip(palette, 0, 255).astype(np.uint8), period)


def _axes(size: int = SIZE) -> tuple[Ints, Ints]:
    """Return row and column numbers; row 0 is the image's top."""
    rows, columns = np.mgrid[0:size, 0:size]
    return rows.astype(np.int64), columns.astype(np.int64)


def cloud(dice: Dice, cells_y: int, cells_x: int, top: int = 31, size: int = SIZE) -> Ints:
    """Return smooth noise in [0, top] that repeats at the borders (integer bilinear)."""
    lattice = dice.grain(cells_y, cells_x, top + 1)
    rows, columns = _axes(size)
    step_y, step_x = size // cells_y, size // cells_x
    y, fy, x, fx = rows // step_y, rows % step_y, columns // step_x, columns % step_x
    y1, x1 = (y + 1) % cells_y, (x + 1) % cells_x
    upper = lattice[y, x] * (step_x - fx) + lattice[y, x1] * fx
    lower = lattice[y1, x] * (step_x - fx) + lattice[y1, x1] * fx
    noise: Ints = (upper * (step_y - fy) + lower * fy) // (step_x * step_y)
    return noise


def plain(dice: Dice, colors: Sequence[Rgb]) -> Texture:
    """Plaster: almost one colour."""
    return _texture(np.zeros((SIZE, SIZE), np.int64), 14 + cloud(dice, 8, 8, 16), colors, (1.6, 1.6), 16)


def stripes(dice: Dice, colors: Sequence[Rgb]) -> Texture:
    """Upright stripes of two colours."""
    _, columns = _axes()
    width = dice.choose((16, 32))
    return _texture((columns // width) % 2, 20 + cloud(dice, 4, 8, 10), colors, (1.2, 2.4), 18)


def dado(dice: Dice, colors: Sequence[Rgb]) -> Texture:
    """Two-tone wall: dark panel below, a rail, plaster above. One repeat is the wall's height."""
    rows, columns = _axes()
    height = SIZE - rows  # texels above the floor
    ids = np.where(height > 26, 0, np.where(height > 23, 2, 1))
    panel = (columns % 16 < 2) & (height <= 23)
    return _texture(ids, np.where(panel, 2, 20 + cloud(dice, 8, 8, 10)), colors, (1.6, 2.5), 30)


def brick(dice: Dice, colors: Sequence[Rgb]) -> Texture:
    """Brickwork with light joints."""
    rows, columns = _axes()
    course = rows // 8
    shifted = (columns + (course % 2) * 16) % SIZE
    tone = dice.grain(8, 4, 20)[course, shifted // 16]
    joint = (rows % 8 == 0) | (shifted % 16 == 0)
    return _texture(np.where(joint, 1, 0), np.where(joint, 28, 8 + tone), colors, (1.4, 1.4), 34)


def tiles(dice: Dice, colors: Sequence[Rgb]) -> Texture:
    """Square tiles with joints, each a little different."""
    rows, columns = _axes()
    tone = dice.grain(4, 4, 12)[rows // 16, columns // 16]
    joint = (rows % 16 == 0) | (columns % 16 == 0)
    return _texture(np.where(joint, 1, 0), np.where(joint, 20, 18 + tone), colors, (1.6, 1.6), 26)


def checker(dice: Dice, colors: Sequence[Rgb]) -> Texture:
    """Chequered floor."""
    rows, columns = _axes()
    return _texture((rows // 16 + columns // 16) % 2, 20 + cloud(dice, 8, 8, 10), colors, (2.0, 2.0), 20)


def planks(dice: Dice, colors: Sequence[Rgb]) -> Texture:
    """Floor boards along u with staggered ends."""
    rows, columns = _axes()
    board = rows // 8
    start = dice.grain(8, 1, SIZE)[board, 0]
    shifted = (columns + start) % SIZE
    tone = dice.grain(8, 2, 16)[board, shifted // 32]
    joint = (rows % 8 == 0) | (shifted % 32 == 0)
    return _texture(np.zeros_like(rows), np.where(joint, 2, 10 + tone + cloud(dice, 32, 4, 6)), colors, (2.0, 1.4), 38)


def parquet(dice: Dice, colors: Sequence[Rgb]) -> Texture:
    """Squares of boards, alternately turned."""
    rows, columns = _axes()
    turned = (rows // 16 + columns // 16) % 2 == 1
    across = np.where(turned, columns, rows)
    joint = (across % 4 == 0) | (rows % 16 == 0) | (columns % 16 == 0)
    tone = dice.grain(16, 16, 8)[rows // 4, columns // 4]
    return _texture(np.where(turned, 1, 0), np.where(joint, 6, 18 + tone), colors, (1.8, 1.8), 30)


def carpet(dice: Dice, colors: Sequence[Rgb]) -> Texture:
    """Soft cloudy carpet with a woven lattice of a second colour."""
    rows, columns = _axes()
    knot = ((rows + columns) % 32 < 3) | ((rows - columns) % 32 < 3)
    ids = np.where(knot, 1, 0) if dice.chance(50) else np.zeros_like(rows)
    return _texture(ids, 12 + cloud(dice, 16, 16, 12) + dice.grain(SIZE, SIZE, 6), colors, (2.0, 2.0), 26)


def slabs(dice: Dice, colors: Sequence[Rgb]) -> Texture:
    """Large marble slabs with veins."""
    rows, columns = _axes()
    vein = np.abs(cloud(dice, 4, 4, 64) - 32) < 3
    joint = (rows % 32 == 0) | (columns % 32 == 0)
    shade = np.where(joint, 2, np.where(vein, 8, 22 + cloud(dice, 8, 8, 8)))
    return _texture(np.where(joint, 1, 0), shade, colors, (2.0, 2.0), 34)


def diamonds(dice: Dice, colors: Sequence[Rgb]) -> Texture:
    """Wallpaper of diamonds."""
    rows, columns = _axes()
    inside = np.abs(rows % 32 - 16) + np.abs(columns % 32 - 16) < 11
    return _texture(np.where(inside, 1, 0), 22 + cloud(dice, 8, 8, 8), colors, (1.4, 1.4), 18)


WALLS: tuple[Callable[[Dice, Sequence[Rgb]], Texture], ...] = (plain, stripes, dado, brick, tiles, diamonds, plain)
FLOORS: tuple[Callable[[Dice, Sequence[Rgb]], Texture], ...] = (planks, parquet, carpet, checker, slabs, tiles, planks)
