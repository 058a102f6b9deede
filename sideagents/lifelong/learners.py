"""Ways to learn one task after another: side-tuning and what it is measured against (side-tuning paper, section 4.2).

Every task has a readout of its own in every method. Methods that train one network for all tasks train base and side,
as the paper's comparisons do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from sideagents.bases.cifar_resnet import CifarResNet
from sideagents.bases.encoder import MidLevelEncoder
from sideagents.core.alpha import Alpha
from sideagents.core.base import FrozenBase
from sideagents.core.merge import Merge, alpha_for, make_merge, merge_name
from sideagents.core.methods import build_perception
from sideagents.core.side import FCN4
from sideagents.core.sidetuned import SideTuned
from sideagents.core.trainable import TrainableBase
from sideagents.errors import ConfigError
from sideagents.lifelong.ewc import EWC, EWCMode
from sideagents.lifelong.fisher import fisher_information, squared_gradients
from sideagents.lifelong.learner import Learner
from sideagents.lifelong.lifelong_config import Fisher, Gamma, LifelongConfig, Samples, Strength
from sideagents.lifelong.per_task import SequenceMethods
from sideagents.lifelong.pnn import ProgressiveCopy, ProgressiveFCN4, ProgressiveNet
from sideagents.lifelong.psp import KeyKind, Superposed, superpose
from sideagents.lifelong.stream import StreamTask

_FISHER_BATCH = 128  # of the Fisher information that is called batched
MergeName = Annotated[str, AfterValidator(merge_name)]


class SideTune(Learner):
    """A side network, a merge and an alpha for each task; the base is frozen.

    Codes are of no use to a side that reads the base's activations: then the base is run anyway.
    """

    has_side = reads_codes = True

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
    needs_images = False

    def make_net(self) -> nn.Module:
        """Take the base alone."""
        return SideTuned(self.base, None, "alpha", 1.0)


class Independent(Learner):
    """Base and side trained anew, from the pretrained base, for every task: the most that can be stored."""

    frozen_base = False
    has_side = True

    def make_net(self) -> nn.Module:
        """Make the composite."""
        return self._composite()


class FineTune(Independent):
    """One network for all tasks, trained on one after the other."""

    shares_net = shares_alpha = True


class ElasticWeights(FineTune):
    """Fine-tuning that holds the weights which earlier tasks need (EWC)."""

    _held: EWC | None = None

    def __init__(
        self,
        config: LifelongConfig,
        base: FrozenBase,
        tasks: Sequence[StreamTask],
        strength: Strength = 1e3,
        mode: EWCMode = "separate",
        gamma: Gamma = 1.0,
        fisher: Fisher = "exact",
        samples: Samples = 200,
    ) -> None:
        super().__init__(config, base, tasks)
        self.strength, self.mode, self.gamma, self.fisher, self.samples = strength, mode, gamma, fisher, samples

    def check(self) -> None:
        """Let EWC check its settings too."""
        self._ewc_of(self.make_net())

    def _ewc_of(self, net: nn.Module) -> EWC:
        shared = {name: p for name, p in net.named_parameters() if p.requires_grad}
        return EWC(shared, self.strength, self.mode, self.gamma)

    @property
    def held(self) -> EWC:
        """The penalty."""
        if self._held is None:
            self._held = self._ewc_of(self.nets[0])
        return self._held

    def penalty(self) -> Tensor:
        """Return EWC's penalty."""
        return self.held.penalty()

    def end(self, task: int, generator: torch.Generator) -> None:
        """Measure what the task's weights are worth to it."""
        data = self.tasks[task].train
        network = nn.Sequential(self.nets[0], self.readouts[task])
        index = torch.randperm(len(data), generator=generator)[: self.samples]
        images = data.images[index].to(self.base.device).float() / 255
        if self.fisher == "exact":
            found = fisher_information(network, self.held.parameters, network, images)
        else:
            found = squared_gradients(
                network,
                self.held.parameters,
                lambda part: data.loss(network(images[part]), index[part]),
                len(index),
                batch_size=1 if self.fisher == "empirical" else _FISHER_BATCH,
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

    frozen_base = False
    has_side = True
    shares_net = shares_alpha = True

    def __init__(
        self,
        config: LifelongConfig,
        base: FrozenBase,
        tasks: Sequence[StreamTask],
        kind: KeyKind = "binary",
        skip_first: bool = True,
    ) -> None:
        super().__init__(config, base, tasks)
        self.kind, self.skip_first = kind, skip_first

    def make_net(self) -> nn.Module:
        """Superpose the composite."""
        count = max(1, len(self.tasks))
        return superpose(self._composite(), count, self.kind, self.config.seed, skip_first=self.skip_first)

    def code(self, images: Tensor, task: int, codes: Tensor | None = None) -> Tensor:
        """Return the code under the task's key."""
        return cast(Tensor, self.nets[0](images, task))

    def trained(self, task: int) -> nn.Module:
        """Return the task's view of the shared weights, and its readout."""
        return nn.ModuleList([cast(Superposed, self.nets[0]).view(task), self.readouts[task]])

    def stored(self, task: int) -> Sequence[Tensor]:
        """Return the weights without those that every task starts from: the base's, and a side's as drawn."""
        return [parameter for parameter in super().stored(task) if parameter.requires_grad]


class Progressive(Learner):
    """A column for each task beside the frozen base, with laterals from its activations, merged with its code (PNN).

    As in the side-tuning authors' code, columns start as sides do, and a merge (there alpha) joins base and column, of
    each task its own. Columns are sides `fcn4` beside a CIFAR ResNet, or `copy` beside an encoder that knows its
    `stages`. laterals, laterals_alpha: the merge by which laterals join a column, see `Lateral`.
    """

    has_side = True
    shares_net = True

    def __init__(
        self,
        config: LifelongConfig,
        base: FrozenBase,
        tasks: Sequence[StreamTask],
        dense: bool = False,
        stem: bool = True,
        laterals: MergeName = "sum",
        laterals_alpha: str | float = "learned",
    ) -> None:
        super().__init__(config, base, tasks)
        self._copies = config.side == "copy" and isinstance(base.encoder, MidLevelEncoder)
        if not (self._copies or (config.side == "fcn4" and isinstance(base.encoder, CifarResNet))):
            raise ConfigError(
                "method pnn: give side fcn4 beside a base cifar:resnet..., or side copy beside a shipped base"
            )
        self._stem = stem
        self._settings: dict[str, Any] = {"dense": dense, "laterals": laterals, "laterals_alpha": laterals_alpha}
        self.nets.append(self.make_net())
        self.merges = nn.ModuleList()
        self.alphas = nn.ModuleDict()  # by task, where the merge takes one

    def make_net(self) -> nn.Module:
        """Make the network whose columns tasks will add."""
        if self._copies:
            return ProgressiveCopy(self._stages, **self._settings)
        return ProgressiveFCN4(lambda: cast(FCN4, self._side()), stem=self._stem, **self._settings)

    def _stages(self) -> list[nn.Sequential]:
        return cast(MidLevelEncoder, cast(TrainableBase, self._side()).encoder).stages()

    def check(self) -> None:
        """Make what tasks will add."""
        self._merge()
        cast(ProgressiveNet, self.make_net()).add_column()

    def _merge(self) -> tuple[Merge, Alpha | None]:
        merge = make_merge(self.config.merge, self.base.out_shape)
        return merge, alpha_for(merge, self.config.alpha)

    @property
    def columns(self) -> ProgressiveNet:
        """The columns."""
        return cast(ProgressiveNet, self.nets[0])

    def begin(self, task: int) -> None:
        """Add a column, and what joins it and the base."""
        super().begin(task)
        self.columns.add_column()
        merge, alpha = self._merge()
        self.merges.append(merge)
        if alpha is not None:
            self.alphas[str(task)] = alpha

    def code(self, images: Tensor, task: int, codes: Tensor | None = None) -> Tensor:
        """Return base and column merged; both read the base's activations once."""
        code, taps = self.base.tapped(images)
        images = self.base.prepare(images, "the column")
        if self._copies:
            column = self.columns(self.base.normalised(images), task, taps)
        else:
            column = self.columns(images, task, taps if self._stem else taps[1:])
        alpha = self._alpha(task)
        return cast(Tensor, self.merges[task](code, column, None if alpha is None else alpha()))

    def _alpha(self, task: int) -> Alpha | None:
        return cast(Alpha, self.alphas[str(task)]) if str(task) in self.alphas else None

    def trained(self, task: int) -> nn.Module:
        """Return the column, its merge and alpha, and the task's readout."""
        alpha = self._alpha(task)
        joint = [self.merges[task]] if alpha is None else [self.merges[task], alpha]
        return nn.ModuleList([self.columns.columns[task], *joint, self.readouts[task]])

    def alpha(self, task: int) -> float:
        """Return the weight of the base that a task learned; nan for a merge that has none."""
        alpha = self._alpha(task)
        return float("nan") if alpha is None else alpha.value()


LEARNERS = SequenceMethods("sequences", given=("config", "base", "tasks"))
LEARNERS.register("sidetune", SideTune)
LEARNERS.register("features", Features)
LEARNERS.register("finetune", FineTune)
LEARNERS.register("independent", Independent)
LEARNERS.register("ewc", ElasticWeights)
LEARNERS.register("psp", Superposition)
LEARNERS.register("pnn", Progressive)


def make_learner(config: LifelongConfig, base: FrozenBase, tasks: Sequence[StreamTask]) -> Learner:
    """Make the configured method with its options; raises `SideAgentsError` where the parts do not fit."""
    return LEARNERS.get(config.method)(config, base, tasks, **config.method_options)
