"""Side networks: small trained nets that map images to codes of the base's shape (paper, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sideagents.config.dotted import build, import_network, is_dotted
from sideagents.core.base import FrozenBase
from sideagents.core.modes import modes_kept
from sideagents.core.trainable import TrainableBase, trainable_copy
from sideagents.errors import SideAgentsError, first_line
from sideagents.registry import Registry


def _layer(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 1, norm: bool = True
) -> nn.Sequential:
    """Make the paper's block: convolution without bias, GroupNorm of 2 groups, ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)]
    if norm:
        layers.append(nn.GroupNorm(2 if outputs % 2 == 0 else 1, outputs))
    return nn.Sequential(*layers, nn.ReLU())


class ConvSide(nn.Module):
    """Small conv net for agents: 5.7 M multiply-adds and 0.07 M weights for 64x64 images and an (8, 8, 8) code.

    The paper's FCN5 made narrow: a strided stem, halving blocks down to the code grid, two blocks on it and a skip
    past them. Images of another size are brought to the grid by adaptive pooling. A vector code is the mean over the
    grid. Images float [0, 1], (B, in_channels, H, W) -> (B, *out_shape).
    """

    def __init__(
        self,
        out_shape: Sequence[int],
        in_channels: int = 3,
        input_size: tuple[int, int] = (64, 64),
        width: int = 32,
    ) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)
        channels, *grid = self.out_shape
        # A vector has no grid of its own; an eighth of the image is as fine as codes here are.
        self.grid = (grid[0], grid[1]) if grid else (max(1, input_size[0] // 8), max(1, input_size[1] // 8))
        if input_size[0] < self.grid[0] or input_size[1] < self.grid[1]:
            size = f"{input_size[0]}x{input_size[1]} images"
            raise SideAgentsError(f"side 'conv' cannot make a code of {self.grid[0]}x{self.grid[1]} cells of {size}")
        halvings = int(math.log2(min(input_size[0] / self.grid[0], input_size[1] / self.grid[1])))
        blocks: list[nn.Module] = []
        if halvings >= 2:
            blocks.append(_layer(in_channels, width, 8, 4, 2))
        else:
            blocks.append(_layer(in_channels, width, 3, 1 + halvings))
        blocks.append(_layer(width, 2 * width, 3, 2 if halvings >= 3 else 1))
        blocks += [_layer(2 * width, 2 * width, 3, 2) for _ in range(halvings - 3)]
        self.stem = nn.Sequential(*blocks)
        self.body = nn.Sequential(_layer(2 * width, 2 * width, 3), _layer(2 * width, channels, 3))
        self.skip = _layer(2 * width, channels, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, in_channels, H, W) in [0, 1] to codes (B, *out_shape)."""
        x = self.stem((2.0 * images - 1.0).contiguous(memory_format=torch.channels_last))
        x = functional.adaptive_avg_pool2d(x, self.grid)  # on the grid already, it changes no bit
        code = self.body(x) + self.skip(x)
        return cast(Tensor, code.mean(dim=(2, 3)) if len(self.out_shape) == 1 else code.contiguous())

    def output_layers(self) -> list[nn.Module]:
        """Return the layers whose scale is the scale of the code, for the low-energy initialisation."""
        last = [*self.body[-1].children(), *self.skip.children()]
        return [layer for layer in last if isinstance(layer, nn.GroupNorm)]


class FCN5(nn.Module):
    """The paper's five-layer side net: 921,376 weights, (B, 3, 256, 256) in [0, 1] -> (B, 8, 16, 16), stride 16."""

    def __init__(self, out_shape: Sequence[int] = (8, 16, 16), in_channels: int = 3) -> None:
        super().__init__()
        channels = out_shape[0]
        self.conv1 = _layer(in_channels, 64, 8, 4, 2)
        self.conv2 = _layer(64, 256, 3, 2)
        self.conv3 = _layer(256, 256, 3, 2)
        self.conv4 = _layer(256, 64, 3)
        self.conv5 = _layer(64, channels, 3)
        self.skip = _layer(256, channels, 3, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, in_channels, H, W) in [0, 1] to codes (B, 8, H/16, W/16)."""
        middle = self.conv2(self.conv1(2.0 * images - 1.0))
        return cast(Tensor, self.conv5(self.conv4(self.conv3(middle))) + self.skip(middle))

    def output_layers(self) -> list[nn.Module]:
        """Return the layers whose scale is the scale of the code, for the low-energy initialisation."""
        return [self.conv5[1], self.skip[1]]


class FCN4(nn.Module):
    """The paper's four-layer side net for CIFAR: 25,904 weights, (B, 3, 32, 32) in [0, 1] -> (B, 64).

    mean, std: normalisation of the images, per channel or for all; the published student expects ImageNet's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, in_channels: int = 3, mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.5,)) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.conv1 = _layer(in_channels, 16, 3)
        self.conv2 = _layer(16, 16, 3, 2, 0)
        self.conv3 = _layer(16, 32, 3, 2, 0)
        self.conv5 = _layer(32, 64, 3, 1, 0, norm=False)  # the original's name, so that its files fit

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, in_channels, H, W) in [0, 1] to vectors (B, 64)."""
        x = self.conv5(self.conv3(self.conv2(self.conv1((images - self.mean) / self.std))))
        return cast(Tensor, x.mean(dim=(2, 3)))

    def output_layers(self) -> list[nn.Module]:
        """Return the layers whose scale is the scale of the code, for the low-energy initialisation."""
        return [self.conv5[0]]


def copy_side(base: FrozenBase) -> TrainableBase:
    """Make a side that starts as the base and learns; raises `SideAgentsError` when the base has no weights."""
    if not any(True for _ in base.parameters()):
        raise SideAgentsError(f"side 'copy': base {base.name!r} has no weights, so a copy of it could not learn")
    return trainable_copy(base)


SIDES: Registry[Callable[..., nn.Module]] = Registry("side")
SIDES.register("conv", ConvSide)
SIDES.register("fcn5", FCN5)
SIDES.register("fcn4", FCN4)
SIDES.register("copy", copy_side)
SIDES.register("feedback", "sideagents.core.feedback:FeedbackSide")


def names_code(name: str) -> bool:
    """Tell whether `make_side(name, ...)` would import a module that `name` chooses."""
    return name not in SIDES.names() and is_dotted(name)


def side_kind(name: str) -> Callable[..., nn.Module]:
    """Return what builds the side of that name; raises `SideAgentsError` for an unknown one."""
    return import_network(name) if names_code(name) else SIDES.get(name)


def make_side(
    name: str,
    out_shape: Sequence[int],
    in_channels: int = 3,
    input_size: tuple[int, int] = (64, 64),
    *,
    base: FrozenBase | None = None,
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """Build a side network that maps images (B, in_channels, *input_size) in [0, 1] to codes (B, *out_shape).

    name: `conv`, `fcn5`, `fcn4`, `copy` (a trainable copy of `base`), `feedback` (reads the base's activations), or a
    dotted path to an nn.Module class. Its constructor is given `out_shape`, `in_channels`, `input_size` and `base`
    where it names them, and `options`. A side whose class has a true `reads_taps`, and the base it was made for in
    `base`, is called with what `FrozenBase.tapped` gives in place of images.
    Raises `SideAgentsError` for an unknown name, a side that cannot read the images, or a code of another shape.
    """
    make = side_kind(name)
    offered: dict[str, Any] = {"out_shape": tuple(out_shape), "in_channels": in_channels, "input_size": input_size}
    if base is not None:
        offered["base"] = base
    side = build(f"side {name!r}", make, offered, options or {})
    check_side(side, name, out_shape, in_channels, input_size)
    return side


@torch.no_grad()
def check_side(
    side: nn.Module, name: str, out_shape: Sequence[int], in_channels: int, input_size: tuple[int, int]
) -> None:
    """Raise `SideAgentsError` unless the side maps such images to codes of that shape."""
    wanted = f"{in_channels}-channel {input_size[0]}x{input_size[1]} images to codes of shape {tuple(out_shape)}"
    try:
        with modes_kept(side):
            code = side.eval()(torch.full((1, in_channels, *input_size), 0.5, device=_device(side)))
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        reason = first_line(error)
        raise SideAgentsError(f"side {name!r} must map {wanted}, but fails on them: {reason}") from error
    if not isinstance(code, Tensor) or tuple(code.shape[1:]) != tuple(out_shape):
        given = tuple(code.shape[1:]) if isinstance(code, Tensor) else type(code).__name__
        raise SideAgentsError(f"side {name!r} must map {wanted}, but gives {given}")


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
