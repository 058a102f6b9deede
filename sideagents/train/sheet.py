"""A contact sheet: rows of maps in [-1, 1], as a picture that shows what a base has learned to see."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from sideagents.data.targets import TARGETS
from sideagents.data.taskonomy_folder import read_taskonomy
from sideagents.errors import SideAgentsError
from sideagents.storage.files import write_bytes

_CELL = 96  # pixels of one map
_LABEL = 104  # pixels of the row's name
_GAP = 4


def contact_sheet(
    path: Path, rows: Mapping[str, Tensor], valid: Tensor | None = None, span: float | None = None
) -> None:
    """Write a PNG with one row per entry of `rows` (N, C, H, W); one column per sample.

    Three channels are shown as colours, two as red and green, one by a colour scale; rows of the same number of
    channels other than images share their contrast, or are stretched from -span..span. Where `valid` (N, 1, H, W) is
    0, maps of the rows after the first are black.
    """
    count = next(iter(rows.values())).shape[0]
    size = (_LABEL + count * (_CELL + _GAP), len(rows) * (_CELL + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    span = _contrast(list(rows.values())[1:]) if span is None else span
    for number, (name, maps) in enumerate(rows.items()):
        top = number * (_CELL + _GAP)
        draw.text((4, top + _CELL // 2 - 6), name, fill="black")
        pictures = _colours(maps, 1.0 if number == 0 else span)
        if valid is not None and number:
            pictures = pictures * (valid.permute(0, 2, 3, 1).numpy() > 0)
        for column, picture in enumerate(pictures):
            cell = Image.fromarray((picture * 255).astype(np.uint8)).resize((_CELL, _CELL), Image.Resampling.NEAREST)
            sheet.paste(cell, (_LABEL + column * (_CELL + _GAP), top))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_bytes(path, buffer.getvalue())


def target_sheet(root: Path, path: Path, columns: int = 8, size: int = 64) -> None:
    """Write a PNG of all map targets that a folder in Taskonomy's layout has, one row each, below the images.

    Pixels that do not count for a target are black in its row; classes of pixels have one colour each on a scale.
    Raises `SideAgentsError` when the folder has no images.
    """
    rows: dict[str, Tensor] = {}
    for name, target in TARGETS.items():
        if target.kind == "category" or not any((root / folder).is_dir() for folder in target.folders):
            continue
        data = read_taskonomy(root, name, size=size, limit=columns)
        images, maps, weight = data.batch(torch.arange(len(data)))
        rows.setdefault("images", images * 2 - 1)
        if target.kind == "segmentation":
            maps = 2 * maps.float() / (target.channels - 1) - 1
        maps = maps / _contrast([maps])
        rows[name] = torch.where(weight > 0, maps, torch.full_like(maps, -1.0))
    if not rows:
        raise SideAgentsError(f"{root}: has no target of Taskonomy's; `sideagents scenes render` makes them")
    contact_sheet(path, rows, span=1.0)


def _contrast(maps: list[Tensor]) -> float:
    """Return the magnitude that maps of two channels (curvatures: mostly small) are stretched to; 1 for others."""
    if not maps or maps[0].shape[1] != 2:
        return 1.0
    return float(np.clip(np.quantile(maps[0].abs().numpy(), 0.98), 0.05, 1.0))


def _colours(maps: Tensor, span: float) -> NDArray[Any]:
    """Return (N, H, W, 3) in [0, 1]."""
    unit = ((maps.float() / span).clamp(-1, 1) * 0.5 + 0.5).permute(0, 2, 3, 1).numpy()
    if unit.shape[3] == 1:
        from matplotlib import colormaps

        return np.asarray(colormaps["magma"](unit[..., 0])[..., :3])
    if unit.shape[3] == 2:
        return np.concatenate([unit, np.full_like(unit[..., :1], 0.5)], axis=3)
    return np.asarray(unit)
