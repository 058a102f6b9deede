"""Labelled images in memory, and how image files become pixels: the same for every data set of classes."""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from sideagents.data.examples import Totals
from sideagents.errors import SideAgentsError, first_line
from sideagents.run.progress import Progress
from sideagents.storage.files import read_bytes

Fit = Callable[[Image.Image], Image.Image]

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
UNREADABLE = (OSError, ValueError, EOFError, SyntaxError, struct.error)  # what Pillow raises on damaged files
_FILTERS = Lock()  # warnings' filters are the process's, images are read in threads


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and one class each, all in memory.

    images: uint8 (N, 3, H, W). labels: int64 (N,) in 0..len(classes) - 1. classes: their names, by label. Raises
    `SideAgentsError` for another type or shape, and for a label without a class.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise SideAgentsError(f"images must be uint8 (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise SideAgentsError(
                f"labels must be int64 ({len(images)},), one for each image, got {labels.dtype} {tuple(labels.shape)}"
            )
        if len(labels):
            low, high = (int(bound) for bound in torch.aminmax(labels))
            if low < 0 or high >= len(self.classes):
                raise SideAgentsError(
                    f"labels must lie in 0..{len(self.classes) - 1} for {len(self.classes)} classes, got {low}..{high}"
                )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def outputs(self) -> tuple[int, ...]:
        """An output is a number for each class."""
        return (len(self.classes),)

    @property
    def asks_classes(self) -> bool:
        """Predictions are right or wrong."""
        return True

    def loss(self, outputs: Tensor, index: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy of logits (B, classes); see `Examples`."""
        return functional.cross_entropy(outputs, self.labels[index].to(outputs.device))

    def evaluate(self, outputs: Tensor, index: Tensor) -> Totals:
        """Return summed cross-entropy and right predictions of logits (B, classes); see `Examples`."""
        labels = self.labels[index].to(outputs.device)
        loss = float(functional.cross_entropy(outputs, labels, reduction="sum"))
        return Totals(loss, len(labels), int((outputs.argmax(dim=1) == labels).sum()), len(labels))

    def take(self, index: Tensor) -> LabelledImages:
        """Return the images at `index`, int64 (M,) or a mask bool (N,), with all classes kept."""
        return LabelledImages(self.images[index], self.labels[index], self.classes)

    def centre(self, size: int) -> LabelledImages:
        """Return the size x size pixels in the centre of each image."""
        first, left = ((extent - size) // 2 for extent in self.images.shape[-2:])
        images = self.images[:, :, first : first + size, left : left + size].contiguous()
        return LabelledImages(images, self.labels, self.classes)

    def of_classes(self, first: int, count: int) -> LabelledImages:
        """Return the images of the classes first .. first + count - 1 alone, their labels counted from 0.

        Raises `SideAgentsError` when there are no such classes.
        """
        if first < 0 or count < 1 or first + count > len(self.classes):
            raise SideAgentsError(
                f"classes {first}..{first + count - 1} are not there: the data has 0..{len(self.classes) - 1}"
            )
        chosen = (self.labels >= first) & (self.labels < first + count)
        return LabelledImages(self.images[chosen], self.labels[chosen] - first, self.classes[first : first + count])

    def split_per_class(self, held_out: int, seed: int) -> tuple[LabelledImages, LabelledImages]:
        """Return (rest, held out): `held_out` images of each class, drawn by `seed`, are kept apart.

        Both keep the order of the data. Raises `SideAgentsError` when a class would have no image left.
        """
        generator = torch.Generator().manual_seed(seed)
        apart = torch.zeros(len(self), dtype=torch.bool)
        for members in self._members(held_out, left=1):
            apart[members[torch.randperm(len(members), generator=generator)[:held_out]]] = True
        return self.take(~apart), self.take(apart)

    def first_per_class(self, count: int) -> LabelledImages:
        """Return the first `count` images of each class, in the order of the data.

        Raises `SideAgentsError` when a class has fewer.
        """
        return self.take(torch.cat([members[:count] for members in self._members(count)]).sort().values)

    def _members(self, count: int, left: int = 0) -> tuple[Tensor, ...]:
        """Return the index of the images of each class; `count` are about to be taken, `left` must stay."""
        if count < 1:
            raise SideAgentsError(f"the number of images of each class must be at least 1, got {count}")
        sizes: list[int] = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        for name, size in zip(self.classes, sizes, strict=True):
            if size < count + left:
                left_over = f" and leave {left}" if left else ""
                raise SideAgentsError(f"class {name!r} has {size} images, too few to take {count}{left_over}")
        return torch.split(torch.argsort(self.labels, stable=True), sizes)


def open_image(path: Path) -> Image.Image:
    """Return an image file as Pillow opens it, of the formats that Pillow reads by itself and of a sane size.

    What a file is stands in its content, not in its name, and for PostScript Pillow would start another program.
    Raises `SideAgentsError` with one line when it is missing, none of them, damaged or too large.
    """
    data = io.BytesIO(read_bytes(path))
    try:
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(data, formats=FORMATS)
    except UnidentifiedImageError:
        raise SideAgentsError(f"{path}: cannot be read as an image (it is none of {', '.join(FORMATS)})") from None
    except (*UNREADABLE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SideAgentsError(f"{path}: cannot be read as an image ({first_line(error)})") from None


def read_image(path: Path) -> Image.Image:
    """Return an image file as RGB; raises `SideAgentsError` with one line when it is missing or no 8-bit image."""
    try:
        with open_image(path) as image:
            if image.mode == "F" or image.mode.startswith("I"):
                raise ValueError(f"pixels must be 8-bit, not of Pillow's mode {image.mode}")  # it would clip them
            if image.mode == "P" and "transparency" in image.info:  # straight to RGB, Pillow warns of these
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
    except SideAgentsError:
        raise
    except UNREADABLE as error:
        raise SideAgentsError(f"{path}: cannot be read as an image ({first_line(error)})") from None


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """Return `image` as size x size pixels, bicubic and antialiased; its aspect ratio is not kept."""
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BICUBIC)


def fit_short(image: Image.Image, short: int, crop: int) -> Image.Image:
    """Return the crop x crop pixels in the centre of `image` after its short side became `short`.

    Bicubic and antialiased; the long side and the corner round as torchvision's Resize and CenterCrop do.
    """
    width, height = image.size
    least = min(width, height)
    if least != short:
        width, height = width * short // least, height * short // least
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    return image.crop((left, top, left + crop, top + crop))


def read_images(paths: Sequence[Path], fit: Fit, size: int, title: str) -> Tensor:
    """Return the image files as uint8 (N, 3, size, size); `fit` brings each to size x size.

    Raises `SideAgentsError` with one line for the first file that cannot be read.
    """
    images = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)

    def read(index: int) -> None:
        pixels = np.array(fit(read_image(paths[index])))  # a copy: torch warns of arrays that cannot be written
        images[index] = torch.from_numpy(pixels).permute(2, 0, 1)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, Progress(len(paths), f"reading {title}", unit="image") as bar:
        for _ in pool.map(read, range(len(paths))):
            bar.update()
    return images
