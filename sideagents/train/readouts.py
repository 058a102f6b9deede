"""What reads a code: a linear layer for vectors, a small decoder for maps (side-tuning paper, section 4.1)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from sideagents.bases.encoder import MidLevelDecoder
from sideagents.errors import SideAgentsError

_MANY = 4  # channels of a map from which on the decoder is made narrower, to stay below 10 M multiply-adds


def make_readout(code: tuple[int, ...], outputs: tuple[int, ...], norm_groups: int = 0) -> nn.Module:
    """Return a network from codes (B, *code) to outputs (B, *outputs).

    A vector code is read by a linear layer. A code on a grid (C, h, w) is read by a residual adapter and a decoder to
    maps (channels, 8h, 8w), or, for (classes,), by the same adapter, a convolution and a linear layer on its mean.
    norm_groups: a GroupNorm without weights stands before it, 0 = none, as between merge and readout in the paper.
    Raises `SideAgentsError` for outputs that such a code cannot give, and groups that do not divide it.
    """
    norm = _norm(code, norm_groups)
    if len(code) == 1:
        if len(outputs) != 1:
            raise SideAgentsError(f"a code that is a vector gives no maps {outputs}; take a base whose codes are maps")
        return nn.Sequential(*norm, nn.Linear(code[0], outputs[0]))
    if len(code) != 3:
        raise SideAgentsError(f"codes of shape {code} have no readout here: vectors (C,) and maps (C, h, w) have")
    width = 8 if len(outputs) == 3 and outputs[0] > _MANY else 16
    if len(outputs) == 1:
        body: list[nn.Module] = [nn.Conv2d(code[0], 4 * width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
        return nn.Sequential(*norm, _Adapter(code[0]), *body, nn.Flatten(), nn.Linear(4 * width, outputs[0]))
    if tuple(outputs[1:]) != (8 * code[1], 8 * code[2]):
        size = f"{8 * code[1]}x{8 * code[2]}"
        raise SideAgentsError(f"codes of {code[1]}x{code[2]} cells give maps of {size}, not {outputs[1]}x{outputs[2]}")
    return nn.Sequential(*norm, _Adapter(code[0]), MidLevelDecoder(outputs[0], code[0], width))


def linear_readout(out_shape: tuple[int, ...], classes: int | None, norm_groups: int = 0) -> nn.Module:
    """Return a linear readout of codes (C,), or of the mean over the grid of codes (C, h, w), behind a norm of groups.

    Raises `SideAgentsError` for groups that do not divide the code.
    """
    if classes is None:
        return nn.Identity()
    norm = _norm(out_shape, norm_groups)
    linear = nn.Linear(out_shape[0], classes)
    if len(out_shape) == 1:
        return nn.Sequential(*norm, linear) if norm else linear
    return nn.Sequential(*norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def _norm(code: tuple[int, ...], groups: int) -> list[nn.Module]:
    if groups < 0 or (groups and code[0] % groups):
        raise SideAgentsError(f"norm_groups={groups} does not divide the {code[0]} numbers of a code")
    if len(code) == 1 and groups == code[0]:
        raise SideAgentsError(f"norm_groups={groups} leaves one number of a vector in each group, which norms it away")
    return [nn.GroupNorm(groups, code[0], affine=False)] if groups else []


class _Adapter(nn.Module):
    """x + two 3x3 convolutions: 1,168 weights on 8 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, code: Tensor) -> Tensor:
        return cast(Tensor, code + self.second(functional.relu(self.first(code))))
