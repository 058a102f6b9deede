"""Bases without training: the controls that a pretrained base must beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sideagents.bases.encoder import MidLevelEncoder
from sideagents.core.base import FrozenBase


class PixelEncoder(nn.Module):
    """The image itself, averaged over the cells of the code grid: (B, C, H, W) -> (B, C, h, w)."""

    def __init__(self, grid: tuple[int, int] = (8, 8)) -> None:
        super().__init__()
        self.grid = (int(grid[0]), int(grid[1]))

    def forward(self, images: Tensor) -> Tensor:
        """Average-pool to the grid."""
        return functional.adaptive_avg_pool2d(images, self.grid)


def random_base(
    *,
    seed: int = 0,
    width: int = 32,
    input_size: tuple[int, int] = (64, 64),
    resize: bool = True,
    dtype: torch.dtype | None = None,
) -> FrozenBase:
    """Make the shipped architecture with random weights, the same for the same seed everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = MidLevelEncoder(width=width)
    return FrozenBase(encoder, "random", input_size, resize=resize, dtype=dtype)


def pixel_base(
    *,
    grid: tuple[int, int] = (8, 8),
    input_size: tuple[int, int] = (64, 64),
    resize: bool = True,
    dtype: torch.dtype | None = None,
) -> FrozenBase:
    """Make the raw-pixel control: images scaled to [-1, 1] and averaged to the code grid, (3, 8, 8)."""
    return FrozenBase(PixelEncoder(grid), "pixels", input_size, resize=resize, dtype=dtype)
