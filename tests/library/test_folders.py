"""Image folders: classes and images are sorted by name, sizes are met, what is missing is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sideagents.data.folders import load_folder
from sideagents.errors import SideAgentsError


def put(path: Path, value: int, width: int = 40, height: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (value, value, value)).save(path)


def fault(root: Path, **options: Any) -> str:
    with pytest.raises(SideAgentsError) as caught:
        load_folder(root, **({"size": 8, "resize": "square"} | options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_classes_and_images_are_sorted_by_name(tmp_path: Path) -> None:
    names = ["010.wren/b.jpg", "010.wren/a.png", "002.crow/z.JPEG", "002.crow/A.bmp", "Zoo/only.ppm"]
    for value, name in enumerate(names):
        put(tmp_path / name, 40 * value)
    for stray in ("notes.txt", "010.wren/Thumbs.db", "010.wren/._b.jpg", ".cache/x.jpg"):
        (tmp_path / stray).parent.mkdir(exist_ok=True)
        (tmp_path / stray).write_text("x")
    data = load_folder(tmp_path, 8, "square")
    assert data.classes == ("002.crow", "010.wren", "Zoo")
    assert data.labels.tolist() == [0, 0, 1, 1, 2]
    assert data.images.shape == (5, 3, 8, 8)
    assert data.images[:, 0, 4, 4].tolist() == pytest.approx([120, 80, 40, 0, 160], abs=2)  # JPEG is not exact


def test_square_keeps_everything_and_short_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 200
    (tmp_path / "c").mkdir()
    Image.fromarray(pixels).save(tmp_path / "c" / "x.png")
    square, short = load_folder(tmp_path, 12, "square").images, load_folder(tmp_path, 20, "short").images
    assert square[0, 0, 6, [0, 6, 11]].tolist() == pytest.approx([0, 200, 0], abs=5)  # bicubic overshoots a little
    assert short.shape == (1, 3, 20, 20)
    assert short.unique().tolist() == [200]
    smaller = load_folder(tmp_path, 10, "short").images
    assert smaller[0, 1, :, 2:-2].unique().tolist() == [200]


def test_what_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    root = tmp_path / "train"
    assert "train: no such file" in fault(root)
    root.mkdir()
    assert f"{root}: holds no class folders; images belong in {root}/CLASS/" in fault(root)
    put(root / "crow" / "a.jpg", 1)
    (root / "wren").mkdir()
    (root / "wren" / "a.txt").write_text("x")
    assert f"{root / 'wren'}: the class has no image (.jpg, .jpeg, .png" in fault(root)
    (root / "wren" / "b.jpg").write_text("no image")
    assert f"{root / 'wren' / 'b.jpg'}: cannot be read as an image" in fault(root)
    assert f"the class has no image; if its folders are the classes, give {root} itself" in fault(tmp_path)
    assert "unknown resize 'shrt', did you mean 'short'?" in fault(root, resize="shrt")
    assert "at least 1 pixel, got 0" in fault(root, size=0)
