"""What every method over a sequence of tasks is: it begins a task, is trained by whoever asks it, and ends the task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sideagents.core.base import FrozenBase
from sideagents.core.init import initialise_side
from sideagents.core.protocol import Traits
from sideagents.core.side import make_side
from sideagents.core.sidetuned import SideTuned
from sideagents.core.trainable import TrainableBase
from sideagents.lifelong.lifelong_config import LifelongConfig
from sideagents.lifelong.stream import StreamTask
from sideagents.train.readouts import make_readout


class Learner(Traits, nn.Module, ABC):
    """A method over a sequence of tasks; `nets` and `readouts` are all that is trained.

    A task begins (`begin`), is trained by whoever calls `forward` and `penalty`, and ends (`end`). Tasks are numbers
    from 0. Further keywords of a subclass's constructor are its options.
    """

    shares_net = False  # whether one network serves all tasks
    shares_alpha = False  # and one weight of the base

    def __init__(self, config: LifelongConfig, base: FrozenBase, tasks: Sequence[StreamTask]) -> None:
        super().__init__()
        self.config, self.base, self.tasks = config, base, tasks
        self.nets = nn.ModuleList()
        self.readouts = nn.ModuleList()

    def begin(self, task: int) -> None:
        """Make what a new task needs."""
        if task >= len(self.nets) and not (self.shares_net and self.nets):
            self.nets.append(self.make_net())
        self._add_readout(task)

    def _net(self, task: int) -> nn.Module:
        return self.nets[0 if self.shares_net else task]

    def _add_readout(self, task: int) -> None:
        outputs = self.tasks[task].train.outputs
        self.readouts.append(make_readout(self.base.out_shape, outputs, self.config.norm_groups))

    @abstractmethod
    def make_net(self) -> nn.Module:
        """Make the network of a task."""

    def check(self) -> None:
        """Raise `SideAgentsError` where the configured parts do not fit; called before anything is trained."""
        self.make_net()

    def code(self, images: Tensor, task: int, codes: Tensor | None = None) -> Tensor:
        """Return the code (B, *base.out_shape) that a task's readout reads; images uint8 or in [0, 1]."""
        net = self._net(task)
        return cast(Tensor, net(images, codes) if self.reads_codes else net(images))

    def forward(self, images: Tensor, task: int, codes: Tensor | None = None) -> Tensor:
        """Return outputs (B, *outputs) of a task."""
        return cast(Tensor, self.readouts[task](self.code(images, task, codes)))

    def trained(self, task: int) -> nn.Module:
        """Return what an optimizer trains in a task."""
        return nn.ModuleList([self._net(task), self.readouts[task]])

    def stored(self, task: int) -> Sequence[Tensor]:
        """Return the weights that a task needs beside the base's."""
        frozen = {id(parameter) for parameter in self.base.parameters()}
        return [parameter for parameter in self.trained(task).parameters() if id(parameter) not in frozen]

    def penalty(self) -> Tensor:
        """Return what is added to the loss."""
        return torch.zeros(())

    def end(self, task: int, generator: torch.Generator) -> None:
        """Take notice that a task was trained."""

    def alpha(self, task: int) -> float:
        """Return the weight of the base that a task learned; nan where the method has none."""
        found = [part for part in self.trained(task).modules() if isinstance(part, SideTuned)]
        return found[0].alpha_value() if found else float("nan")

    def memory(self) -> dict[str, Tensor]:
        """Return what a resumed run needs beside the weights."""
        return {}

    def remember(self, memory: dict[str, Tensor]) -> None:
        """Put `memory()` back."""

    def _side(self) -> nn.Module:
        config, base = self.config, self.base
        side = make_side(
            config.side, base.out_shape, base.channels, base.input_size, base=base, options=config.side_options
        )
        initialise_side(side, config.side_init, base, base.input_size)
        return side

    def _composite(self) -> SideTuned:
        """Return a trained copy of the base with a side beside it."""
        return SideTuned(TrainableBase(self.base, "batch"), self._side(), self.config.merge, self.config.alpha)
