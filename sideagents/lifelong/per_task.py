"""Methods of `sideagents.adapt` over a sequence of tasks: each task has a network of its own, as it was left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from sideagents.adaptation.method import ADAPTATIONS, Adaptation
from sideagents.core.base import FrozenBase
from sideagents.core.protocol import TRAITS, About, Methods
from sideagents.lifelong.learner import Learner
from sideagents.lifelong.lifelong_config import LifelongConfig
from sideagents.lifelong.stream import StreamTask


class PerTask(Learner):
    """A method of adaptation, with its own options."""

    kind: ClassVar[type[Adaptation]]

    def __init__(self, config: LifelongConfig, base: FrozenBase, tasks: Sequence[StreamTask], **options: Any) -> None:
        super().__init__(config, base, tasks)
        self.adaptation, self._options = self.kind(), options

    def make_net(self) -> nn.Module:
        """Build the network of a task."""
        return self.adaptation.build(self.base, **self._options)

    def stored(self, task: int) -> Sequence[Tensor]:
        """Return the tensors of a task's file, and its readout's."""
        own = self.adaptation.stored(self.nets[task]).values()
        return [tensor for tensor in (*own, *self.readouts[task].parameters()) if tensor.is_floating_point()]

    def penalty(self) -> Tensor:
        """Return what the method adds to the loss of the newest task."""
        return self.adaptation.penalty(self.nets[-1])


class SequenceMethods(Methods[type[Learner]]):
    """Methods of sequences: those that are registered here, and all other methods of `sideagents.adapt`."""

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted({*super().names(), *ADAPTATIONS.names()})

    def get(self, name: str) -> type[Learner]:
        """Return the method of that name; raises `SideAgentsError` for an unknown one."""
        if not self._lent(name):
            return super().get(name)
        kind = ADAPTATIONS.get(name)
        traits = {trait: getattr(kind, trait) for trait in TRAITS}
        return type(f"{kind.__name__}PerTask", (PerTask,), {"kind": kind, "__doc__": kind.__doc__, **traits})

    def about(self, name: str) -> About:
        """Describe a method; raises `SideAgentsError` for an unknown name."""
        return ADAPTATIONS.about(name) if self._lent(name) else super().about(name)

    def _lent(self, name: str) -> bool:
        return name in ADAPTATIONS.names() and name not in super().names()
