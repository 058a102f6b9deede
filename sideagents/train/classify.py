"""What training on images in memory needs beside the loop: augmentation, order, judging."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from sideagents.data.images import LabelledImages
from sideagents.train.step import StepConfig

Logits = Callable[[Tensor, Tensor], Tensor]  # images (B, 3, H, W) in [0, 1], their numbers (B,) -> (B, classes)
_JUDGED_AT_ONCE = 250


class ClassifyConfig(StepConfig):
    """How a classifier is trained, but for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    batch_size: int = Field(128, ge=1, description="images in each step")
    optimizer: Literal["adam", "adamw", "sgd", "radam"] = Field("adam", description="`sgd` has momentum 0.9")
    augment: Literal["none", "flip", "flip_crop"] = Field("none", description="crops are of images padded by 4")


def classification_loss(
    logits: Logits, data: LabelledImages, augment: str, index: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the mean cross-entropy of the images `index`; what augmentation draws is drawn from the generator."""
    images = augmented(data.images[index].float() / 255, augment, generator)
    return functional.cross_entropy(logits(images, index).float(), data.labels[index])


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
