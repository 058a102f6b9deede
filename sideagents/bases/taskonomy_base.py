"""The published mid-level encoders (Taskonomy, `visualpriors`): architecture and local weights, nothing downloaded."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sideagents.bases.saved import fit_weights, read_tensors
from sideagents.core.base import FrozenBase
from sideagents.errors import BaseError, nearest
from sideagents.storage.files import read_bytes

TASKS = (
    "autoencoding",
    "class_object",
    "class_scene",
    "colorization",
    "curvature",
    "denoising",
    "depth_euclidean",
    "depth_zbuffer",
    "edge_occlusion",
    "edge_texture",
    "egomotion",
    "fixated_pose",
    "inpainting",
    "jigsaw",
    "keypoints2d",
    "keypoints3d",
    "nonfixated_pose",
    "normal",
    "point_matching",
    "reshading",
    "room_layout",
    "segment_semantic",
    "segment_unsup25d",
    "segment_unsup2d",
    "vanishing_point",
)


class _Bottleneck(nn.Module):
    """ResNet bottleneck; a strided one halves with its 3x3 and, where channels stay, a 1x1 max-pool shortcut."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * inner
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.downsample: nn.Module | None = None
        if inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return functional.relu(out + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            return cast(Tensor, self.downsample(x))
        return functional.max_pool2d(x, 1, self.stride) if self.stride > 1 else x


def _stage(inputs: int, inner: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """Make a ResNet stage that halves, if at all, in its last block: unlike torchvision's, which halve in the first."""
    layers = [_Bottleneck(inputs, inner, 1)]
    layers += [_Bottleneck(4 * inner, inner, stride if i == blocks - 1 else 1) for i in range(1, blocks)]
    return nn.Sequential(*layers)


class TaskonomyEncoder(nn.Module):
    """ResNet-50 variant of Taskonomy: 23,655,504 weights, (B, 3, 256, 256) in [-1, 1] -> (B, 8, 16, 16).

    Parameter names are those of the published files. `normalise` gives each channel of a code zero mean and unit
    variance, as `visualpriors` does by default; the side-tuning experiments switch it off. Fully convolutional.
    """

    def __init__(self, normalise: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, 3, stride=2)
        self.layer2 = _stage(256, 128, 4, stride=2)
        self.layer3 = _stage(512, 256, 6)
        self.layer4 = _stage(1024, 512, 3)
        self.compress1 = nn.Conv2d(2048, 8, 3, 1, 1, bias=False)
        self.compress_bn = nn.BatchNorm2d(8)
        self.normalise = normalise
        self.code_settings = "" if normalise else "normalise=False"  # for the fingerprint, see FrozenBase

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) in [-1, 1] to codes (B, 8, H/16, W/16)."""
        x = functional.relu(self.bn1(self.conv1(images)))
        x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = functional.relu(self.compress_bn(self.compress1(x)))
        return functional.group_norm(x, 8) if self.normalise else x


def published_file(task: str, weights: str | Path) -> Path | None:
    """Return the weights file of a task: `weights` itself, or `TASK_encoder*.pth` in it where it is a folder."""
    path = Path(weights)
    if not path.is_dir():
        return path
    return next(iter(sorted((*path.glob(f"{task}_encoder*.pth"), *path.glob(f"{task}_encoder*.safetensors")))), None)


def _check_published(task: str, file: Path) -> None:
    """Hold a file against what its published name says: the task, and the start of its SHA-256."""
    named = re.fullmatch(r"(?P<task>\w+)_encoder(?:-(?P<digest>[0-9a-f]{8,64}))?\.pth", file.name)
    if named is None:
        return
    if named["task"] in TASKS and named["task"] != task:
        raise BaseError(f"{file}: is the encoder of {named['task']!r}, not of {task!r}")
    if named["digest"] and file.is_file():
        digest = hashlib.sha256(read_bytes(file, BaseError)).hexdigest()
        if not digest.startswith(named["digest"]):
            raise BaseError(f"{file}: is damaged, its SHA-256 begins with {digest[:8]}; fetch it again")


def taskonomy_base(
    model: str,
    weights: str | Path | None,
    *,
    normalise: bool = True,
    input_size: tuple[int, int] = (256, 256),
    resize: bool = True,
    dtype: torch.dtype | None = None,
) -> FrozenBase:
    """Load a published encoder from a local file, or the one of its task in a folder.

    Raises `BaseError` without one, for an unknown task, or for a file that by its name is another task's or damaged.
    """
    name = f"taskonomy:{model}"
    if model not in TASKS:
        raise BaseError(f"unknown base {name!r}{nearest(model, TASKS)} (known tasks: {', '.join(TASKS)})")
    if weights is None:
        raise BaseError(
            f"base {name!r} needs weights=FILE, the published {model}_encoder-*.pth (95 MB; the visualpriors package "
            "names its address); nothing is downloaded here"
        )
    file = published_file(model, weights)
    if file is None:
        raise BaseError(f"base {name!r}: no {model}_encoder*.pth in the folder {weights}")
    _check_published(model, file)
    encoder = TaskonomyEncoder(normalise)
    fit_weights(encoder, read_tensors(file), file)
    return FrozenBase(encoder, name, input_size, resize=resize, dtype=dtype)
