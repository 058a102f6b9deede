"""Taskonomy's single-image tasks: the files of each, their scale in [-1, 1], and how predictions are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ZERO = 127  # pixel value of zero in Taskonomy's normals and curvatures
INVALID_DEPTH = 65_000  # 16-bit depth from here on (65535 in the files) means: nothing was hit
UNITS_PER_METRE = 512.0  # of 16-bit depth images


@dataclass(frozen=True)
class Target:
    """One task: where its files are, how raw pixels (B, channels, H, W) become [-1, 1], what a mirror does to them.

    `folders` are the names that the task's folder may have, the first one found is read; none means the RGB image
    itself. `masked`: pixels where no surface was hit do not count. `mirrored_sign`: factor per channel when the image
    is mirrored left to right; a normal's x component changes its sign. `loss`: what adaptation minimises, as in the
    side-tuning paper's sequence of tasks. `kind`: a `map` of numbers, a `segmentation` (the number of a class in each
    pixel, `channels` classes), or a `category` (a distribution over classes for the whole image, as many as the files
    have).
    """

    name: str
    folders: tuple[str, ...]
    channels: int
    scale: Callable[[Tensor], Tensor]
    masked: bool = False
    noisy_input: bool = False
    mirrored_sign: tuple[float, ...] = ()
    loss: Literal["l1", "l2", "cross_entropy"] = "l1"
    kind: Literal["map", "segmentation", "category"] = "map"


def outputs_of(target: Target, size: int, categories: int = 2) -> tuple[int, ...]:
    """Return the shape of an output: (categories,), or (channels, size, size) for maps and classes of pixels."""
    return (categories,) if target.kind == "category" else (target.channels, size, size)


def _colour(raw: Tensor) -> Tensor:
    return raw.float() / 127.5 - 1


def _signed(raw: Tensor) -> Tensor:
    """Centre 8-bit values at 127, so that zero is exactly 0."""
    return ((raw.float() - ZERO) / (255 - ZERO)).clamp(-1, 1)


def _log_depth(raw: Tensor) -> Tensor:
    """Map 1/8 m .. 16 m to [-1, 1] by the logarithm: a factor of two is the same step near and far."""
    metres = raw.float() / UNITS_PER_METRE
    return ((metres.clamp(0.125, 16.0).log2() + 3) / 3.5) - 1


def _root(raw: Tensor) -> Tensor:
    """Take the root of edge strength in [0, 1]: weak edges, which are most of them, get room."""
    top = 255.0 if raw.dtype == torch.uint8 else 65535.0
    return (raw.float() / top).sqrt() * 2 - 1


def _as_is(raw: Tensor) -> Tensor:
    return raw.float()


TARGETS = {
    target.name: target
    for target in (
        Target("curvature", ("principal_curvature", "curvature"), 2, _signed, masked=True, loss="l2"),
        Target("denoising", (), 3, _colour, noisy_input=True),
        Target("depth", ("depth_zbuffer", "depth"), 1, _log_depth, masked=True),
        Target("normals", ("normal", "normals"), 3, _signed, masked=True, mirrored_sign=(-1.0, 1.0, 1.0)),
        Target("autoencoding", (), 3, _colour),
        Target("edges", ("edge_texture", "edges"), 1, _root),
        Target("occlusion_edges", ("edge_occlusion",), 1, _root, masked=True),
        Target("euclidean_depth", ("depth_euclidean",), 1, _log_depth, masked=True),
        Target("reshading", ("reshading",), 1, _colour, masked=True),
        Target("keypoints3d", ("keypoints3d",), 1, _root, masked=True),
        Target("keypoints2d", ("keypoints2d",), 1, _root),
        Target("segmentation", ("segment_semantic",), 18, _as_is, loss="cross_entropy", kind="segmentation"),
        Target("room", ("class_scene",), 0, _as_is, loss="cross_entropy", kind="category"),
        Target("object", ("class_object",), 0, _as_is, loss="cross_entropy", kind="category"),
    )
}

# The side-tuning paper's sequence of twelve tasks, with the class of the room in place of that of the object.
SEQUENCE = (
    "curvature",
    "segmentation",
    "reshading",
    "keypoints3d",
    "keypoints2d",
    "edges",
    "occlusion_edges",
    "depth",
    "euclidean_depth",
    "normals",
    "room",
    "autoencoding",
)
