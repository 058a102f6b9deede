"""Image folders, one folder for each class, as torchvision and ImageNet-to-Sketch (Piggyback, 2018) have them.

    ROOT/CLASS/ANY.jpg (or another of `SUFFIXES`)

A class folder's own folders are not looked into.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import torch

from sideagents.data.images import LabelledImages, fit_short, fit_square, read_images
from sideagents.errors import SideAgentsError, nearest
from sideagents.storage.files import missing_message

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

_RESIZES = ("square", "short")

_SOURCES = (
    "the ImageNet-to-Sketch sets are at vision.caltech.edu (CUBS), ai.stanford.edu/~jkrause/cars (Cars), "
    "robots.ox.ac.uk/~vgg/data/flowers (Flowers), wikiart.org, cybertron.cg.tu-berlin.de/eitz (Sketches)"
)


def load_folder(root: Path, size: int, resize: Literal["square", "short"]) -> LabelledImages:
    """Read every image below the class folders of `root`; classes and images are sorted by name.

    images: uint8 (N, 3, size, size), bicubic. `square` gives up the aspect ratio, as ImageNet-to-Sketch's cropped
    sets (cars, birds) want it; `short` makes the short side `size` and takes the centre. The caller chooses
    root/train or root/test. Raises `SideAgentsError` with one line when there are no classes, a class has no image,
    or an image cannot be read. Names that start with a dot are left out.
    """
    if resize not in _RESIZES:
        raise SideAgentsError(f"unknown resize {resize!r}{nearest(resize, _RESIZES)} (known: {', '.join(_RESIZES)})")
    if size < 1:
        raise SideAgentsError(f"the size of images must be at least 1 pixel, got {size}")
    if root.is_file():
        raise SideAgentsError(f"{root}: is a file; images belong in {root}/CLASS/")
    if not root.is_dir():
        raise SideAgentsError(f"{missing_message(root)}; {_SOURCES}")
    folders = sorted((path for path in root.iterdir() if path.is_dir() and path.name[0] != "."), key=_name)
    if not folders:
        raise SideAgentsError(f"{root}: holds no class folders; images belong in {root}/CLASS/")
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = _images(folder)
        paths += found
        labels += [label] * len(found)
    fit = partial(fit_square, size=size) if resize == "square" else partial(fit_short, short=size, crop=size)
    images = read_images(paths, fit, size, root.name)
    return LabelledImages(images, torch.tensor(labels), tuple(folder.name for folder in folders))


def _images(folder: Path) -> list[Path]:
    """Return the image files of one class, sorted; raises `SideAgentsError` when there is none."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
    if not found:
        below = any(path.is_dir() for path in folder.iterdir())
        remedy = f"; if its folders are the classes, give {folder} itself" if below else f" ({', '.join(SUFFIXES)})"
        raise SideAgentsError(f"{folder}: the class has no image{remedy}")
    return sorted(found, key=_name)


def _name(path: Path) -> str:
    return path.name
