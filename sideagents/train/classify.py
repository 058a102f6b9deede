"""Training of classifiers on images in memory: mini-batches, augmentation, optimizers, and judging."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from sideagents.core.groups import parameter_groups
from sideagents.data.images import LabelledImages
from sideagents.errors import SideAgentsError

Logits = Callable[[Tensor, Tensor], Tensor]  # images (B, 3, H, W) in [0, 1], their numbers (B,) -> (B, classes)
_JUDGED_AT_ONCE = 250


class ClassifyConfig(BaseModel):
    """How a classifier is trained, but for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    batch_size: int = Field(128, ge=1, description="images in each step")
    optimizer: Literal["adam", "adamw", "sgd", "radam"] = Field("adam", description="`sgd` has momentum 0.9")
    learning_rate: float = Field(1e-3, gt=0.0, description="at the start")
    alpha_learning_rate: float | None = Field(None, gt=0.0, description="of alpha, by default the common one")
    weight_decay: float = Field(0.0, ge=0.0, description="not applied to vectors (norms, biases) and alpha")
    final_lr_fraction: float = Field(1.0, ge=0.0, le=1.0, description="cosine decay down to this share of the rate")
    max_grad_norm: float = Field(1.0, gt=0.0, description="gradients are scaled down to this norm")
    augment: Literal["none", "flip", "flip_crop"] = Field("none", description="crops are of images padded by 4")


class Classifier:
    """Trains what wants a gradient in a module, over `total` steps in all; the schedule knows how many are done.

    Raises `SideAgentsError` when there is nothing to train.
    """

    def __init__(self, config: ClassifyConfig, trained: nn.Module, total: int, done: int = 0) -> None:
        self.config, self.trained, self.total, self.done = config, trained, total, done
        groups = parameter_groups(
            trained, config.learning_rate, config.alpha_learning_rate, config.weight_decay, decay_vectors=False
        )
        if not groups:
            raise SideAgentsError("there is nothing to train: the method has no weights and the task no readout")
        self.optimizer = _optimizer(config, groups)
        self._rates = [float(group["lr"]) for group in self.optimizer.param_groups]

    def fit(
        self,
        logits: Logits,
        data: LabelledImages,
        order: Iterable[Tensor],
        generator: torch.Generator,
        penalty: Callable[[], Tensor] | None = None,
        after: Callable[[float], None] | None = None,
    ) -> None:
        """Take one step on each mini-batch of `order` (indices into `data`); `after` is told each step's loss.

        penalty: added to the cross-entropy. What augmentation draws is drawn from the generator. Raises
        `SideAgentsError` when the loss is no longer finite.
        """
        config = self.config
        self.trained.train()
        for index in order:
            share = config.final_lr_fraction + (1 - config.final_lr_fraction) * _cosine(self.done / self.total)
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * share
            images = augmented(data.images[index].float() / 255, config.augment, generator)
            loss = functional.cross_entropy(logits(images, index), data.labels[index])
            if penalty is not None:
                loss = loss + penalty()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.trained.parameters(), config.max_grad_norm)
            self.optimizer.step()
            self.done += 1
            value = float(loss.detach())
            if not math.isfinite(value):
                raise SideAgentsError(f"step {self.done}: the loss became {value}; lower learning_rate")
            if after is not None:
                after(value)
        self.trained.eval()


@torch.no_grad()
def judge(logits: Logits, data: LabelledImages) -> tuple[float, float]:
    """Return accuracy in [0, 1] and mean cross-entropy; the network must be in eval mode."""
    right, loss = 0, 0.0
    for index in torch.split(torch.arange(len(data)), _JUDGED_AT_ONCE):
        found = logits(data.images[index].float() / 255, index)
        right += int((found.argmax(dim=1) == data.labels[index]).sum())
        loss += float(functional.cross_entropy(found, data.labels[index], reduction="sum"))
    return right / len(data), loss / len(data)


def batches(items: int, batch_size: int, steps: int, generator: torch.Generator) -> list[Tensor]:
    """Return `steps` mini-batches of indices: passes over all items, each in an order of its own, back to back."""
    size = min(batch_size, items)
    passes = -(-steps * size // items)
    order = torch.cat([torch.randperm(items, generator=generator) for _ in range(passes)])
    return list(torch.split(order[: steps * size], size))


def augmented(images: Tensor, how: str, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Return images (B, 3, H, W) mirrored by chance and, for `flip_crop`, shifted by up to `pad` pixels; borders 0."""
    if how == "none":
        return images
    flip = (torch.rand(len(images), generator=generator) < 0.5).view(-1, 1, 1, 1)
    images = torch.where(flip, images.flip(3), images)
    if how == "flip":
        return images
    height, width = images.shape[-2:]
    padded = functional.pad(images, (pad,) * 4)
    down, right = torch.randint(0, 2 * pad + 1, (2, len(images)), generator=generator)
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    picked = padded.permute(0, 2, 3, 1)[torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None]]
    return picked.permute(0, 3, 1, 2)


def _optimizer(config: ClassifyConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.learning_rate, momentum=0.9)
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "radam": torch.optim.RAdam,
    }
    return kinds[config.optimizer](groups, config.learning_rate)


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
