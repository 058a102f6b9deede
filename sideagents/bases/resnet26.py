"""ResNet-26 of the residual adapters (Rebuffi et al. 2018, section 3.5; Visual Decathlon)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sideagents.bases.blocks import BasicBlock
from sideagents.bases.saved import fit_weights, read_tensors
from sideagents.core.base import FrozenBase

_WIDTHS = (64, 128, 256)
_STEM = 32


class _Shortcut(nn.Module):
    """The mean of 2x2 pixels, with `pad` channels of 0 appended."""

    def __init__(self, pad: int) -> None:
        super().__init__()
        self._pad = pad

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(functional.avg_pool2d(x, 2), (0, 0, 0, 0, 0, self._pad))


class ResNet26(nn.Module):
    """25 convolutions of 3x3 and a classifier: images (B, 3, H, W), H and W multiples of 8, -> (B, classes).

    The stem has no non-linearity, the first block of every stage halves, BatchNorm and ReLU stand before the pooling.
    5,806,944 convolution weights; `factor` widens all layers. Without `classes` it gives the vectors
    (B, 256 factor). `taps` is for networks that read its activations.
    """

    def __init__(self, classes: int | None = None, factor: float = 1.0) -> None:
        super().__init__()
        self.options = {"factor": factor}
        stem, *widths = (round(factor * width) for width in (_STEM, *_WIDTHS))
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        stages: list[nn.Module] = []
        inputs = stem
        for width in widths:
            first = BasicBlock(inputs, width, 2, _Shortcut(width - inputs))
            blocks = [first, *(BasicBlock(width, width, 1) for _ in range(3))]
            stages.append(nn.Sequential(*blocks))
            inputs = width
        self.layer1, self.layer2, self.layer3 = stages
        self.end_bn = nn.BatchNorm2d(inputs)
        self.fc: nn.Module = nn.Identity() if classes is None else nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def taps(self, images: Tensor) -> list[Tensor]:
        """Return the activations after stem and stages: of (B, 3, 32, 32) images 32, 16, 8 and 4 pixels wide."""
        found = [self.bn1(self.conv1(images))]
        for stage in (self.layer1, self.layer2, self.layer3):
            found.append(stage(found[-1]))
        return found

    def from_taps(self, taps: Sequence[Tensor]) -> Tensor:
        """Return the vectors (B, 256 factor) that go with activations of `taps`."""
        return functional.relu(self.end_bn(taps[-1])).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images."""
        return cast(Tensor, self.fc(self.from_taps(self.taps(images))))


def resnet26_base(
    name: str,
    weights: str | Path | None = None,
    *,
    factor: float = 1.0,
    seed: int = 0,
    input_size: tuple[int, int] | None = None,
    resize: bool = True,
    dtype: torch.dtype | None = None,
) -> FrozenBase:
    """Make `resnet26`, (3, 32, 32) -> (256,), with random weights from `seed`, or a trained one from a base's file.

    Images of [0, 1] become [-1, 1]. Raises `BaseError` for weights that do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ResNet26(factor=factor)
    if weights is not None:
        fit_weights(encoder, read_tensors(weights), weights)
    return FrozenBase(encoder, name, input_size or (32, 32), resize=resize, dtype=dtype)
