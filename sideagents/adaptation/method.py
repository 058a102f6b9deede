"""What a method of adaptation is: how it builds a task's network, regularises, stores and exports it.

A method is one class and one registration; tests/library/test_adapt_invariants.py runs over all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sideagents.core.base import FrozenBase
from sideagents.core.protocol import Methods, Traits
from sideagents.errors import CheckpointError, SideAgentsError


class Adaptation(Traits, ABC):
    """A method; subclasses define `build`, whose keyword arguments are the method's options.

    `norms_code`: a GroupNorm without weights stands between the code and a linear readout, as the side-tuning paper has
    it between merge and readout; without it the readout has to learn at the scales of base and side.
    """

    norms_code: ClassVar[bool] = False

    @abstractmethod
    def build(self, base: FrozenBase, *args: Any, **options: Any) -> nn.Module:
        """Return the network of a new task, images -> codes (B, *base.out_shape)."""

    def penalty(self, net: nn.Module) -> Tensor:
        """Return what the method adds to the loss."""
        return torch.zeros(())

    def stored(self, net: nn.Module) -> dict[str, Tensor]:
        """Return the tensors of a task's file; what is the base's own no state dict holds."""
        return dict(net.state_dict(keep_vars=True))

    def restore(self, net: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
        """Put the tensors of a task's file back; raises `CheckpointError` when they are of another network."""
        copy_into(self.stored(net), tensors, where)

    def share(self, net: nn.Module, others: Iterable[nn.Module]) -> None:
        """Let a network that was loaded hold the tensors of other tasks' networks where they are equal and frozen."""
        return  # most methods have nothing of the kind

    def merged(self, net: nn.Module) -> int:
        """Return how many weights fewer an exported network has, because others contain them."""
        return 0

    def export(self, net: nn.Module, base: FrozenBase) -> nn.Module:
        """Return the network without this package's layers; raises `SideAgentsError` where the maths forbids it."""
        raise SideAgentsError(f"{type(self).__name__} has no plain form: its network is used as it is")

    def foreign_code(self, options: Mapping[str, Any]) -> str:
        """Return the option that would import a module which the options name, empty when none does."""
        return ""


ADAPTATIONS: Methods[type[Adaptation]] = Methods("vision", given=("base",))
ADAPTATIONS.register("sidetune", "sideagents.adaptation.plain:SideTuning")
ADAPTATIONS.register("features", "sideagents.adaptation.plain:Features")
ADAPTATIONS.register("finetune", "sideagents.adaptation.plain:FineTuning")
ADAPTATIONS.register("scratch", "sideagents.adaptation.plain:Scratch")
ADAPTATIONS.register("taps", "sideagents.adaptation.taps:Taps")
ADAPTATIONS.register("residual_adapters", "sideagents.adaptation.residual:ResidualAdapters")
ADAPTATIONS.register("lora", "sideagents.adaptation.peft_methods:Lora")
ADAPTATIONS.register("ia3", "sideagents.adaptation.peft_methods:IA3")


@torch.no_grad()
def copy_into(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy named tensors in place; raises `CheckpointError` naming the first that does not fit."""
    for name in sorted(own.keys() ^ tensors.keys()):
        raise CheckpointError(f"{where}: {name!r} is {'missing' if name in own else 'not part of this network'}")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, the network needs {tuple(tensor.shape)}"
            raise CheckpointError(f"{where}: {name!r} has shape {shapes}")
        tensor.copy_(tensors[name])
