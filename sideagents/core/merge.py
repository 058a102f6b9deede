"""Merges: how a base code B and a side code S become one representation (paper, sections 3.1 and 5.2, table 4).

Codes are maps (B, C, h, w) or vectors (B, C); base, side and result have the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from sideagents.core.alpha import Alpha, make_alpha
from sideagents.errors import SideAgentsError
from sideagents.registry import Registry

_FILM_WIDTH = 64
_GROUP, _GROUPS = 4, 8  # channels in a group of the norm on codes, and most groups
_ADAPTER_SCALE = 0.9  # starting value of the adapter's learned input scale, as in progressive nets' lateral layers


class Merge(nn.Module):
    """Combine base and side codes.

    `exact_ends` promises that alpha = 1 returns the base code and alpha = 0 the side code, bit for bit, whatever the
    other one holds; merges without it take no alpha. `modeless`: it computes the same in train and in eval mode.
    """

    exact_ends: ClassVar[bool] = False
    modeless: ClassVar[bool] = True

    def __init__(self, out_shape: Sequence[int]) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)

    def forward(self, base: Tensor, side: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Merge codes of shape (B, *out_shape); `alpha` is the scalar weight of the base where the merge uses one."""
        raise NotImplementedError


class AlphaMerge(Merge):
    """alpha B + (1 - alpha) S."""

    exact_ends = True

    def forward(self, base: Tensor, side: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Blend; at exactly 1 or 0 the other code is not even multiplied by zero, so its NaN cannot leak."""
        if alpha is None:
            raise SideAgentsError("merge 'alpha' needs the weight of the base")
        value = float(alpha.detach())
        if value == 1.0:
            return base
        if value == 0.0:
            return side
        return alpha * base + (1.0 - alpha) * side


class SumMerge(Merge):
    """B + S."""

    def forward(self, base: Tensor, side: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Add the codes."""
        return base + side


class ProductMerge(Merge):
    """B * S, element-wise."""

    def forward(self, base: Tensor, side: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Multiply the codes."""
        return base * side


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(_ADAPTER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(2 if channels % 2 == 0 else 1, channels)


def _adapter(out_shape: Sequence[int], batchnorm: bool) -> nn.Sequential:
    """Make the lateral adapter of progressive nets: 145 weights on 8-channel maps, 8,448 on 64-vectors."""
    channels = out_shape[0]
    if len(out_shape) == 1:
        norm = nn.BatchNorm1d(channels) if batchnorm else _norm(channels)
        return nn.Sequential(nn.Linear(channels, channels), norm, nn.ReLU(), nn.Linear(channels, channels))
    return nn.Sequential(
        _Scale(),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels) if batchnorm else _norm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, bias=False),
    )


class MLPMerge(Merge):
    """F(B) + S, with F a small trained adapter, as in progressive nets; GroupNorm inside."""

    batchnorm: ClassVar[bool] = False

    def __init__(self, out_shape: Sequence[int]) -> None:
        super().__init__(out_shape)
        self.base_adapter = _adapter(out_shape, self.batchnorm)

    def forward(self, base: Tensor, side: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Adapt the base code and add the side's."""
        return cast(Tensor, self.base_adapter(base)) + side


class MLP2Merge(MLPMerge):
    """F(B) + G(S): both codes adapted; GroupNorm inside."""

    def __init__(self, out_shape: Sequence[int]) -> None:
        super().__init__(out_shape)
        self.side_adapter = _adapter(out_shape, self.batchnorm)

    def forward(self, base: Tensor, side: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Adapt both codes and add them."""
        return cast(Tensor, self.base_adapter(base)) + cast(Tensor, self.side_adapter(side))


class MLPBatchNormMerge(MLPMerge):
    """F(B) + S with BatchNorm in F, as the original has it on vectors; not for PPO, where train and eval must agree."""

    batchnorm = True
    modeless = False


class MLP2BatchNormMerge(MLP2Merge):
    """F(B) + G(S) with BatchNorm in both, as the original's iCIFAR demonstration does."""

    batchnorm = True
    modeless = False


class FilmMerge(Merge):
    """gamma(B) * S + beta(B), gamma and beta the two heads of one small network on the base code (FiLM).

    The base modulates the side, as the paper writes (section 5.2); the original code modulates the base by the side.
    Heads are residual, gamma = 1 + g(B) and beta = B + b(B), so training starts near B + S. 1,680 weights on
    8-channel maps.
    """

    def __init__(self, out_shape: Sequence[int]) -> None:
        super().__init__(out_shape)
        channels = out_shape[0]
        linear = _pointwise(out_shape)
        self.trunk = nn.Sequential(linear(channels, _FILM_WIDTH, False), _norm(_FILM_WIDTH), nn.ReLU())
        self.gamma = linear(_FILM_WIDTH, channels, True)
        self.beta = linear(_FILM_WIDTH, channels, True)

    def forward(self, base: Tensor, side: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Scale and shift the side code by functions of the base code."""
        hidden = self.trunk(base)
        return cast(Tensor, (1.0 + self.gamma(hidden)) * side + base + self.beta(hidden))


class ConcatMerge(Merge):
    """Concatenate along channels, then a trained 1x1 convolution (a linear layer on vectors) back to C channels."""

    def __init__(self, out_shape: Sequence[int]) -> None:
        super().__init__(out_shape)
        self.project = _pointwise(out_shape)(2 * out_shape[0], out_shape[0], True)

    def forward(self, base: Tensor, side: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Concatenate and project."""
        return cast(Tensor, self.project(torch.cat((base, side), dim=1)))


def _pointwise(out_shape: Sequence[int]) -> Callable[[int, int, bool], nn.Module]:
    if len(out_shape) == 1:
        return nn.Linear
    return lambda inputs, outputs, bias: nn.Conv2d(inputs, outputs, 1, bias=bias)


MERGES: Registry[type[Merge]] = Registry("merge")
MERGES.register("alpha", AlphaMerge)
MERGES.register("sum", SumMerge)
MERGES.register("product", ProductMerge)
MERGES.register("mlp", MLPMerge)
MERGES.register("mlp2", MLP2Merge)
MERGES.register("mlp_batchnorm", MLPBatchNormMerge)
MERGES.register("mlp2_batchnorm", MLP2BatchNormMerge)
MERGES.register("film", FilmMerge)
MERGES.register("concat", ConcatMerge)


def code_groups(channels: int) -> int:
    """Return the groups of the norm on a merged code: 8 as in the paper, fewer where one had below four channels."""
    return 1 if channels % _GROUP else math.gcd(_GROUPS, channels // _GROUP)


def make_merge(name: str, out_shape: Sequence[int]) -> Merge:
    """Build a merge by name for codes of shape (C, h, w) or (C,); raises `SideAgentsError` for others."""
    if len(out_shape) not in (1, 3):
        raise SideAgentsError(f"merges take codes of shape (C, h, w) or (C,), got {tuple(out_shape)}")
    return MERGES.get(name)(out_shape)


def merge_name(name: str) -> str:
    """Return the name of a merge; raises `SideAgentsError` where there is none of that name."""
    MERGES.get(name)
    return name


def alpha_for(merge: Merge, alpha: Alpha | str | float, name: str = "alpha") -> Alpha | None:
    """Build the weight of the base for a merge, see `make_alpha`; None for a merge that takes none.

    name: of the setting, for the `SideAgentsError` where it would have no effect.
    """
    if merge.exact_ends:
        return make_alpha(alpha)
    if alpha not in ("learned", None):
        raise SideAgentsError(f"{name}={alpha!r} has no effect on this merge; use merge 'alpha', or leave {name} out")
    return None
