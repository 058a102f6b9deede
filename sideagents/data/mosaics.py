"""Small sets of classes as image mosaics or packed arrays, one folder each; files without pickles.

    fine_labels.json, SPLIT_filenames.txt.xz, SPLIT.webp or SPLIT_0.webp ...   CIFAR-100 (32 x 32)
    labels.npz (SPLIT_y), SPLIT.webp                                           GTSRB (32 x 32)
    mnist_test.npz (x, y)                                                      MNIST's test images (28 x 28)
    omniglot_small.npz (ink_packed, y, drawer), classes.json                   Omniglot (105 x 105)

A mosaic is a lossless image of 32 x 32 tiles in reading order, its last row filled up with black.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sideagents.data.images import LabelledImages, read_image
from sideagents.errors import SideAgentsError, nearest
from sideagents.storage.arrays import read_npz, read_packed
from sideagents.storage.files import missing_message, read_json

Split = Literal["train", "test"]
Array = NDArray[Any]

SPLITS: tuple[Split, ...] = ("train", "test")
CIFAR_MARK = "fine_labels.json"  # the file by which a folder is known to hold CIFAR-100 mosaics

_TILE = 32
_GTSRB_CLASSES = 43
_MNIST_CLASSES = 10
_MNIST_TRAIN = 0.8  # of the images, in the order of the file
_OMNIGLOT_SIDE = 105
_OMNIGLOT_TRAIN_DRAWERS = 15  # of 20
_SOURCES = (
    "the images are those of cs.toronto.edu/~kriz/cifar.html, benchmark.ini.rub.de (GTSRB), yann.lecun.com/exdb/mnist, "
    "github.com/brendenlake/omniglot, put into this layout"
)


def load_mosaics(root: Path, split: Split) -> LabelledImages:
    """Read one split of a folder of mosaics; grey images become three equal channels.

    images: uint8 (N, 3, S, S), S as above; Omniglot's ink is 255 on 0. What is called the split: CIFAR-100's own;
    GTSRB's by track as its folder has it; of MNIST, which has test images alone, the first 80 % train; of Omniglot
    the drawers 1 to 15 train. Raises `SideAgentsError` with one line when a file is missing or does not fit.
    """
    check_split(split)
    for mark, read in _LAYOUTS.items():
        if (root / mark).is_file():
            return read(root, split)
    if not root.is_dir():
        raise SideAgentsError(f"{missing_message(root)}; {_SOURCES}")
    raise SideAgentsError(f"{root}: holds no mosaics (one of these must be there: {', '.join(_LAYOUTS)})")


def check_split(split: str) -> None:
    """Raise `SideAgentsError` when `split` is neither train nor test."""
    if split not in SPLITS:
        raise SideAgentsError(f"unknown split {split!r}{nearest(split, SPLITS)} (known: {', '.join(SPLITS)})")


def _cifar(root: Path, split: Split) -> LabelledImages:
    classes = _names(root / CIFAR_MARK)
    path = root / f"{split}_filenames.txt.xz"
    try:
        names = read_packed(path, "xz").decode().splitlines()
    except UnicodeDecodeError as error:
        raise SideAgentsError(f"{path}: is no UTF-8 text (byte {error.start})") from None
    table = {name: label for label, name in enumerate(classes)}
    for name in names:
        if name.partition("/")[0] not in table:
            raise SideAgentsError(f"{path}: {name!r} is in no class of {CIFAR_MARK}")
    labels = [table[name.partition("/")[0]] for name in names]
    return LabelledImages(_tiles(_shards(root, split), len(labels)), torch.tensor(labels), classes)


def _gtsrb(root: Path, split: Split) -> LabelledImages:
    path = root / "labels.npz"
    labels = _labels(_arrays(path, f"{split}_y")[f"{split}_y"], path, _GTSRB_CLASSES)
    return LabelledImages(_tiles(_shards(root, split), len(labels)), labels, _numbered(_GTSRB_CLASSES))


def _mnist(root: Path, split: Split) -> LabelledImages:
    path = root / "mnist_test.npz"
    arrays = _arrays(path, "x", "y")
    labels, grey = _labels(arrays["y"], path, _MNIST_CLASSES), arrays["x"]
    if grey.dtype != np.uint8 or grey.ndim != 3 or len(grey) != len(labels):
        raise SideAgentsError(f"{path}: x must be uint8 ({len(labels)}, H, W), got {grey.dtype} {grey.shape}")
    train = round(len(labels) * _MNIST_TRAIN)
    part = slice(train) if split == "train" else slice(train, None)
    return LabelledImages(_three_channels(grey[part]), labels[part], _numbered(_MNIST_CLASSES))


def _omniglot(root: Path, split: Split) -> LabelledImages:
    path = root / "omniglot_small.npz"
    arrays = _arrays(path, "ink_packed", "y", "drawer")
    classes = _names(root / "classes.json")
    labels = _labels(arrays["y"], path, len(classes))
    drawer, packed = arrays["drawer"], arrays["ink_packed"]
    shape = (len(labels), _OMNIGLOT_SIDE, -(-_OMNIGLOT_SIDE // 8))
    if packed.dtype != np.uint8 or packed.shape != shape or drawer.shape != shape[:1]:
        raise SideAgentsError(
            f"{path}: ink_packed must be uint8 {shape} with one drawer each, "
            f"got {packed.dtype} {packed.shape} and drawers {drawer.shape}"
        )
    part = (drawer <= _OMNIGLOT_TRAIN_DRAWERS) == (split == "train")
    ink = np.unpackbits(packed[part], axis=2, count=_OMNIGLOT_SIDE)
    return LabelledImages(_three_channels(ink * 255), labels[torch.from_numpy(part)], classes)


_LAYOUTS = {
    CIFAR_MARK: _cifar,
    "labels.npz": _gtsrb,
    "mnist_test.npz": _mnist,
    "omniglot_small.npz": _omniglot,
}


def _shards(root: Path, split: Split) -> list[Path]:
    """Return SPLIT.webp, or SPLIT_0.webp, SPLIT_1.webp, ... in the order of their numbers."""
    numbers = [re.fullmatch(rf"{split}_(\d+)\.webp", path.name) for path in root.iterdir()]
    count = 1 + max((int(match[1]) for match in numbers if match), default=-1)
    return [root / f"{split}_{number}.webp" for number in range(count)] or [root / f"{split}.webp"]


def _tiles(paths: list[Path], count: int) -> Tensor:
    """Return the first `count` tiles of the mosaics as uint8 (count, 3, 32, 32)."""
    parts, columns = [], 1
    for path in paths:
        pixels = np.array(read_image(path))
        rows, columns = pixels.shape[0] // _TILE, pixels.shape[1] // _TILE
        if pixels.shape[:2] != (rows * _TILE, columns * _TILE):
            raise SideAgentsError(f"{path}: is no mosaic of {_TILE} x {_TILE} tiles, its shape is {pixels.shape[:2]}")
        tiles = torch.from_numpy(pixels).view(rows, _TILE, columns, _TILE, 3).permute(0, 2, 4, 1, 3)
        parts.append(tiles.reshape(-1, 3, _TILE, _TILE))
    found = sum(len(part) for part in parts)
    if not count <= found < count + columns:  # the last row alone is filled up
        raise SideAgentsError(f"{paths[-1]}: there are {found} tiles in all for {count} labels; is a file missing?")
    return torch.cat(parts)[:count]


def _arrays(path: Path, *names: str) -> dict[str, Array]:
    """Return the named arrays of an .npz; nothing in it is unpickled."""
    return read_npz(path, names)


def _names(path: Path) -> tuple[str, ...]:
    names = read_json(path)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SideAgentsError(f"{path}: must be a list of class names, got {json.dumps(names)[:60]}")
    return tuple(names)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(str(label) for label in range(count))


def _labels(array: Array, path: Path, classes: int) -> Tensor:
    if array.dtype.kind not in "iu" or array.ndim != 1 or not len(array):
        raise SideAgentsError(f"{path}: labels must be a row of whole numbers, got {array.dtype} {array.shape}")
    if array.min() < 0 or array.max() >= classes:
        raise SideAgentsError(f"{path}: labels {array.min()}..{array.max()} do not fit {classes} classes")
    return torch.from_numpy(array.astype(np.int64))


def _three_channels(grey: Array) -> Tensor:
    """Return uint8 (N, 3, H, W) from (N, H, W)."""
    return torch.from_numpy(np.repeat(grey[:, None], 3, axis=1))
