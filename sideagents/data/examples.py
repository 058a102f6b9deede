"""What every data set here offers to training: images, what a readout must predict, a loss, and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Totals:
    """Sums over examples: `loss` over `weight` (examples, or valid pixels), and `right` predictions among `asked`.

    What is not asked in classes has no right predictions: `asked` is 0 and `accuracy` nan.
    """

    loss: float = 0.0
    weight: float = 0.0
    right: int = 0
    asked: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.loss + other.loss, self.weight + other.weight, self.right + other.right, self.asked + other.asked
        )

    @property
    def mean_loss(self) -> float:
        """The mean loss."""
        return self.loss / max(self.weight, 1e-12)

    @property
    def accuracy(self) -> float:
        """The share of right predictions in [0, 1]."""
        return self.right / self.asked if self.asked else float("nan")


class Examples(Protocol):
    """Images in memory and what is to be said about each of them."""

    @property
    def images(self) -> Tensor:
        """uint8 (N, 3, H, W)."""

    @property
    def outputs(self) -> tuple[int, ...]:
        """The shape of an output: (classes,), or (channels, H, W) for a map."""

    @property
    def asks_classes(self) -> bool:
        """Whether predictions are right or wrong: classes of images or of pixels."""

    def __len__(self) -> int: ...

    def loss(self, outputs: Tensor, index: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """Return the mean loss (scalar) of float32 outputs (B, *outputs) about the examples `index` (B,) int64.

        mirrored: bool (B,), where the image was shown mirrored left to right.
        """

    def evaluate(self, outputs: Tensor, index: Tensor) -> Totals:
        """Return the sums of unmirrored examples."""
