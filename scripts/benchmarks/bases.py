"""The frozen bases that training is timed with: three sizes, random weights, on which speed does not depend."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from sideagents.bases.blocks import BasicBlock
from sideagents.bases.encoder import MidLevelEncoder
from sideagents.bases.taskonomy_base import TaskonomyEncoder
from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError, nearest
from sideagents.machine.precision import base_dtype

CODE_CHANNELS = 8


def _block(inputs: int, outputs: int, stride: int) -> BasicBlock:
    if stride == 1 and inputs == outputs:
        return BasicBlock(inputs, outputs, stride)
    shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return BasicBlock(inputs, outputs, stride, shortcut)


def resnet18_encoder() -> nn.Sequential:
    """Make ResNet-18's trunk with a 1x1 convolution to 8 channels: (B, 3, H, W) -> (B, 8, H/32, W/32)."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    width = 64
    for outputs in (64, 128, 256, 512):
        layers += [_block(width, outputs, outputs // width), _block(outputs, outputs, 1)]
        width = outputs
    return nn.Sequential(*layers, nn.Conv2d(width, CODE_CHANNELS, 1))


_ENCODERS: dict[str, Callable[[], nn.Module]] = {
    "bundled": MidLevelEncoder,
    "resnet18": resnet18_encoder,
    "resnet50": TaskonomyEncoder,
}
BASES = tuple(_ENCODERS)


def benchmark_base(name: str, *, precision: str = "auto", seed: int = 0) -> FrozenBase:
    """Make a base for 64 x 64 images: `bundled` (the shipped architecture), `resnet18`, `resnet50` (Taskonomy's).

    precision: what it computes in; codes are float32 all the same. Raises `SideAgentsError` for another name.
    """
    if name not in _ENCODERS:
        raise SideAgentsError(f"unknown benchmark base {name!r}{nearest(name, BASES)} (known: {', '.join(BASES)})")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = _ENCODERS[name]()
    return FrozenBase(encoder, name, dtype=torch.bfloat16 if base_dtype(precision) else None)
