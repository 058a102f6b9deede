"""Methods: what is frozen, what is trained, and how alpha moves (paper, sections 3.1 and 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sideagents.core.base import FrozenBase
from sideagents.core.init import initialise_side
from sideagents.core.protocol import Methods, says
from sideagents.core.side import copy_side, make_side, side_kind
from sideagents.core.sidetuned import SideTuned
from sideagents.core.trainable import trainable_copy
from sideagents.errors import SideAgentsError


@dataclass(frozen=True)
class Parts:
    """What a method builds from; fields as in `build_perception`."""

    base: FrozenBase
    side: str
    merge: str
    alpha: str | float
    side_init: str
    input_size: tuple[int, int]
    side_options: dict[str, Any] = field(default_factory=dict)

    def make_side(self) -> nn.Module:
        """Build and initialise the side network."""
        side = make_side(
            self.side,
            self.base.out_shape,
            self.base.channels,
            self.input_size,
            base=self.base,
            options=self.side_options,
        )
        initialise_side(side, self.side_init, self.base, self.input_size)
        return side


@says(has_side=True, reads_codes=True)
def _sidetune(parts: Parts) -> SideTuned:
    """Base frozen, side and alpha trained."""
    return SideTuned(parts.base, parts.make_side(), parts.merge, parts.alpha, input_size=parts.input_size)


@says(reads_codes=True, needs_images=False)
def _features(parts: Parts) -> SideTuned:
    """Base frozen and alone: alpha fixed at 1."""
    return SideTuned(parts.base, None, "alpha", 1.0)


@says(frozen_base=False, has_side=True)
def _finetune(parts: Parts) -> SideTuned:
    """The same graph as sidetune with the base unfrozen: everything is trained, as in the paper's comparisons."""
    base = trainable_copy(parts.base)
    return SideTuned(base, parts.make_side(), parts.merge, parts.alpha, input_size=parts.input_size)


@says(frozen_base=False, has_side=True)
def _scratch(parts: Parts) -> SideTuned:
    """The graph of finetune with fresh weights everywhere."""
    if parts.side_init not in ("default", "low_energy"):
        raise SideAgentsError(
            f"method 'scratch' starts from nothing learned, so side_init={parts.side_init!r} cannot be"
        )
    base = trainable_copy(parts.base, random=True)
    side = parts.make_side()
    if parts.side == "copy":
        side = trainable_copy(parts.base, random=True)
        initialise_side(side, parts.side_init, parts.base, parts.input_size)
    return SideTuned(base, side, parts.merge, parts.alpha, input_size=parts.input_size)


@says(has_side=True, reads_codes=True, own_side=True)
def _stagewise(parts: Parts) -> SideTuned:
    """Base alone first (alpha 1), then a trainable copy of it alone (alpha 0): continuous where alpha switches."""
    alpha = "stagewise" if parts.alpha == "learned" else parts.alpha
    if not str(alpha).startswith("stagewise"):
        raise SideAgentsError(f"method 'stagewise' switches alpha: alpha is stagewise:FRACTION, got {alpha!r}")
    return SideTuned(parts.base, copy_side(parts.base), "alpha", alpha, input_size=parts.input_size)


METHODS: Methods[Callable[[Parts], SideTuned]] = Methods("agents", given=("parts",))
METHODS.register("sidetune", _sidetune)
METHODS.register("features", _features)
METHODS.register("finetune", _finetune)
METHODS.register("scratch", _scratch)
METHODS.register("stagewise", _stagewise)


def what_is_read(method: str, side: str) -> tuple[bool, bool]:
    """Return whether a method reads codes computed ahead, and whether images, with a side of this name.

    A side whose class has `reads_taps` looks inside the base, which is run for it anyway. Raises `SideAgentsError` for
    unknown names.
    """
    traits = METHODS.about(method).traits
    asked = traits["has_side"] and not traits["own_side"]
    looks_inside = asked and getattr(side_kind(side), "reads_taps", False)
    return traits["reads_codes"] and not looks_inside, traits["needs_images"]


def build_perception(
    method: str,
    base: FrozenBase,
    side: str = "conv",
    merge: str = "alpha",
    alpha: str | float = "learned",
    side_init: str = "default",
    *,
    input_size: tuple[int, int] | None = None,
    side_options: dict[str, Any] | None = None,
) -> SideTuned:
    """Build the perception of an agent, or of any model.

    method: `sidetune`, `features`, `finetune`, `scratch` or `stagewise`. `features` has no side; `stagewise` uses a
    copy of the base as its side and takes `alpha="stagewise:FRACTION"`; the others take everything.
    side, merge, alpha, side_init: see `make_side`, `make_merge`, `make_alpha`, `initialise_side`.
    input_size: (height, width) of the images the side will get, by default the base's.
    Raises `SideAgentsError` for unknown names and for parts that do not fit.
    """
    parts = Parts(base, side, merge, alpha, side_init, input_size or base.input_size, side_options or {})
    return METHODS.get(method)(parts)
