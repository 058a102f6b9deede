"""What training on images in memory needs beside the loop: augmentation, order, evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from sideagents.data.examples import Examples, Totals
from sideagents.data.images import LabelledImages
from sideagents.errors import SideAgentsError
from sideagents.machine.precision import autocast
from sideagents.train.step import StepConfig

Predict = Callable[[Tensor, Tensor], Tensor]  # images (B, 3, H, W) in [0, 1], their numbers (B,) -> (B, *outputs)
CPU = torch.device("cpu")
_JUDGED_AT_ONCE = 250
_PAD = 4  # pixels around images that are cropped


class SupervisedConfig(StepConfig):
    """How examples are learned, but for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    batch_size: int = Field(128, ge=1, le=10**6, description="images in each step")
    optimizer: Literal["adam", "adamw", "sgd", "radam"] = Field("adam", description="`sgd` has momentum 0.9")
    augment: Literal["none", "flip", "flip_crop"] = Field(
        "none",
        description="crops are of images padded by 4, of the Decathlon's 64 of 72 pixels; maps are mirrored with their "
        "images and not cropped",
    )


def example_loss(
    predict: Predict,
    data: Examples,
    augment: str,
    index: Tensor,
    generator: torch.Generator,
    crop: int | None = None,
    device: torch.device = CPU,
) -> Tensor:
    """Return the mean loss of the examples `index`; what augmentation draws is drawn from the generator.

    crop: see `augmented`; device: of `predict`. Raises `SideAgentsError` when maps would have to be cropped.
    """
    if augment == "flip_crop" and len(data.outputs) > 1:
        raise SideAgentsError("augment: maps are not cropped with their images; give flip or none")
    images, mirrored = augmented(data.images[index], augment, generator, crop)
    return data.loss(predict(images.to(device).float() / 255, index).float(), index, mirrored)


@torch.no_grad()
def totals(predict: Predict, data: Examples, precision: str = "float32", device: torch.device = CPU) -> Totals:
    """Return the sums over all examples, computed in the type of training; the network must be in eval mode."""
    found = Totals()
    for index in torch.split(torch.arange(len(data)), _JUDGED_AT_ONCE):
        with autocast(precision, device):
            outputs = predict(data.images[index].to(device).float() / 255, index)
        found += data.evaluate(outputs.float(), index)
    return found


def batches(items: int, batch_size: int, steps: int, generator: torch.Generator) -> list[Tensor]:
    """Return `steps` mini-batches of indices: passes over all items, each in an order of its own, back to back."""
    size = min(batch_size, items)
    passes = -(-steps * size // items)
    order = torch.cat([torch.randperm(items, generator=generator) for _ in range(passes)])
    return list(torch.split(order[: steps * size], size))


def fixed_views(data: LabelledImages, how: str, views: int, generator: torch.Generator) -> LabelledImages:
    """Return `views` augmented copies of all images, one after another: a fixed set, whose codes are computed once."""
    copies = [augmented(data.images, how, generator)[0] for _ in range(views)]
    return LabelledImages(torch.cat(copies), data.labels.repeat(views), data.classes)


def augmented(
    images: Tensor, how: str, generator: torch.Generator, crop: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return images (B, 3, H, W) of any type mirrored by chance, and where (B,) they are, None where none can be.

    `flip_crop` then cuts crop x crop pixels out of square images, or, without `crop`, shifts them by up to 4 pixels;
    borders are 0.
    """
    if how == "none":
        return images, None
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    if how == "flip":
        return images, mirrored
    height, width = images.shape[-2:] if crop is None else (crop, crop)
    padded = functional.pad(images, (_PAD,) * 4) if crop is None else images
    down, right = torch.randint(0, padded.shape[-1] - width + 1, (2, len(images)), generator=generator)
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    picked = padded.permute(0, 2, 3, 1)[torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None]]
    return picked.permute(0, 3, 1, 2), mirrored
