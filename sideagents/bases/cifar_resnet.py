"""CIFAR's residual networks (He et al. 2016, section 4.2): the base of the incremental CIFAR experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sideagents.bases.blocks import BasicBlock
from sideagents.bases.saved import fit_weights, read_tensors
from sideagents.core.base import FrozenBase
from sideagents.errors import BaseError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEPTHS = ("resnet20", "resnet32", "resnet44", "resnet56")


class _Shortcut(nn.Module):
    """Every `stride`-th pixel, with `pad` channels of 0 on both sides."""

    def __init__(self, stride: int, pad: int) -> None:
        super().__init__()
        self._stride, self._pad = stride, pad

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, :: self._stride, :: self._stride], (0, 0, 0, 0, self._pad, self._pad))


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels, (B, 3, 32, 32) -> (B, 64): the network without its last layer.

    depth 44 has 657,936 weights. `taps` is for networks that read its activations.
    """

    def __init__(self, depth: int = 44) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise BaseError(f"a CIFAR ResNet has a depth of 6 n + 2, such as 20 or 44, got {depth}")
        self.options = {"depth": depth}
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = (depth - 2) // 6
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        shortcut = None if inputs == outputs else _Shortcut(stride, (outputs - inputs) // 2)
        first = BasicBlock(inputs, outputs, stride, shortcut)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def taps(self, images: Tensor) -> list[Tensor]:
        """Return the activations after stem and stages: (B, 16, 32, 32) twice, (B, 32, 16, 16), (B, 64, 8, 8)."""
        found = [functional.relu(self.bn1(self.conv1(images)))]
        for stage in (self.layer1, self.layer2, self.layer3):
            found.append(stage(found[-1]))
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images to vectors."""
        return self.from_taps(self.taps(images))

    def from_taps(self, taps: Sequence[Tensor]) -> Tensor:
        """Return the code that goes with activations of `taps`."""
        return taps[-1].mean(dim=(2, 3))


def cifar_base(
    model: str,
    weights: str | Path | None = None,
    *,
    seed: int = 0,
    input_size: tuple[int, int] | None = None,
    resize: bool = True,
    dtype: torch.dtype | None = None,
) -> FrozenBase:
    """Make `cifar:resnet44` and its kin, with ImageNet's mean and standard deviation as the published weights expect.

    weights: a local .safetensors or .pth of the network, with or without its last layer; without it the weights are
    random from `seed`. Raises `BaseError` for an unknown depth, and for weights that do not fit.
    """
    if model not in DEPTHS:
        raise BaseError(f"unknown base 'cifar:{model}' (known: {', '.join(DEPTHS)})")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = CifarResNet(int(model.removeprefix("resnet")))
    if weights is not None:
        tensors = read_tensors(weights)
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(("linear.", "fc."))}
        fit_weights(encoder, kept, weights)
    size = input_size or (32, 32)
    return FrozenBase(encoder, f"cifar:{model}", size, IMAGENET_MEAN, IMAGENET_STD, resize=resize, dtype=dtype)
