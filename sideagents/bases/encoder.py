"""The architecture of the bases that ship with the project, and the decoder they are pretrained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

_GROUP = 16  # channels per normalisation group


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel - 1) // 2 if stride == 1 else (kernel - stride + 1) // 2
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)


def _block(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    norm = nn.GroupNorm(max(1, outputs // _GROUP), outputs)
    return nn.Sequential(_conv(inputs, outputs, kernel, stride, dilation), norm, nn.ReLU())


class _Bottleneck(nn.Module):
    """x + 1x1, 3x3 (dilated), 1x1 convolutions: the cheapest way to see further on the code grid."""

    def __init__(self, channels: int, inner: int, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(channels, inner, 1),
            _block(inner, inner, 3, dilation=dilation),
            _conv(inner, channels, 1),
            nn.GroupNorm(channels // _GROUP, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.body(x))


class MidLevelEncoder(nn.Module):
    """Small mid-level encoder: (B, 3, 64, 64) -> (B, 8, 8, 8); fully convolutional with stride 8.

    18.4 M multiply-adds and 0.21 M weights (0.85 MB) at the default width, about 0.3 ms an image on one CPU core in
    bfloat16. GroupNorm throughout: a copy that is fine-tuned acts alike in train and eval mode, and the last one keeps
    every code of order 1, whatever the image. The second bottleneck is dilated, so each code cell sees all 64 pixels.
    """

    def __init__(self, in_channels: int = 3, code_channels: int = 8, width: int = 32) -> None:
        super().__init__()
        self.options = {"in_channels": in_channels, "code_channels": code_channels, "width": width}
        self.body = nn.Sequential(
            _block(in_channels, width, 4, stride=2),
            _block(width, 2 * width, 3, stride=2),
            _block(2 * width, 4 * width, 3, stride=2),
            _Bottleneck(4 * width, 2 * width, dilation=1),
            _Bottleneck(4 * width, 2 * width, dilation=2),
            _conv(4 * width, code_channels, 3),
            nn.GroupNorm(1, code_channels),
        )

    def stages(self) -> list[nn.Sequential]:
        """Return the encoder's own layers in four parts, one after the other, that each start with a convolution."""
        first, second, third, *bottlenecks, last, norm = self.body
        return [
            cast(nn.Sequential, first),
            cast(nn.Sequential, second),
            nn.Sequential(*cast(nn.Sequential, third), *bottlenecks),
            nn.Sequential(last, norm),
        ]

    def taps(self, images: Tensor) -> list[Tensor]:
        """Return what leaves each stage but the last: width, 2 width and 4 width channels, at 1/2, 1/4 and 1/8."""
        found: list[Tensor] = []
        for stage in self.stages()[:-1]:
            found.append(stage(found[-1] if found else images))
        return found

    def from_taps(self, taps: Sequence[Tensor]) -> Tensor:
        """Return the code that goes with activations of `taps`."""
        return cast(Tensor, self.stages()[-1](taps[-1]))

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images (B, in_channels, H, W) to codes (B, code_channels, H/8, W/8)."""
        return cast(Tensor, self.body(images))


class MidLevelDecoder(nn.Module):
    """Decoder of pretraining: codes (B, 8, h, w) -> (B, out_channels, 8h, 8w), linear output.

    Sub-pixel up-sampling (shuffled channels) keeps it as cheap as the encoder.
    """

    def __init__(self, out_channels: int, code_channels: int = 8, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(code_channels, 4 * width, 3),
            _Bottleneck(4 * width, 2 * width, dilation=1),
            _up(4 * width, 2 * width),
            _up(2 * width, width),
            nn.Conv2d(width, 4 * out_channels, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, codes: Tensor) -> Tensor:
        """Decode codes (B, code_channels, h, w) to maps (B, out_channels, 8h, 8w)."""
        return cast(Tensor, self.body(codes))


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, 4 * outputs, 1, bias=False),
        nn.PixelShuffle(2),
        _block(outputs, outputs, 3),
    )
