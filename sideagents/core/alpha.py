"""Alpha, the weight of the base: 1 = base only, 0 = side only; learned, fixed, or a curriculum (paper, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from sideagents.errors import SideAgentsError
from sideagents.registry import Registry


class Alpha(nn.Module):
    """Weight of the base in [0, 1]; calling it gives a scalar tensor, `value()` a float."""

    moves = False  # whether it follows `set_progress`

    def forward(self) -> Tensor:
        """Return alpha as a scalar tensor, with gradient where it is learned."""
        raise NotImplementedError

    def alphas(self) -> Iterator[nn.Parameter]:
        """Return what is trained of it, for `sideagents.core.groups`."""
        return self.parameters()

    def value(self) -> float:
        """Return alpha as a number."""
        return float(self().detach())

    def set_progress(self, fraction: float, epochs: float = 0.0) -> None:
        """Tell a curriculum how far training is: `fraction` of all of it in [0, 1], and `epochs` (updates) done."""

    def epochs_done(self) -> float:
        """Return the epochs that its value stands for, so that what counts them can go on; 0 where it counts none."""
        return 0.0


class LearnedAlpha(Alpha):
    """sigmoid of one trained number; raw 0 at the start gives 0.5."""

    def __init__(self, initial: float = 0.5) -> None:
        super().__init__()
        if not 0.0 < initial < 1.0:
            raise SideAgentsError(
                f"a learned alpha starts strictly between 0 and 1, got {initial}; use fixed:{initial}"
            )
        self.raw_alpha = nn.Parameter(torch.tensor(math.log(initial / (1.0 - initial))))

    def forward(self) -> Tensor:
        """Return sigmoid(raw_alpha)."""
        return torch.sigmoid(self.raw_alpha)


class FixedAlpha(Alpha):
    """A constant."""

    alpha: Tensor

    def __init__(self, value: float = 0.5) -> None:
        super().__init__()
        if not 0.0 <= value <= 1.0:
            raise SideAgentsError(f"alpha lies in [0, 1], got {value}")
        self.register_buffer("alpha", torch.tensor(float(value)))

    def forward(self) -> Tensor:
        """Return the constant."""
        return self.alpha


class _Curriculum(Alpha):
    """Alpha as a function of progress; starts at 1 and is kept in a buffer, so a checkpoint holds it."""

    moves = True
    alpha: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("alpha", torch.tensor(1.0))
        self.told = False  # of any progress, since it was made

    def forward(self) -> Tensor:
        """Return alpha as of the last `set_progress`."""
        return self.alpha

    def set_progress(self, fraction: float, epochs: float = 0.0) -> None:
        """Move along the curriculum; alpha never rises, so that training started from another run keeps its place."""
        self.told = True
        self.alpha.clamp_(max=self._at(min(max(fraction, 0.0), 1.0), max(epochs, 0.0)))

    def _at(self, fraction: float, epochs: float) -> float:
        raise NotImplementedError


class StagewiseAlpha(_Curriculum):
    """1 until `switch` of training is done, then 0: the stage-wise curriculum of RL (paper, section 3.1)."""

    def __init__(self, switch: float = 0.5) -> None:
        super().__init__()
        if not 0.0 <= switch <= 1.0:
            raise SideAgentsError(f"a stagewise alpha switches at a fraction of training in [0, 1], got {switch}")
        self.switch = switch

    def _at(self, fraction: float, epochs: float) -> float:
        return 1.0 if fraction < self.switch else 0.0


class LinearAlpha(_Curriculum):
    """1 - fraction / end: from 1 down to 0, which it reaches when `end` of training is done."""

    def __init__(self, end: float = 1.0) -> None:
        super().__init__()
        if not 0.0 < end <= 1.0:
            raise SideAgentsError(f"a linear alpha reaches 0 at a fraction of training in (0, 1], got {end}")
        self.end = end

    def _at(self, fraction: float, epochs: float) -> float:
        return max(0.0, 1.0 - fraction / self.end)


class HyperbolicAlpha(_Curriculum):
    """k / (k + N) after N epochs (paper, section 3.1); k > 0."""

    def __init__(self, k: float = 1.0) -> None:
        super().__init__()
        if not (k > 0.0 and math.isfinite(k)):
            raise SideAgentsError(f"a hyperbolic alpha k / (k + N) needs k above 0, got {k}")
        self.k = k

    def _at(self, fraction: float, epochs: float) -> float:
        return self.k / (self.k + epochs)

    def epochs_done(self) -> float:
        """Return N."""
        return self.k / self.value() - self.k


def curricula(module: nn.Module) -> list[Alpha]:
    """Return the alphas in a module that follow `set_progress`."""
    return [part for part in module.modules() if isinstance(part, Alpha) and part.moves]


def refuse_unmoved(module: nn.Module, outputs: Tensor, how: str) -> None:
    """Have the backward pass of `outputs` raise where no one moves a curriculum in `module`: its side would not learn.

    how: the call that moves it, for the message of the `SideAgentsError`.
    """
    if not outputs.requires_grad or all(getattr(alpha, "told", True) for alpha in curricula(module)):
        return

    def refuse(gradient: Tensor) -> None:
        raise SideAgentsError(f"alpha is a curriculum that nothing moves, so that the side learns nothing: call {how}")

    outputs.register_hook(refuse)  # type: ignore[no-untyped-call]  # torch's annotations


ALPHAS: Registry[Callable[..., Alpha]] = Registry("alpha")
ALPHAS.register("learned", LearnedAlpha)
ALPHAS.register("fixed", FixedAlpha)
ALPHAS.register("stagewise", StagewiseAlpha)
ALPHAS.register("linear", LinearAlpha)
ALPHAS.register("hyperbolic", HyperbolicAlpha)


def make_alpha(spec: str | float | Alpha = "learned") -> Alpha:
    """Build an alpha from `NAME` or `NAME:NUMBER`, a number (fixed), or return the module that was given.

    The number is the start of `learned`, the value of `fixed`, the switch of `stagewise`, the end of `linear`, the k of
    `hyperbolic`. Raises `SideAgentsError` for an unknown name or a number out of range.
    """
    if isinstance(spec, Alpha):
        return spec
    if isinstance(spec, (int, float)):
        return FixedAlpha(float(spec))
    name, colon, argument = spec.partition(":")
    kind = ALPHAS.get(name)
    if not colon:
        return kind()
    try:
        number = float(argument)
    except ValueError:
        raise SideAgentsError(f"alpha {spec!r}: after the colon stands a number, as in {name}:0.5") from None
    return kind(number)
