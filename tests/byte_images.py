"""Images of noise."""

from __future__ import annotations

import torch
from torch import Tensor


def images(n: int = 2, size: int = 64, seed: int = 0, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)
