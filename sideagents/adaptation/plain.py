"""The methods of the side-tuning paper on any network: side-tuning, fixed features, fine-tuning, from scratch."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from sideagents.adaptation.method import Adaptation
from sideagents.bases.saved import ARCHITECTURES, architecture_of
from sideagents.core.base import FrozenBase
from sideagents.core.merge import AlphaMerge
from sideagents.core.methods import build_perception
from sideagents.core.side import names_code
from sideagents.core.sidetuned import SideTuned
from sideagents.core.trainable import TrainableBase, remove_guards, trainable_copy
from sideagents.errors import BaseError, SideAgentsError, first_line


class SideTuning(Adaptation):
    """The base beside a trained side network: merge(alpha, B(x), S(x)); options as in `build_perception`."""

    has_side = reads_codes = True
    norms_code = True

    def build(
        self,
        base: FrozenBase,
        side: str | nn.Module = "copy",
        merge: str = "alpha",
        alpha: str | float = "learned",
        side_init: str = "default",
        side_options: dict[str, Any] | None = None,
    ) -> nn.Module:
        """Build base, side and merge."""
        if isinstance(side, nn.Module):
            return SideTuned(base, side, merge, alpha)
        return build_perception("sidetune", base, side, merge, alpha, side_init, side_options=side_options)

    def export(self, net: nn.Module, base: FrozenBase) -> nn.Module:
        """Return base, side and merge as one graph of torch's own layers.

        Raises `SideAgentsError` for a side that reads the base's activations, and for one that no graph can follow.
        """
        tuned = cast(SideTuned, net)
        if getattr(tuned.side, "reads_taps", False):
            name = type(tuned.side).__name__
            raise SideAgentsError(f"side {name} reads the base's activations, so that it has no plain form")
        return _Blend(tuned, base).plain()

    def foreign_code(self, options: Mapping[str, Any]) -> str:
        """Return `side` where it is a dotted path."""
        side = options.get("side", "")
        return "side" if isinstance(side, str) and names_code(side) else ""


class Features(Adaptation):
    """The base as it is: only the readout learns."""

    reads_codes = True
    needs_images = False
    norms_code = True

    def build(self, base: FrozenBase) -> nn.Module:
        """Build the base alone."""
        return SideTuned(base, None, "alpha", 1.0)

    def export(self, net: nn.Module, base: FrozenBase) -> nn.Module:
        """Return a copy of the base's encoder, behind the base's normalisation where it has one."""
        return plain_network(copy.deepcopy(base.encoder), base)


class FineTuning(Adaptation):
    """A copy of the base for each task, all of it trained; BatchNorm uses and keeps its own statistics."""

    frozen_base = False

    def build(self, base: FrozenBase) -> nn.Module:
        """Build the copy."""
        return TrainableBase(base, "batch")

    def export(self, net: nn.Module, base: FrozenBase) -> nn.Module:
        """Return the copy's encoder, behind the base's normalisation where it has one."""
        return plain_network(copy.deepcopy(cast(TrainableBase, net).encoder), base)


class Scratch(FineTuning):
    """The base's architecture with fresh weights, all of it trained."""

    def build(self, base: FrozenBase) -> nn.Module:
        """Build the network and draw its weights."""
        if not any(True for _ in base.parameters()):
            raise SideAgentsError(f"method 'scratch': base {base.name!r} has no weights that could be drawn anew")
        net = trainable_copy(base, random=True)
        with contextlib.suppress(BaseError):  # of an architecture that is known: as its own constructor draws
            name, options = architecture_of(base.encoder)
            net.encoder.load_state_dict(ARCHITECTURES.get(name)(**options).state_dict())
        return net


class _Blend(nn.Module):
    """What a side-tuned network computes, from parts that are plain but for side and merge."""

    alpha: Tensor

    def __init__(self, tuned: SideTuned, base: FrozenBase) -> None:
        super().__init__()
        self.base = plain_network(copy.deepcopy(base.encoder), base)
        side = copy.deepcopy(cast(nn.Module, tuned.side)).eval()
        self.side = plain_network(side.encoder, base) if isinstance(side, TrainableBase) else side
        self.merge = copy.deepcopy(tuned.merge).eval()
        self.whole = {"base", "side"} if isinstance(side, TrainableBase) else {"base"}
        alpha = torch.zeros(()) if tuned.alpha is None else tuned.alpha().detach().clone()
        if tuned.alpha is not None and list(tuned.alpha.parameters()):  # it counts as a weight
            self.alpha = nn.Parameter(alpha, requires_grad=False)
        else:
            self.register_buffer("alpha", alpha)

    def forward(self, images: Tensor) -> Tensor:
        code, side = self.base(images), self.side(images)
        if isinstance(self.merge, AlphaMerge):
            return cast(Tensor, self.alpha * code + (1.0 - self.alpha) * side)
        return cast(Tensor, self.merge(code, side))

    def plain(self) -> fx.GraphModule:
        """Return the same without this package's classes; raises `SideAgentsError` where it cannot be written down."""
        tracer = _Tracer(self.whole)
        try:
            return fx.GraphModule(self, tracer.trace(self), "SideTuned")
        except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
            raise SideAgentsError(f"{type(self.side).__name__} has no plain form ({first_line(error)})") from error


class _Tracer(fx.Tracer):
    """Follows this package's modules to the layers they are made of; calls others, and those named, as they are."""

    def __init__(self, whole: set[str]) -> None:
        super().__init__()
        self._whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is called as it is."""
        ours = type(m).__module__.partition(".")[0] == __name__.partition(".")[0]
        return module_qualified_name in self._whole or not (ours or isinstance(m, nn.Sequential))


@torch.no_grad()
def plain_network(encoder: nn.Module, base: FrozenBase) -> nn.Module:
    """Return an encoder as a network of torch's own layers: where the base normalises, a 1x1 convolution does it first.

    Such a network takes float images in [0, 1] at the base's size; without a normalisation, images as the encoder does.
    """
    remove_guards(encoder)
    if base.raw:
        return encoder
    mean, std = torch.tensor(base.mean), torch.tensor(base.std)
    normalise = nn.Conv2d(base.channels, base.channels, 1, groups=base.channels, device=base.device)
    normalise.weight.copy_((1 / std).view(-1, 1, 1, 1))
    cast(nn.Parameter, normalise.bias).copy_(-mean / std)
    return nn.Sequential(normalise.requires_grad_(False), encoder)
