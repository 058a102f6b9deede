"""Ways to learn one task after another: side-tuning and what it is measured against (side-tuning paper, section 4.2).

Every task has a readout of its own in every method. Methods that train one network for all tasks train base and side,
as the paper's comparisons do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sideagents.bases.cifar_resnet import CifarResNet
from sideagents.bases.encoder import MidLevelEncoder
from sideagents.core.alpha import Alpha, make_alpha
from sideagents.core.base import FrozenBase
from sideagents.core.init import initialise_side
from sideagents.core.merge import AlphaMerge
from sideagents.core.methods import build_perception
from sideagents.core.side import FCN4, make_side
from sideagents.core.sidetuned import SideTuned
from sideagents.core.trainable import TrainableBase
from sideagents.errors import ConfigError
from sideagents.lifelong.ewc import EWC
from sideagents.lifelong.fisher import fisher_information, squared_gradients
from sideagents.lifelong.lifelong_config import LifelongConfig
from sideagents.lifelong.pnn import ProgressiveCopy, ProgressiveFCN4, ProgressiveNet
from sideagents.lifelong.psp import Superposed, superpose
from sideagents.lifelong.stream import StreamTask
from sideagents.registry import Registry
from sideagents.train.readouts import make_readout

_FISHER_BATCH = 128  # of the Fisher information that is called batched


class Learner(nn.Module, ABC):
    """A method over a sequence of tasks; `nets` and `readouts` are all that is trained.

    A task begins (`begin`), is trained by whoever calls `forward` and `penalty`, and ends (`end`). Tasks are numbers
    from 0.
    """

    reads_codes = False  # whether the base's codes can be given instead of the base being run
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
        """Return answers (B, *outputs) of a task."""
        return cast(Tensor, self.readouts[task](self.code(images, task, codes)))

    def trained(self, task: int) -> nn.Module:
        """Return what an optimizer trains in a task."""
        return nn.ModuleList([self._net(task), self.readouts[task]])

    def stored(self, task: int) -> list[nn.Parameter]:
        """Return the weights that a task needs beside the base's."""
        return list(self.trained(task).parameters())

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


class SideTune(Learner):
    """A side network, a merge and an alpha for each task; the base is frozen.

    Codes are of no use to a side that reads the base's activations: then the base is run anyway.
    """

    def __init__(self, config: LifelongConfig, base: FrozenBase, tasks: Sequence[StreamTask]) -> None:
        super().__init__(config, base, tasks)
        self.reads_codes = config.side != "feedback"

    def make_net(self) -> nn.Module:
        """Make base, side and merge."""
        config = self.config
        return build_perception(
            "sidetune",
            self.base,
            config.side,
            config.merge,
            config.alpha,
            config.side_init,
            side_options=config.side_options,
        )


class Features(Learner):
    """The frozen base: only readouts are trained."""

    reads_codes = True

    def make_net(self) -> nn.Module:
        """Take the base alone."""
        return SideTuned(self.base, None, "alpha", 1.0)


class Independent(Learner):
    """Base and side trained anew, from the pretrained base, for every task: the most that can be stored."""

    def make_net(self) -> nn.Module:
        """Make the composite."""
        return self._composite()


class FineTune(Independent):
    """One network for all tasks, trained on one after the other."""

    shares_net = shares_alpha = True


class ElasticWeights(FineTune):
    """Fine-tuning that holds the weights which earlier tasks need (EWC)."""

    _held: EWC | None = None

    @property
    def held(self) -> EWC:
        """The penalty."""
        if self._held is None:
            settings = self.config.ewc
            shared = {name: p for name, p in self.nets[0].named_parameters() if p.requires_grad}
            self._held = EWC(shared, settings.strength, settings.mode, settings.gamma)
        return self._held

    def penalty(self) -> Tensor:
        """Return EWC's penalty."""
        return self.held.penalty()

    def end(self, task: int, generator: torch.Generator) -> None:
        """Measure what the task's weights are worth to it."""
        settings, data = self.config.ewc, self.tasks[task].train
        network = nn.Sequential(self.nets[0], self.readouts[task])
        index = torch.randperm(len(data), generator=generator)[: settings.samples]
        images = data.images[index].to(self.base.device).float() / 255
        if settings.fisher == "exact":
            found = fisher_information(network, self.held.parameters, network, images)
        else:
            found = squared_gradients(
                network,
                self.held.parameters,
                lambda part: data.loss(network(images[part]), index[part]),
                len(index),
                batch_size=1 if settings.fisher == "empirical" else _FISHER_BATCH,
            )
        self.held.remember(found)

    def memory(self) -> dict[str, Tensor]:
        """Return anchors and information."""
        return self.held.state_dict()

    def remember(self, memory: dict[str, Tensor]) -> None:
        """Put them back."""
        self.held.load_state_dict(memory)


class Superposition(Learner):
    """All tasks in one set of weights under keys (PSP)."""

    shares_net = shares_alpha = True

    def make_net(self) -> nn.Module:
        """Superpose the composite."""
        settings = self.config.psp
        count = max(1, len(self.tasks))
        return superpose(self._composite(), count, settings.kind, self.config.seed, skip_first=settings.skip_first)

    def code(self, images: Tensor, task: int, codes: Tensor | None = None) -> Tensor:
        """Return the code under the task's key."""
        return cast(Tensor, self.nets[0](images, task))

    def trained(self, task: int) -> nn.Module:
        """Return the task's view of the shared weights, and its readout."""
        return nn.ModuleList([cast(Superposed, self.nets[0]).view(task), self.readouts[task]])

    def stored(self, task: int) -> list[nn.Parameter]:
        """Return the weights without those that every task starts from: the base's, and a side's as drawn."""
        return [parameter for parameter in super().stored(task) if parameter.requires_grad]


class Progressive(Learner):
    """A column for each task beside the frozen base, with laterals from its activations, blended with its code (PNN).

    As in the side-tuning authors' code: columns start as sides do, and an alpha per task weighs base and column.
    Columns are sides `fcn4` beside a CIFAR ResNet, or `copy` beside an encoder that knows its `stages`.
    """

    shares_net = True

    def __init__(self, config: LifelongConfig, base: FrozenBase, tasks: Sequence[StreamTask]) -> None:
        super().__init__(config, base, tasks)
        self._copies = config.side == "copy" and isinstance(base.encoder, MidLevelEncoder)
        fits = self._copies or (config.side == "fcn4" and isinstance(base.encoder, CifarResNet))
        if not fits or config.merge != "alpha":
            raise ConfigError(
                "method pnn: give side fcn4 beside a base cifar:resnet..., or side copy beside a shipped base, "
                "and merge alpha"
            )
        self.nets.append(self.make_net())
        self.alphas = nn.ModuleList()
        self._merge = AlphaMerge(base.out_shape)

    def make_net(self) -> nn.Module:
        """Make the network whose columns tasks will add."""
        settings = self.config.pnn
        if self._copies:
            return ProgressiveCopy(self._stages, dense=settings.dense)
        return ProgressiveFCN4(lambda: cast(FCN4, self._side()), stem=settings.stem, dense=settings.dense)

    def _stages(self) -> list[nn.Sequential]:
        return cast(MidLevelEncoder, cast(TrainableBase, self._side()).encoder).stages()

    def check(self) -> None:
        """Have nothing else to check: it was made."""

    @property
    def columns(self) -> ProgressiveNet:
        """The columns."""
        return cast(ProgressiveNet, self.nets[0])

    def begin(self, task: int) -> None:
        """Add a column."""
        super().begin(task)
        self.columns.add_column()
        self.alphas.append(make_alpha(self.config.alpha))

    def code(self, images: Tensor, task: int, codes: Tensor | None = None) -> Tensor:
        """Return base and column blended; both read the base's activations once."""
        code, taps = self.base.tapped(images)
        images = self.base.prepare(images, "the column")
        if self._copies:
            column = self.columns(self.base.normalised(images), task, taps)
        else:
            column = self.columns(images, task, taps if self.config.pnn.stem else taps[1:])
        return cast(Tensor, self._merge(code, column, cast(Alpha, self.alphas[task])()))

    def trained(self, task: int) -> nn.Module:
        """Return the column, its alpha and the task's readout."""
        return nn.ModuleList([self.columns.columns[task], self.alphas[task], self.readouts[task]])

    def alpha(self, task: int) -> float:
        """Return the weight of the base that a task learned."""
        return cast(Alpha, self.alphas[task]).value()


LEARNERS: Registry[type[Learner]] = Registry("method")
LEARNERS.register("sidetune", SideTune)
LEARNERS.register("features", Features)
LEARNERS.register("finetune", FineTune)
LEARNERS.register("independent", Independent)
LEARNERS.register("ewc", ElasticWeights)
LEARNERS.register("psp", Superposition)
LEARNERS.register("pnn", Progressive)
