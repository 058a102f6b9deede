"""CIFAR as people have it on disk, in small: the authors' pickles, and mosaics of images."""

from __future__ import annotations

import io
import json
import lzma
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
COLOURS, TRAIN, TEST = 4, 24, 8  # of `put_colours`: classes, and images of each in either set


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did, in whose protocol 2 the originals are."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        short = len(data) < 256
        size = len(data).to_bytes(1 if short else 4, "little")
        self.write((pickle.SHORT_BINSTRING if short else pickle.BINSTRING) + size + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def put_pickle(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(value)
    path.write_bytes(stream.getvalue())


def put_100(folder: Path) -> torch.Tensor:
    """Write CIFAR-100's three files: 6 images for training, 3 for testing."""
    rows = noise(9, 3072)
    coarse, names = [0] * 9, [f"image_s_{i:06}.png" for i in range(9)]
    for name, part in (("train", slice(6)), ("test", slice(6, 9))):
        table = {"filenames": names[part], "batch_label": f"{name}ing batch 1 of 1", "coarse_labels": coarse[part]}
        put_pickle(folder / name, table | {"fine_labels": [2, 0, 1, 1, 0, 2, 2, 1, 0][part], "data": rows[part]})
    put_pickle(folder / "meta", {"fine_label_names": ["apple", "bee", "cup"], "coarse_label_names": ["all"]})
    return torch.from_numpy(rows).view(9, 3, 32, 32)


def put_10(folder: Path) -> torch.Tensor:
    """Write CIFAR-10's seven files: two images in each batch."""
    rows = noise(12, 3072)
    for index, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        part = rows[2 * index : 2 * index + 2]
        put_pickle(
            folder / name, {"batch_label": name, "labels": [index % 3, 0], "data": part, "filenames": ["a", "b"]}
        )
    names = ["airplane", "automobile", "bird"]
    put_pickle(folder / "batches.meta", {"num_cases_per_batch": 2, "label_names": names, "num_vis": 3072})
    return torch.from_numpy(rows).view(12, 3, 32, 32)


def put_colours(root: Path) -> Path:
    """Write four classes of images whose colour gives them away, in CIFAR-100's files."""
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 216, (COLOURS, 3))
    for name, count in (("train", TRAIN), ("test", TEST)):
        labels = rng.permutation(np.repeat(np.arange(COLOURS), count))
        images = colours[labels][:, :, None] + rng.normal(0, 25, (len(labels), 3, 1024))
        rows = images.clip(0, 255).astype(np.uint8).reshape(len(labels), -1)
        put_pickle(root / name, {"fine_labels": labels.tolist(), "coarse_labels": [0] * len(labels), "data": rows})
    put_pickle(
        root / "meta", {"fine_label_names": [f"colour {i}" for i in range(COLOURS)], "coarse_label_names": ["all"]}
    )
    return root


def put_mosaic(path: Path, tiles: Array, columns: int) -> None:
    """Write uint8 (N, 32, 32, 3) as a lossless mosaic, the last row filled up with black."""
    rows = -(-len(tiles) // columns)
    padded = np.concatenate([tiles, np.zeros((rows * columns - len(tiles), 32, 32, 3), np.uint8)])
    pixels = padded.reshape(rows, columns, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(rows * 32, columns * 32, 3)
    Image.fromarray(pixels).save(path, lossless=True)


def put_mosaics(root: Path) -> Array:
    """Write CIFAR-100 as mosaics with three classes: 12 images for training in two shards, 3 for testing."""
    root.mkdir(exist_ok=True)
    tiles = noise(15, 32, 32, 3)
    (root / "fine_labels.json").write_text(json.dumps(["apple", "bee", "cup"]))
    put_mosaic(root / "train_0.webp", tiles[:6], 3)
    put_mosaic(root / "train_1.webp", tiles[6:12], 3)
    put_mosaic(root / "test.webp", tiles[12:], 3)
    for split, count in (("train", 4), ("test", 1)):
        names = "".join(f"{name}/{name}_s_{i:06}.png\n" for name in ("apple", "bee", "cup") for i in range(count))
        (root / f"{split}_filenames.txt.xz").write_bytes(lzma.compress(names.encode()))
    return tiles
