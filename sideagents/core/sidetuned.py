"""Side-tuning in one page: R(x) = merge(alpha, B(x), S(x)), B frozen, S and alpha trained (paper, section 3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor, nn

from sideagents.core.alpha import Alpha
from sideagents.core.base import FrozenBase
from sideagents.core.counting import weights_of
from sideagents.core.groups import parameter_groups
from sideagents.core.merge import Merge, alpha_for, make_merge
from sideagents.core.pixels import fit_images
from sideagents.core.side import check_side, make_side
from sideagents.core.trainable import TrainableBase
from sideagents.errors import SideAgentsError


class SideTuned(nn.Module):
    """A base, a side network beside it, and their merge.

    Args:
        base: frozen, or trainable for the methods that unfreeze it.
        side: name (see `make_side`), module that maps images in [0, 1] to codes, or None for the base alone.
        merge: name (see `make_merge`) or module.
        alpha: weight of the base, see `make_alpha`; merges other than `alpha` use none.
        input_size: (height, width) of the side's images, by default the base's; others are resized.

    The merged code has the base's shape, `out_shape`. Raises `SideAgentsError` when the parts do not fit.
    """

    def __init__(
        self,
        base: FrozenBase | TrainableBase,
        side: nn.Module | str | None = "conv",
        merge: Merge | str = "alpha",
        alpha: Alpha | str | float = "learned",
        *,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self.out_shape = base.out_shape
        self.input_size = input_size or base.input_size
        if isinstance(side, str):
            frozen = base if isinstance(base, FrozenBase) else None
            side = make_side(side, self.out_shape, base.channels, self.input_size, base=frozen)
        elif side is not None:
            check_side(side, type(side).__name__, self.out_shape, base.channels, self.input_size)
        self.side = side
        if self._reads_taps and (getattr(side, "base", None) is not base or self.input_size != base.input_size):
            raise SideAgentsError(
                f"side {type(side).__name__} reads activations of the frozen base it was made for, at that base's size "
                "of images: make it for this base, and for a method that keeps the base frozen"
            )
        self.merge = make_merge(merge, self.out_shape) if isinstance(merge, str) else merge
        self.alpha = alpha_for(self.merge, 1.0 if side is None and self.merge.exact_ends else alpha)

    def forward(self, images: Tensor | None = None, base_code: Tensor | None = None) -> Tensor:
        """Return the merged code (B, *out_shape), float32.

        images: (B, C, H, W), as the base takes them; not needed where `needs_images` is false and codes are given.
        base_code: (B, *out_shape) float, the frozen base's code computed before; it saves the base's forward pass.
        A base with alpha 0 and a side with alpha 1 are not run at all.
        """
        share = self._share_of_base()
        if share == 1.0:
            return self._base_code(images, base_code)
        if share == 0.0:
            return self._side_code(images)
        alpha = self.alpha() if self.alpha is not None else None
        if self._reads_taps and images is not None:
            code, taps = cast(FrozenBase, self.base).tapped(images)
            side_code = cast(nn.Module, self.side)(taps).float()
            merged: Tensor = self.merge(
                self._base_code(None, code if base_code is None else base_code), side_code, alpha
            )
        else:
            merged = self.merge(self._base_code(images, base_code), self._side_code(images), alpha)
        return merged.float()

    @property
    def _reads_taps(self) -> bool:
        """Whether base and side share one pass of the base: see `make_side`."""
        return bool(getattr(self.side, "reads_taps", False))

    @property
    def needs_images(self) -> bool:
        """Whether `forward` needs images even when base codes are given."""
        return self.side is not None or not self.uses_frozen_base

    @property
    def reads_codes(self) -> bool:
        """Whether codes computed before spare the base's pass: it is frozen, and the side reads nothing inside it."""
        return self.uses_frozen_base and not self._reads_taps

    @property
    def uses_frozen_base(self) -> bool:
        """Whether the base is frozen, so its codes can be computed once and kept."""
        return isinstance(self.base, FrozenBase)

    def alpha_value(self) -> float:
        """Return the weight of the base; nan for a merge that has none."""
        return self.alpha.value() if self.alpha is not None else float("nan")

    def set_progress(self, fraction: float, epochs: float = 0.0) -> None:
        """Move alpha's curriculum: `fraction` of training done in [0, 1], `epochs` done."""
        if self.alpha is not None:
            self.alpha.set_progress(fraction, epochs)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what an optimizer should see: side, merge, alpha and, where it is trained, the base."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def parameter_groups(
        self, lr: float, alpha_lr: float | None = None, weight_decay: float = 0.0
    ) -> list[dict[str, Any]]:
        """Return optimizer groups named `weights` and `alpha`; alpha has its own rate and never any weight decay."""
        return parameter_groups(self, lr, alpha_lr, weight_decay)

    def summary(self) -> dict[str, dict[str, int]]:
        """Return {"base" | "side" | "merge" | "alpha" | "total": {"trainable": weights, "frozen": weights}}."""
        parts = {"base": self.base, "side": self.side, "merge": self.merge, "alpha": self.alpha}
        rows: dict[str, dict[str, int]] = {}
        for name, part in parts.items():
            trainable = weights_of(part, trainable_only=True)
            rows[name] = {"trainable": trainable, "frozen": weights_of(part) - trainable}
        rows["total"] = {key: sum(row[key] for row in rows.values()) for key in ("trainable", "frozen")}
        return rows

    def table(self) -> str:
        """Return `summary` as lines for people."""
        lines = [f"{'':8}{'trainable':>14}{'frozen':>14}"]
        lines += [f"{name:8}{row['trainable']:>14,}{row['frozen']:>14,}" for name, row in self.summary().items()]
        return "\n".join(lines)

    def _share_of_base(self) -> float:
        return 1.0 if self.side is None else self.alpha_value()

    def _base_code(self, images: Tensor | None, base_code: Tensor | None) -> Tensor:
        if base_code is None:
            if images is None:
                raise SideAgentsError("SideTuned needs images, or the base's codes as base_code")
            return cast(Tensor, self.base(images)).float()
        if not self.uses_frozen_base:
            raise SideAgentsError("this method trains its base, so codes computed before are stale: give images only")
        if tuple(base_code.shape[1:]) != self.out_shape:
            raise SideAgentsError(
                f"base_code must be (B, {', '.join(map(str, self.out_shape))}), got {tuple(base_code.shape)}"
            )
        return base_code.float()

    def _side_code(self, images: Tensor | None) -> Tensor:
        if images is None:
            raise SideAgentsError(
                "the side network needs images: base codes alone are enough for method 'features' only"
            )
        side = cast(nn.Module, self.side)
        images = self.base.prepare(images, "the side network")
        return cast(Tensor, side(fit_images(images, self.input_size))).float()
