"""Image sets: what does not fit is refused, parts keep image and label together, files become the right pixels."""

from __future__ import annotations

import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foreign_program import POSTSCRIPT, ghostscript_in_the_path
from sideagents.data.images import LabelledImages, fit_short, fit_square, read_image, read_images
from sideagents.errors import SideAgentsError


def numbered(labels: list[int], classes: int = 3) -> LabelledImages:
    """An image set whose image i has the value i everywhere."""
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return LabelledImages(images, torch.tensor(labels, dtype=torch.int64), tuple("abcdefg"[:classes]))


def values(images: LabelledImages) -> list[int]:
    return [int(value) for value in images.images[:, 0, 0, 0]]


@pytest.mark.parametrize(
    ("images", "labels", "fault"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "images must be uint8 (N, 3, H, W), got torch.fl"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "got torch.uint8 (2, 4, 4, 3)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "got torch.uint8 (3, 4, 4)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2), "labels must be int64 (2,), one for each image"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "got torch.int64 (3,)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 3]), "in 0..2 for 3 classes, got 0..3"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([-1, 0]), "in 0..2 for 3 classes, got -1..0"),
    ],
)
def test_what_does_not_fit_is_refused(images: torch.Tensor, labels: torch.Tensor, fault: str) -> None:
    with pytest.raises(SideAgentsError) as caught:
        LabelledImages(images, labels, ("a", "b", "c"))
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parts_keep_image_and_label_together() -> None:
    data = numbered([2, 0, 1, 2, 0, 1])
    assert len(data) == 6
    part = data.take(torch.tensor([5, 0]))
    assert (values(part), part.labels.tolist(), part.classes) == ([5, 0], [1, 2], data.classes)
    assert values(data.take(data.labels == 0)) == [1, 4]
    assert len(data.take(torch.zeros(0, dtype=torch.int64))) == 0
    later = data.of_classes(1, 2)
    assert (values(later), later.labels.tolist(), later.classes) == ([0, 2, 3, 5], [1, 0, 1, 0], ("b", "c"))
    assert values(data.first_per_class(1)) == [0, 1, 2]


def test_the_held_out_images_are_drawn_by_the_seed_alone() -> None:
    data = numbered([0, 1] * 50, classes=2)
    rest, held = data.split_per_class(10, seed=3)
    assert (held.labels.bincount().tolist(), rest.labels.bincount().tolist()) == ([10, 10], [40, 40])
    assert sorted(values(rest) + values(held)) == list(range(100))
    assert values(held) == sorted(values(held))
    torch.manual_seed(5)
    assert values(data.split_per_class(10, seed=3)[1]) == values(held)
    assert values(data.split_per_class(10, seed=4)[1]) != values(held)


def test_classes_that_are_missing_or_too_small_are_named() -> None:
    data = numbered([0, 0, 1, 1, 1, 2, 2])
    with pytest.raises(SideAgentsError, match="class 'a' has 2 images, too few to take 2 and leave 1"):
        data.split_per_class(2, seed=0)
    with pytest.raises(SideAgentsError, match=r"class 'a' has 2 images, too few to take 3$"):
        data.first_per_class(3)
    with pytest.raises(SideAgentsError, match="class 'd' has 0 images"):
        numbered([0, 1, 2], classes=4).first_per_class(1)
    with pytest.raises(SideAgentsError, match="must be at least 1, got 0"):
        data.split_per_class(0, seed=0)
    for first, count in ((-1, 1), (2, 2), (0, 0)):
        with pytest.raises(SideAgentsError, match=r"are not there: the data has 0\.\.2"):
            data.of_classes(first, count)


def test_every_8_bit_image_becomes_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (4, 4), (200, 10, 10))
    files = {
        "rgb.png": red,
        "alpha.png": red.convert("RGBA"),
        "grey.png": Image.new("L", (4, 4), 77),
        "bit.png": Image.new("1", (4, 4), 1),
    }
    for name, image in files.items():
        image.save(tmp_path / name)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 10, 10])
    palette.save(tmp_path / "palette.png", transparency=b"\x00\x80")
    colours = {name: read_image(tmp_path / name).getpixel((1, 1)) for name in (*files, "palette.png")}
    assert colours == {
        "rgb.png": (200, 10, 10),
        "alpha.png": (200, 10, 10),
        "grey.png": (77, 77, 77),
        "bit.png": (255, 255, 255),
        "palette.png": (200, 10, 10),
    }


def test_what_is_no_image_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (64, 64), (1, 2, 3)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:400])
    faults = {
        "deep.png": "cannot be read as an image (pixels must be 8-bit, not of Pillow's mode I;16",
        "text.png": "cannot be read as an image",
        "cut.jpg": "cannot be read as an image",
        "gone.png": "no such file",
    }
    for name, fault in faults.items():
        with pytest.raises(SideAgentsError) as caught:
            read_image(tmp_path / name)
        assert f"{tmp_path / name}: {fault}" in str(caught.value)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    Image.new("RGB", (64, 64)).save(tmp_path / "huge.png")
    with pytest.raises(SideAgentsError, match=r"huge\.png: cannot be read as an image \(Image size"):
        read_image(tmp_path / "huge.png")


def test_resizing_keeps_the_centre() -> None:
    wide = np.zeros((10, 31, 3), np.uint8)
    wide[:, 10:20] = 255  # torchvision's corner is round(10.5) = 10
    assert np.asarray(fit_short(Image.fromarray(wide), 10, 10)).min() == 255
    tall = Image.fromarray(np.ascontiguousarray(wide.transpose(1, 0, 2)))
    assert fit_short(tall, 20, 16).size == (16, 16)
    assert np.asarray(fit_short(tall, 20, 8)).min() == 255
    assert fit_square(tall, 7).size == (7, 7)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = np.asarray(fit_square(Image.fromarray(stripes), 8))
    assert abs(shrunk.astype(int) - 128).max() <= 12  # antialiased: a mean, neither black nor white


def test_files_are_read_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{value}.png" for value in range(20)]
    for value, path in enumerate(paths):
        Image.new("RGB", (6, 5), (value, 0, 100)).save(path)
    images = read_images(paths, partial(fit_square, size=4), 4, "test")
    assert images.shape == (20, 3, 4, 4)
    assert images[:, :, 2, 2].tolist() == [[value, 0, 100] for value in range(20)]
    paths[7].write_text("x")
    with pytest.raises(SideAgentsError, match=r"7\.png: cannot be read"):
        read_images(paths, partial(fit_square, size=4), 4, "test")


def test_an_image_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = ghostscript_in_the_path(tmp_path, monkeypatch)
    (tmp_path / "photo.png").write_bytes(POSTSCRIPT)
    with pytest.raises(SideAgentsError, match=r"photo\.png: cannot be read as an image \(it is none of PNG, JPEG"):
        read_image(tmp_path / "photo.png")
    assert not marker.exists()


def test_an_image_of_too_many_pixels_is_refused_from_its_header(tmp_path: Path) -> None:
    Image.new("L", (10, 10)).save(tmp_path / "large.png")
    data = bytearray((tmp_path / "large.png").read_bytes())
    data[16:24] = np.array([10_000, 10_000], ">u4").tobytes()
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "large.png").write_bytes(bytes(data))
    with pytest.raises(SideAgentsError, match=r"large\.png: cannot be read as an image .*exceeds limit"):
        read_image(tmp_path / "large.png")
