"""The block that residual networks are made of."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, (B, inputs, H, W) -> (B, outputs, H / stride, W / stride) (He et al. 2016, figure 5 left).

    shortcut: maps the block's input to its output's shape; an identity where both are the same.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(f(x) + shortcut(x))."""
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(cast(Tensor, out + self.shortcut(x)))
