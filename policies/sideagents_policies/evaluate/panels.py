"""Pictures of an agent at work: its view, what the base makes of it, the map, the path from above."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Image8 = NDArray[np.uint8]
PANEL = 256
HEADER = 32  # keeps the height a multiple of 16, which video codecs ask for


def enlarge(image: Image8, size: int = PANEL) -> Image8:
    """Return `image` (h, w, 3) as (size, size, 3) with visible pixels, padded to a square."""
    side = max(image.shape[:2])
    square = np.zeros((side, side, 3), dtype=np.uint8)
    square[: image.shape[0], : image.shape[1]] = image
    return np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.NEAREST))


class CodePalette:
    """Colours for codes: the three directions in which the codes of one episode differ most become red, green, blue."""

    def __init__(self, codes: NDArray[np.floating[Any]]) -> None:
        """Fit to `codes` (T, C, h, w)."""
        points = np.moveaxis(np.asarray(codes, dtype=np.float64), 1, -1).reshape(-1, codes.shape[1])
        self._mean = points.mean(axis=0)
        _, _, directions = np.linalg.svd(points - self._mean, full_matrices=False)
        self._directions = directions[:3] * np.sign(directions[:3].sum(axis=1, keepdims=True) + 1e-12)
        projected = (points - self._mean) @ self._directions.T
        self._low, self._high = np.percentile(projected, [2, 98], axis=0)

    def paint(self, code: NDArray[np.floating[Any]]) -> Image8:
        """Return the picture (h, w, 3) of one code (C, h, w)."""
        projected = (np.moveaxis(np.asarray(code, dtype=np.float64), 0, -1) - self._mean) @ self._directions.T
        scaled = (projected - self._low) / np.maximum(self._high - self._low, 1e-9)
        picture = (np.clip(scaled, 0.0, 1.0) * 255).astype(np.uint8)
        missing = 3 - picture.shape[-1]
        return np.pad(picture, ((0, 0), (0, 0), (0, missing))) if missing > 0 else picture


@dataclass(frozen=True)
class TopDown:
    """A building from above: `free[row, column]` at `metres_per_pixel`, pixel (0, 0) at world (x, z) = `origin`."""

    free: NDArray[np.bool_]
    origin: tuple[float, float]
    metres_per_pixel: float

    def pixel(self, x: float, z: float) -> tuple[float, float]:
        """Return (column, row) of a world position."""
        return (x - self.origin[0]) / self.metres_per_pixel, (z - self.origin[1]) / self.metres_per_pixel

    def draw(
        self,
        track: NDArray[np.float64],
        yaw: float,
        goal: tuple[float, float],
        shortest: NDArray[np.float64] | None = None,
        size: int = PANEL,
    ) -> Image8:
        """Return the plan with the goal, the shortest path, the path walked (T, 2) in x, z, and the agent's arrow."""
        plan = np.where(self.free[..., None], np.uint8(235), np.uint8(70)).repeat(3, axis=2)
        scale = size / max(plan.shape[:2])
        image = Image.new("RGB", (size, size), (25, 25, 25))
        shape = (max(1, round(plan.shape[1] * scale)), max(1, round(plan.shape[0] * scale)))
        image.paste(Image.fromarray(plan).resize(shape, Image.Resampling.BILINEAR), (0, 0))
        pen = ImageDraw.Draw(image)

        def place(x: float, z: float) -> tuple[float, float]:
            column, row = self.pixel(x, z)
            return column * scale, row * scale

        if shortest is not None and len(shortest) > 1:
            pen.line([place(x, z) for x, z in shortest], fill=(60, 160, 60), width=2)
        if len(track) > 1:
            pen.line([place(x, z) for x, z in track], fill=(40, 90, 220), width=3)
        gx, gy = place(*goal)
        pen.ellipse([gx - 6, gy - 6, gx + 6, gy + 6], fill=(220, 50, 40))
        ax, ay = place(*track[-1])
        ahead = np.array([-np.sin(yaw), -np.cos(yaw)])
        left = np.array([ahead[1], -ahead[0]])
        corners = [ahead * 10, -ahead * 6 + left * 6, -ahead * 6 - left * 6]
        pen.polygon([(ax + float(c[0]), ay + float(c[1])) for c in corners], fill=(245, 170, 20), outline=(0, 0, 0))
        return np.asarray(image)


def compose(panels: list[tuple[str, Image8]], header: str) -> Image8:
    """Put up to four captioned panels into one picture (HEADER + 2 * PANEL, 2 * PANEL, 3) under a line of text."""
    image = Image.new("RGB", (2 * PANEL, HEADER + 2 * PANEL), (15, 15, 15))
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=14)
    pen.text((8, 7), header, fill=(240, 240, 240), font=font)
    for index, (caption, panel) in enumerate(panels):
        left, top = PANEL * (index % 2), HEADER + PANEL * (index // 2)
        image.paste(Image.fromarray(enlarge(panel)), (left, top))
        width = pen.textlength(caption, font=font)
        pen.rectangle([left, top, left + width + 8, top + 20], fill=(15, 15, 15))
        pen.text((left + 4, top + 2), caption, fill=(240, 240, 240), font=font)
    return np.asarray(image)


def titled(image: Image8, title: str) -> Image8:
    """Return a picture (H, W, 3) under a line of text, (HEADER + H, W, 3)."""
    band = Image.new("RGB", (image.shape[1], HEADER), (15, 15, 15))
    ImageDraw.Draw(band).text((8, 7), title, fill=(245, 170, 20), font=ImageFont.load_default(size=14))
    return np.concatenate([np.asarray(band), image])
