"""The Visual Decathlon (Rebuffi et al. 2017): its ten domains, its folder layout and its score.

    ROOT/annotations/DOMAIN_train.json (also val, test)       COCO-style: images, annotations, categories
    ROOT/data/DOMAIN/train/000001.jpg                         short side 72 pixels; the JSON holds this path

Unpack the annotations and the images of every domain below one ROOT, as the challenge's own archives do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sideagents.data.images import LabelledImages, fit_short, read_images
from sideagents.errors import SideAgentsError, nearest
from sideagents.storage.files import read_json

Triple = tuple[float, float, float]

_SHORT = 72  # pixels of the short side of every image
_SPLITS = ("train", "val", "test")
_SITE = "https://www.robots.ox.ac.uk/~vgg/decathlon/"
_TEST_LABELS = "labels of the test splits are in labels_test.zip of github.com/srebuffi/residual_adapters"


@dataclass(frozen=True)
class Domain:
    """What is known of a domain beside its images.

    mean, std: of each channel, images in [0, 1]. baseline: test accuracy in percent of fine-tuning, for the score.
    size: pixels that the network sees: 72 for signs, characters and digits, which are not cut or mirrored, else 64.
    """

    mean: Triple
    std: Triple
    baseline: float
    size: Literal[64, 72] = 64


def _grey(value: float) -> Triple:
    return value, value, value


DOMAINS = {
    "aircraft": Domain((0.4798, 0.5107, 0.5344), (0.2107, 0.2051, 0.2373), 60.34),
    "cifar100": Domain((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 82.12),
    "daimlerpedcls": Domain(_grey(0.482), _grey(0.2361), 92.82),
    "dtd": Domain((0.5270, 0.4703, 0.4240), (0.2523, 0.2409, 0.2499), 55.53),
    "gtsrb": Domain((0.3392, 0.3118, 0.3205), (0.2756, 0.2658, 0.2709), 97.53, 72),
    "imagenet12": Domain((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 59.87),
    "omniglot": Domain(_grey(0.081), _grey(0.2705), 87.69, 72),
    "svhn": Domain((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), 96.55, 72),
    "ucf101": Domain((0.4995, 0.4988, 0.4998), (0.1090, 0.1081, 0.1068), 51.20),
    "vgg-flowers": Domain((0.4341, 0.3831, 0.2971), (0.2851, 0.2384, 0.2640), 81.41),
}


@dataclass(frozen=True, eq=False)
class DecathlonSet(LabelledImages):
    """An `LabelledImages` of one domain, whose labels count from 0; label + `offset` is the challenge's category id.

    Parts taken of it are plain image sets.
    """

    offset: int


def load_decathlon(
    root: Path, domain: str, split: Literal["train", "val", "test"], size: Literal[64, 72] | None = None
) -> DecathlonSet:
    """Read one split of one domain, in the order of its file; image and label are joined by image_id.

    images: uint8 (N, 3, size, size), the centre of the image at short side 72; without `size`, `image_size(domain)`.
    Random crops of 64 in training want `size=72`. Raises `SideAgentsError` with one line when a file is missing or
    wrong, and when images have no label: the challenge kept those of its test split.
    """
    known = _domain(domain)
    if split not in _SPLITS:
        raise SideAgentsError(f"unknown split {split!r}{nearest(split, _SPLITS)} (known: {', '.join(_SPLITS)})")
    size = known.size if size is None else size
    if size not in (64, _SHORT):
        raise SideAgentsError(f"the size of Decathlon's images must be 64 or {_SHORT}, got {size}")
    path = root / "annotations" / f"{domain}_{split}.json"
    if not root.is_dir():
        raise SideAgentsError(f"{root}: no such data folder; the Visual Decathlon is at {_SITE}")
    files, labels, classes, offset = _read_annotations(path)
    images = read_images([root / file for file in files], partial(fit_short, short=_SHORT, crop=size), size, domain)
    return DecathlonSet(images, labels, classes, offset)


def image_size(domain: str) -> Literal[64, 72]:
    """Return the pixels a side at which networks see a domain; raises `SideAgentsError` for an unknown one."""
    return _domain(domain).size


def decathlon_score(accuracies: Mapping[str, float]) -> float:
    """Return the Decathlon score S of test accuracies in percent, one for each of `DOMAINS` (Rebuffi et al. 2017).

    S = sum of 1000 ((E_max - E) / E_max)^2 where the error E is below E_max, twice the error of fine-tuning: 2500 for
    fine-tuning, 10000 for no error. Raises `SideAgentsError` for a missing or unknown domain and for no percentage.
    """
    for name in accuracies:
        _domain(name)
    missing = [name for name in DOMAINS if name not in accuracies]
    if missing:
        raise SideAgentsError(f"the Decathlon score needs all ten domains, {', '.join(missing)} not given")
    total = 0.0
    for name, domain in DOMAINS.items():
        if not 0 <= accuracies[name] <= 100:
            raise SideAgentsError(f"the accuracy of {name} must be in percent, 0 to 100, got {accuracies[name]}")
        worst = 2 * (100 - domain.baseline)
        total += 1000 * (max(0.0, worst - (100 - accuracies[name])) / worst) ** 2
    return total


def _domain(name: str) -> Domain:
    if name not in DOMAINS:
        raise SideAgentsError(f"unknown domain {name!r}{nearest(name, DOMAINS)} (known: {', '.join(DOMAINS)})")
    return DOMAINS[name]


def _read_annotations(path: Path) -> tuple[list[str], Tensor, tuple[str, ...], int]:
    """Return image files, labels int64 (N,), class names and the category id of label 0."""
    table = read_json(path)
    try:
        images = [(image["id"], str(image["file_name"])) for image in table["images"]]
        categories = sorted((int(category["id"]), str(category["name"])) for category in table["categories"])
        pairs = [(entry["image_id"], int(entry["category_id"])) for entry in table.get("annotations") or ()]
        category_of = dict(pairs)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise SideAgentsError(f"{path}: is no annotation file of the Decathlon ({problem})") from None
    if not images or not categories:
        raise SideAgentsError(f"{path}: has {len(images)} images and {len(categories)} categories, it needs both")
    if len(category_of) < len(pairs):
        raise SideAgentsError(f"{path}: has {len(pairs)} annotations of {len(category_of)} images, it needs one each")
    offset = categories[0][0]
    if [number for number, _ in categories] != list(range(offset, offset + len(categories))):
        raise SideAgentsError(f"{path}: its category ids do not follow each other from {offset} on")
    labels = []
    for image, file in images:
        if image not in category_of:
            raise SideAgentsError(f"{path}: image {image} ({file}) has no annotation; {_TEST_LABELS}")
        labels.append(category_of[image] - offset)
        if not 0 <= labels[-1] < len(categories):
            raise SideAgentsError(f"{path}: image {image} has the unknown category {category_of[image]}")
    return [file for _, file in images], torch.tensor(labels), tuple(name for _, name in categories), offset
