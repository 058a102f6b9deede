"""One step of supervised training, which every loop here is made of: schedule, autocast, gradient, clipping."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from sideagents.core.alpha import curricula
from sideagents.core.groups import parameter_groups
from sideagents.errors import DivergedError, SideAgentsError
from sideagents.machine.precision import WAS_BF16, Precision, autocast


class StepConfig(BaseModel):
    """How weights move, whatever they learn."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    batch_size: int = Field(64, ge=1, le=10**6, description="images in each step")
    optimizer: Literal["adam", "adamw", "sgd", "radam"] = Field("adamw", description="`sgd` has momentum 0.9")
    beta2: float = Field(0.999, ge=0.0, lt=1.0, description="of all but `sgd`: memory of squared gradients")
    learning_rate: float = Field(1e-3, gt=0.0, le=1e3, description="at its highest")
    alpha_learning_rate: float | None = Field(None, gt=0.0, le=1e3, description="of alpha, by default the common one")
    weight_decay: float = Field(0.0, ge=0.0, le=1e3, description="not applied to vectors (norms, biases) and alpha")
    warmup: float = Field(0.0, ge=0.0, lt=1.0, description="share of all steps in which the rate rises from 0")
    final_lr_fraction: float = Field(1.0, ge=0.0, le=1.0, description="cosine decay down to this share of the rate")
    max_grad_norm: float = Field(1.0, gt=0.0, le=1e9, description="gradients are scaled down to this norm")
    precision: Precision = Field(
        "auto",
        description="what is computed in, in training and evaluation, by a frozen base too; auto: what is fast here",
        json_schema_extra=WAS_BF16,
    )


class Stepper:
    """Trains what wants a gradient in a module, over `total` steps in all; the schedule knows how many are done.

    per_epoch: steps in one pass over the data. Curricula of alpha in the module move with every step. Raises
    `SideAgentsError` when there is nothing to train.
    """

    def __init__(
        self,
        config: StepConfig,
        trained: nn.Module,
        total: int,
        per_epoch: float,
        done: int = 0,
        title: str = "training",
    ) -> None:
        self.config, self.trained, self.total, self.done, self.title = config, trained, total, done, title
        groups = parameter_groups(
            trained, config.learning_rate, config.alpha_learning_rate, config.weight_decay, decay_vectors=False
        )
        if not groups:
            raise SideAgentsError("there is nothing to train: the method has no weights and the task no readout")
        self.optimizer = _optimizer(config, groups)
        self._rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._per_epoch = per_epoch
        self._curricula = curricula(trained)
        self._device = groups[0]["params"][0].device

    def step(self, *losses: Callable[[], Tensor]) -> float:
        """Take one step down the gradient of the sum of scalar losses; return that sum.

        Each loss is computed and differentiated before the next, so that one graph is in memory at a time. Raises
        `DivergedError`, before any weight is moved, when one is no longer finite.
        """
        share = share_of_rate(self.config, self.done, self.total)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share
        self.optimizer.zero_grad(set_to_none=True)
        self._move_alpha()
        total = 0.0
        for loss in losses:
            with autocast(self.config.precision, self._device):
                value = loss()
            found = float(value.detach())
            if not math.isfinite(found):
                raise DivergedError(
                    f"{self.title}: the loss became {found} (step {self.done + 1}); lower learning_rate"
                )
            value.backward()  # type: ignore[no-untyped-call]
            total += found
        nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.done += 1
        self._move_alpha()  # what is evaluated now has come that far
        return total

    def _move_alpha(self) -> None:
        for alpha in self._curricula:
            alpha.set_progress(self.done / self.total, self.done / self._per_epoch)


def share_of_rate(config: StepConfig, step: int, total: int) -> float:
    """Return the share of the learning rate at a step, counted from 0: linear warm-up, then half a cosine."""
    warm = round(config.warmup * total)
    if step < warm:
        return (step + 1) / warm
    share = min(1.0, (step - warm) / max(1, total - warm))
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * 0.5 * (1 + math.cos(math.pi * share))


def _optimizer(config: StepConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.learning_rate, momentum=0.9)
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": partial(torch.optim.Adam, fused=True),  # one pass over the weights in place of six
        "adamw": partial(torch.optim.AdamW, fused=True),
        "radam": torch.optim.RAdam,
    }
    return kinds[config.optimizer](groups, config.learning_rate, betas=(0.9, config.beta2))
