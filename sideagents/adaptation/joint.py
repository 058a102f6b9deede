"""Many tasks at once: the base itself learns what they share (Wallingford et al. 2022, section 3, Joint MTL).

`fit_jointly` trains the base's weights and every task's own together. With `taps` that is the joint variant: the price
of own layers pulls into the base what tasks have in common; memory grows with the number of tasks. Its
memory-efficient form is `shared_base`: one network with a readout for each task, and TAPS on it afterwards, one task
after another; `fit_shared` keeps the readouts too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import cast

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sideagents.adaptation.adapted import Adapted
from sideagents.core.base import FrozenBase
from sideagents.core.trainable import TrainableBase
from sideagents.data.examples import Examples
from sideagents.errors import SideAgentsError
from sideagents.run.progress import Progress
from sideagents.train.readouts import make_readout
from sideagents.train.step import Stepper
from sideagents.train.supervised import SupervisedConfig, batches, example_loss

_LossOf = Callable[[str, Tensor, int, torch.Generator], Tensor]  # task, index, epoch, generator


class JointConfig(SupervisedConfig):
    """How tasks learn together; each step takes a mini-batch of every task."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    seed: int = Field(1, ge=0, le=2**32 - 1)
    epochs: int = Field(10, ge=1, le=10**6, description="passes over the largest task; smaller ones are repeated")
    penalty_warmup: int = Field(0, ge=0, le=10**6, description="epochs at the start without the method's penalty")


def fit_jointly(adapted: Adapted, data: Mapping[str, Examples], config: JointConfig) -> Adapted:
    """Train all tasks of `adapted` and its base's weights together, and return the result: a new base with the tasks.

    data: examples of each task, by its name. The base that was given stays as it is; the new one is named after it and
    has a fingerprint of its own. BatchNorm is each task's own; that of the new base, which tasks added later start
    from, is the mean over the tasks. The loss is the sum over tasks of loss and penalty (equation 4). Seeds torch's
    generator. Raises `SideAgentsError` for tasks without data or data without a task, for a method whose tasks do not
    share the base's parameters, a base that computes in another type than its weights', and for a loss that is no
    longer finite.
    """
    if set(data) != set(adapted.tasks) or not data:
        raise SideAgentsError(f"joint: data is of {sorted(data)}, the tasks are {sorted(adapted.tasks)}")
    if adapted.base.dtype is not None:
        raise SideAgentsError(
            f"joint: base {adapted.base.name!r} computes in {adapted.base.dtype}; load it without dtype"
        )
    joint = copy.deepcopy(adapted)
    joint.base.name = f"{adapted.base.name}-joint"
    shared = {id(p) for p in joint.base.parameters()}
    for name in joint.tasks:
        if shared.isdisjoint(id(p) for p in joint.task(name).parameters()):
            raise SideAgentsError(f"joint: method {joint.method!r} does not share the base's parameters; taps does")

    def loss_of(name: str, index: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        loss = example_loss(
            lambda images, _: cast(Tensor, joint(images, name)), data[name], config.augment, index, generator,
            device=joint.base.device,
        )  # fmt: skip
        return loss + joint.penalty(name) if epoch >= config.penalty_warmup else loss

    trained = nn.ModuleList([joint.task(name) for name in joint.tasks])
    with _learning(joint.base):
        _fit(trained, loss_of, data, config)
    _average_batchnorm(joint)
    return joint.eval()


def fit_shared(base: FrozenBase, data: Mapping[str, Examples], config: JointConfig) -> Adapted:
    """Train one network on all tasks, each with a readout of its own, and return it: a new base with the tasks.

    The memory is that of one task: each step differentiates one task's loss after the other. BatchNorm is shared, and
    learns from mini-batches of one task each. The tasks are of method `features`, with the readouts that were trained
    (`make_readout(base.out_shape, outputs)`): they can be saved and exported as any others. Seeds torch's generator.
    Raises `SideAgentsError` for no data and a loss that is no longer finite.
    """
    if not data:
        raise SideAgentsError("joint: there is no task to learn")
    torch.manual_seed(config.seed)
    net = TrainableBase(base, "batch")
    readouts = {name: make_readout(base.out_shape, found.outputs).to(base.device) for name, found in data.items()}

    def loss_of(name: str, index: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        readout = readouts[name]
        return example_loss(
            lambda images, _: cast(Tensor, readout(net(images))), data[name], config.augment, index, generator,
            device=base.device,
        )  # fmt: skip

    _fit(nn.ModuleList([net, *readouts.values()]), loss_of, data, config)
    found = Adapted(base.with_encoder(net.encoder, f"{base.name}-shared"), "features", {})
    for name, readout in readouts.items():
        found.add_task(name, readout=readout)
    return found.eval()


def shared_base(base: FrozenBase, data: Mapping[str, Examples], config: JointConfig) -> FrozenBase:
    """Return the base of `fit_shared` alone, for tasks of another method that are added to it afterwards."""
    return fit_shared(base, data, config).base


@contextmanager
def _learning(base: FrozenBase) -> Iterator[None]:
    """Let the frozen weights themselves learn; views that share them follow."""
    parameters = list(base.encoder.parameters())
    try:
        for parameter in parameters:
            parameter.requires_grad = True
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad, parameter.grad = False, None


@torch.no_grad()
def _average_batchnorm(joint: Adapted) -> None:
    """Give the base's own BatchNorm, that no task has used, the mean of the tasks' weights and statistics."""
    encoders = [cast(TrainableBase, joint.task(name).net).encoder for name in joint.tasks]
    for name, module in joint.base.encoder.named_modules():
        if isinstance(module, _BatchNorm):
            own = module.state_dict(keep_vars=True)
            others = [encoder.get_submodule(name).state_dict() for encoder in encoders]
            for key, tensor in own.items():
                if tensor.is_floating_point():
                    tensor.copy_(torch.stack([other[key] for other in others]).mean(dim=0))


def _fit(trained: nn.Module, loss_of: _LossOf, data: Mapping[str, Examples], config: JointConfig) -> None:
    torch.manual_seed(config.seed)
    steps = math.ceil(max(len(found) for found in data.values()) / config.batch_size)
    stepper = Stepper(config, trained, steps * config.epochs, steps, title="joint training")
    trained.train()
    with Progress(stepper.total, "joint training", unit="step") as shown:
        for epoch in range(config.epochs):
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
            orders = {name: batches(len(found), config.batch_size, steps, generator) for name, found in data.items()}
            for step in range(steps):
                losses = [partial(loss_of, name, order[step], epoch, generator) for name, order in orders.items()]
                shown.update(1, loss=stepper.step(*losses))
    trained.eval()
