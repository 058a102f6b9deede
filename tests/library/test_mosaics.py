"""Mosaics: tiles meet their labels, padding is left out, what is missing is named; the real folders where they are."""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cifar_files import noise, put_mosaic, put_mosaics
from shared_data import shared_data
from sideagents.data.mosaics import load_mosaics
from sideagents.errors import SideAgentsError

Array = NDArray[Any]


def put_gtsrb(root: Path) -> Array:
    tiles = noise(9, 32, 32, 3)
    np.savez(root / "labels.npz", train_y=np.array([0, 0, 1, 2, 1], np.uint8), test_y=np.array([0, 1, 1, 0], np.uint8))
    put_mosaic(root / "train.webp", tiles[:5], 4)
    put_mosaic(root / "test.webp", tiles[5:], 4)
    return tiles


def fault(root: Path, split: Any = "train") -> str:
    with pytest.raises(SideAgentsError) as caught:
        load_mosaics(root, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tiles_of_all_shards_meet_their_labels(tmp_path: Path) -> None:
    tiles = torch.from_numpy(put_mosaics(tmp_path)).permute(0, 3, 1, 2)
    train, test = load_mosaics(tmp_path, "train"), load_mosaics(tmp_path, "test")
    assert torch.equal(train.images, tiles[:12])
    assert torch.equal(test.images, tiles[12:])
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert (test.labels.tolist(), test.classes) == ([0, 1, 2], ("apple", "bee", "cup"))


def test_shards_are_ordered_by_number(tmp_path: Path) -> None:
    tiles = noise(12, 32, 32, 3)
    np.savez(tmp_path / "labels.npz", train_y=np.arange(12), test_y=np.arange(1))
    for shard, tile in enumerate(tiles):
        put_mosaic(tmp_path / f"train_{shard}.webp", tile[None], 1)
    assert torch.equal(load_mosaics(tmp_path, "train").images, torch.from_numpy(tiles).permute(0, 3, 1, 2))


def test_padding_is_left_out_and_all_43_signs_are_known(tmp_path: Path) -> None:
    tiles = torch.from_numpy(put_gtsrb(tmp_path)).permute(0, 3, 1, 2)
    train, test = load_mosaics(tmp_path, "train"), load_mosaics(tmp_path, "test")
    assert torch.equal(train.images, tiles[:5])
    assert torch.equal(test.images, tiles[5:])
    assert (test.labels.tolist(), test.classes) == ([0, 1, 1, 0], tuple(map(str, range(43))))


def test_mnist_is_cut_in_file_order(tmp_path: Path) -> None:
    grey, labels = noise(10, 28, 28), np.arange(10, dtype=np.uint8)
    np.savez_compressed(tmp_path / "mnist_test.npz", x=grey, y=labels)
    train, test = load_mosaics(tmp_path, "train"), load_mosaics(tmp_path, "test")
    assert (train.labels.tolist(), test.labels.tolist()) == (list(range(8)), [8, 9])
    assert train.images.shape == (8, 3, 28, 28)
    assert all(torch.equal(train.images[:, channel], torch.from_numpy(grey[:8])) for channel in range(3))


def test_omniglot_is_cut_by_drawer_and_ink_is_white(tmp_path: Path) -> None:
    ink = noise(4, 105, 105) % 2
    arrays = {"ink_packed": np.packbits(ink, axis=2), "y": np.array([0, 0, 1, 1], np.uint16)}
    np.savez_compressed(tmp_path / "omniglot_small.npz", **arrays, drawer=np.array([15, 16, 1, 20], np.uint8))
    (tmp_path / "classes.json").write_text('["Greek/character01", "Greek/character02"]')
    train, test = load_mosaics(tmp_path, "train"), load_mosaics(tmp_path, "test")
    assert torch.equal(train.images[:, 2], torch.from_numpy(ink[[0, 2]] * 255))
    assert torch.equal(test.images[:, 0], torch.from_numpy(ink[[1, 3]] * 255))
    assert (train.labels.tolist(), test.classes[1]) == ([0, 1], "Greek/character02")


def test_missing_mosaics_are_named(tmp_path: Path) -> None:
    assert "unknown split 'tran', did you mean 'train'?" in fault(tmp_path, "tran")
    assert "holds no mosaics (one of these must be there: fine_labels.json, labels.npz," in fault(tmp_path)
    assert "no such file" in fault(tmp_path / "gone")
    put_mosaics(tmp_path)
    (tmp_path / "train_0.webp").rename(tmp_path / "kept.webp")
    assert "train_0.webp: no such file, did you mean 'train_1.webp'?" in fault(tmp_path)
    (tmp_path / "kept.webp").rename(tmp_path / "train_0.webp")
    (tmp_path / "train_1.webp").unlink()
    assert "train_0.webp: there are 6 tiles in all for 12 labels; is a file missing?" in fault(tmp_path)
    (tmp_path / "train_0.webp").unlink()
    assert "train.webp: no such file" in fault(tmp_path)


def test_damaged_mosaics_are_one_line(tmp_path: Path) -> None:
    put_mosaics(tmp_path)
    Image.new("RGB", (96, 40)).save(tmp_path / "test.webp", lossless=True)
    assert "test.webp: is no mosaic of 32 x 32 tiles, its shape is (40, 96)" in fault(tmp_path, "test")
    (tmp_path / "test.webp").write_bytes(b"RIFF")
    assert "test.webp: cannot be read as an image" in fault(tmp_path, "test")
    (tmp_path / "test_filenames.txt.xz").write_bytes(lzma.compress(b"dog/x.png\n"))
    assert "'dog/x.png' is in no class of fine_labels.json" in fault(tmp_path, "test")
    (tmp_path / "test_filenames.txt.xz").write_text("apple/x.png")
    assert "test_filenames.txt.xz: is cut off or not packed by xz" in fault(tmp_path, "test")
    (tmp_path / "fine_labels.json").write_text('{"apple": 0}')
    assert "fine_labels.json: must be a list of class names" in fault(tmp_path)


def test_damaged_arrays_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mnist_test.npz"
    np.savez(path, x=noise(4, 28, 28))
    assert f"{path}: is cut off or is not an .npz of arrays (there is no array 'y')" in fault(tmp_path)
    np.savez(path, x=noise(4, 28, 28), y=np.arange(3))
    assert "x must be uint8 (3, H, W), got uint8 (4, 28, 28)" in fault(tmp_path)
    np.savez(path, x=noise(4, 28, 28), y=np.ones(4))
    assert "labels must be a row of whole numbers, got float64 (4,)" in fault(tmp_path)
    np.savez(path, x=noise(4, 28, 28), y=np.arange(4) * 5)
    assert "labels 0..15 do not fit 10 classes" in fault(tmp_path)
    np.savez(path, x=noise(4, 28, 28), y=np.array([0, 1, 2, {}], dtype=object))
    assert "y holds objects, which are not read" in fault(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    assert "is cut off or is not an .npz of arrays" in fault(tmp_path)
    path.unlink()
    (tmp_path / "classes.json").write_text('["a", "b"]')
    np.savez(tmp_path / "omniglot_small.npz", ink_packed=noise(2, 105, 13), y=np.arange(2), drawer=np.arange(2))
    assert "ink_packed must be uint8 (2, 105, 14) with one drawer each, got uint8 (2, 105, 13)" in fault(tmp_path)


@pytest.mark.parametrize(
    ("name", "side", "classes", "train", "test", "mean"),
    [
        ("gtsrb32", 32, 43, 7_096, 1_756, None),
        ("mnist10k", 28, 10, 8_000, 2_000, 0.13257),
        ("omniglot_small", 105, 242, 242 * 15, 242 * 5, 0.0806),
    ],
)
def test_the_real_folders(name: str, side: int, classes: int, train: int, test: int, mean: float | None) -> None:
    root = shared_data(name)
    sets = load_mosaics(root, "train"), load_mosaics(root, "test")
    for images, count in zip(sets, (train, test), strict=True):
        assert images.images.shape == (count, 3, side, side)
        assert len(images.classes) == classes
        assert images.labels.unique().tolist() == list(range(classes))
    if mean is not None:
        assert torch.cat([images.images for images in sets]).float().mean() / 255 == pytest.approx(mean, abs=1e-4)


def test_the_real_cifar_has_the_pixels_of_its_readme() -> None:
    images = load_mosaics(shared_data("cifar100"), "test")
    digest = hashlib.sha256(images.images.permute(0, 2, 3, 1).contiguous().numpy().tobytes()).hexdigest()
    assert digest == "2716d826d85ee9ca7f948fb4dc3b3d7515225d1a436d1c4b7e6975855da3d9ee"
    assert torch.equal(images.labels, torch.arange(100).repeat_interleave(100))
