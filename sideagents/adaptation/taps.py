"""Task Adaptive Parameter Sharing (Wallingford et al. 2022, section 3): which layers a task changes is learned.

Every layer has w = w_base + 1[s >= tau] delta. The indicator passes its gradient straight through, and (lambda / L)
times the sum of |s| over the L gated layers is added to the loss.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sideagents.adaptation.method import Adaptation
from sideagents.adaptation.plain import plain_network
from sideagents.core.base import FrozenBase
from sideagents.core.counting import weights_of
from sideagents.core.modes import modes_kept
from sideagents.core.trainable import TrainableBase, shared_view
from sideagents.errors import CheckpointError, SideAgentsError, nearest

TAU, START = 0.1, 0.15  # the authors' code: every layer begins task-specific, with a difference of zero
_UNGATED = {"patch_embed", "conv_proj"}  # not gated: norms, biases, the classifier, a transformer's patches
_GATED: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("weight",),
    nn.Linear: ("weight",),
    nn.MultiheadAttention: ("in_proj_weight",),
}


class _Indicator(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, score: Tensor, tau: float) -> Tensor:
        return (score >= tau).to(score.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


class Gated(nn.Module):
    """A weight with a task's difference behind a gate: the parametrization of one layer."""

    def __init__(self, weight: Tensor, tau: float, start: float) -> None:
        super().__init__()
        self.delta = nn.Parameter(torch.zeros_like(weight, memory_format=torch.preserve_format))
        self.score = nn.Parameter(torch.tensor(float(start)))
        self.tau = tau

    @property
    def active(self) -> bool:
        """Whether the layer is the task's own."""
        return float(self.score.detach()) >= self.tau

    def forward(self, weight: Tensor) -> Tensor:
        """Return w + 1[s >= tau] delta; the base's weight itself, to the bit, where the gate is closed."""
        if not (self.training or self.active):
            return weight
        gate = cast(Tensor, _Indicator.apply(self.score, self.tau))  # type: ignore[no-untyped-call]
        return weight + gate * self.delta


def gates(net: nn.Module) -> dict[str, Gated]:
    """Return the gates of a task's network by the names of their layers, in the network's order."""
    return {
        name.partition(".parametrizations")[0]: part for name, part in net.named_modules() if isinstance(part, Gated)
    }


class Taps(Adaptation):
    """TAPS. Options: tau, start (of the scores), lam (lambda), layers (a regular expression, by default all layers).

    A closed layer's difference gets a gradient of zero, not none: momentum and weight decay still move it, as in the
    authors' code.
    """

    def build(
        self, base: FrozenBase, tau: float = TAU, start: float = START, lam: float = 0.25, layers: str | None = None
    ) -> nn.Module:
        """Build a view of the base with gated weights and BatchNorm of its own.

        Raises `SideAgentsError` when `layers` matches nothing.
        """
        if not 0.0 < tau <= start:
            raise SideAgentsError(f"taps: 0 < tau <= start must hold, so that layers begin open; got {tau} and {start}")
        if lam < 0.0:
            raise SideAgentsError(f"taps: lam, the price of a layer of its own, is at least 0, got {lam}")
        view = shared_view(base)
        targets = list(_targets(view.encoder, layers))
        if not targets:
            known = [name for name, _, _ in _targets(view.encoder, None)]
            hint = f"layers={layers!r} matches none of {len(known)} layers{nearest(layers or '', known)}"
            raise SideAgentsError(f"taps: {hint if known else f'base {base.name!r} has no layer with weights'}")
        for _, module, attribute in targets:
            weight = getattr(module, attribute)
            parametrize.register_parametrization(module, attribute, Gated(weight, tau, start))
        view.register_buffer("lam", torch.tensor(float(lam)), persistent=False)
        return view

    def penalty(self, net: nn.Module) -> Tensor:
        """Return (lambda / L) sum |s| over the L gates the network really has."""
        scores = torch.stack([gate.score for gate in gates(net).values()])
        return cast(Tensor, net.lam) * scores.abs().mean()

    def stored(self, net: nn.Module) -> dict[str, Tensor]:
        """Return scores, BatchNorm and the differences of the layers that are the task's own."""
        tensors = super().stored(net)
        closed = {id(gate.delta) for gate in gates(net).values() if not gate.active}
        return {name: tensor for name, tensor in tensors.items() if id(tensor) not in closed}

    def restore(self, net: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
        """Put scores first: they say which differences the file holds; the others are zero."""
        for name, part in net.named_modules():
            if isinstance(part, Gated) and f"{name}.score" in tensors:
                score = tensors[f"{name}.score"]
                if score.dim():
                    raise CheckpointError(f"{where}: {name}.score is one number, got shape {tuple(score.shape)}")
                with torch.no_grad():
                    part.score.copy_(score)
                    part.delta.zero_()
        super().restore(net, tensors, where)

    def merged(self, net: nn.Module) -> int:
        """Count the gates: a difference becomes part of its weight."""
        return sum(map(weights_of, gates(net).values()))

    @torch.no_grad()
    def export(self, net: nn.Module, base: FrozenBase) -> nn.Module:
        """Return a plain network: open layers hold base + difference, closed ones the base's weights."""
        # torch's remove_parametrizations takes the weight from every copy of the module, so values are carried over
        plain, view = TrainableBase(base, "batch"), cast(TrainableBase, net)
        with modes_kept(view):
            view.eval()
            for name, tensor in (*plain.encoder.named_parameters(), *plain.encoder.named_buffers()):
                owner, _, last = name.rpartition(".")
                tensor.copy_(getattr(view.encoder.get_submodule(owner), last))
        return plain_network(plain.encoder, base)


def _targets(encoder: nn.Module, layers: str | None) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield name, module and attribute of each weight that can be gated and that the expression matches."""
    try:
        wanted = re.compile(layers or "")
    except re.error as error:
        raise SideAgentsError(f"taps: layers={layers!r} is no regular expression ({error})") from None
    for name, module in encoder.named_modules():
        for kind, attributes in _GATED.items():
            if isinstance(module, kind) and _UNGATED.isdisjoint(name.split(".")) and wanted.search(name):
                for attribute in attributes:
                    if getattr(module, attribute, None) is not None:
                        yield name, module, attribute
