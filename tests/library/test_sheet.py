"""Contact sheets: one row for each target that a folder has, one column for each view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rendered_images import put_images
from sideagents.errors import SideAgentsError
from sideagents.train.sheet import contact_sheet, target_sheet


def test_rows_and_columns_by_hand(tmp_path: Path) -> None:
    white, black = torch.ones(2, 3, 8, 8), -torch.ones(2, 3, 8, 8)
    contact_sheet(tmp_path / "sheet.png", {"white": white, "black": black})
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (200, 304, 3)
    assert pixels[40, 150].tolist() == [255, 255, 255]
    assert pixels[140, 150].tolist() == [0, 0, 0]


def test_a_folder_of_targets(tmp_path: Path) -> None:
    root = put_images(tmp_path / "images", 1)
    target_sheet(root, tmp_path / "targets.png", columns=3)
    with Image.open(tmp_path / "targets.png") as picture:
        assert picture.size == (104 + 3 * 100, 3 * 100)  # images, depth, classes of pixels; rooms have no map
    with pytest.raises(SideAgentsError, match=r"has no target of Taskonomy's; `sideagents scenes render` makes them"):
        target_sheet(tmp_path, tmp_path / "none.png")
