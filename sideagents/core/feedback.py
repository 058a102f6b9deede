"""A side network that reads what its base sees on the way to the code, in place of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError

_GROUP = 8  # channels per normalisation group


class FeedbackSide(nn.Module):
    """Late layers of a task's own on the base's activations: 25,424 weights beside a CIFAR ResNet, (B, 64) vectors.

    The last two of the base's inner activations (`FrozenBase.tapped`) are brought together by a strided 3x3 and a 1x1
    convolution; two depthwise-separable blocks follow. Nothing of the base is kept for the backward pass. The authors
    of side-tuning have sides of this kind too ("late feedback"). Called with images, it runs the base itself; in
    `SideTuned` base and side read the activations of one pass.
    """

    reads_taps = True

    def __init__(self, base: FrozenBase, out_shape: Sequence[int], width: int = 48) -> None:
        super().__init__()
        self.base = base
        _, taps = base.tapped(torch.full((1, base.channels, *base.input_size), 0.5, device=base.device))
        strides = {a % b for a, b in zip(taps[-2].shape[2:], taps[-1].shape[2:], strict=True)} if len(taps) > 1 else {1}
        if strides != {0} or width % _GROUP:
            sizes = [tuple(tap.shape[1:]) for tap in taps]
            need = f"two activations of sizes that divide, and a width that {_GROUP} divides"
            raise SideAgentsError(f"side 'feedback' needs {need}; got {sizes} and {width}")
        middle, last = taps[-2:]
        self.vector = len(out_shape) == 1
        channels = out_shape[0]
        inner = channels if self.vector else width
        stride = (middle.shape[2] // last.shape[2], middle.shape[3] // last.shape[3])
        self.middle = nn.Conv2d(middle.shape[1], width, 3, stride, 1, bias=False)
        self.last = nn.Conv2d(last.shape[1], width, 1, bias=False)
        self.norm = _norm(width)
        self.body = nn.Sequential(_Separable(width, inner), _Separable(inner, channels))
        self.to(base.device)

    def forward(self, seen: Tensor | Sequence[Tensor]) -> Tensor:
        """Return codes (B, *out_shape) of images (B, C, H, W), or of the base's activations."""
        taps = self.base.tapped(seen)[1] if isinstance(seen, Tensor) else seen
        x = self.body(functional.relu(self.norm(self.middle(taps[-2]) + self.last(taps[-1]))))
        return cast(Tensor, x.mean(dim=(2, 3)) if self.vector else x.contiguous())

    def output_layers(self) -> list[nn.Module]:
        """Return the layers whose scale is the scale of the code, for the low-energy initialisation."""
        return [cast(_Separable, self.body[-1]).norm]


class _Separable(nn.Module):
    """Depthwise 3x3 and 1x1 convolution, norm, ReLU; with a skip where shapes agree."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm = _norm(outputs)
        self.skip = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.pointwise(self.depthwise(x)))
        return functional.relu(x + y if self.skip else y)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, max(1, channels // _GROUP)), channels)
