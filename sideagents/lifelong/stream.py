"""Sequences of tasks: the classes of one data set, cut into tasks in their order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sideagents.data.cifar import load_cifar
from sideagents.data.images import ImageSet
from sideagents.errors import SideAgentsError
from sideagents.lifelong.config import LifelongConfig


@dataclass(frozen=True)
class StreamTask:
    """One task: its number among all, its images to learn from and to be judged by, labels counted from 0."""

    number: int
    name: str
    train: ImageSet
    test: ImageSet

    @property
    def classes(self) -> int:
        """How many classes it has."""
        return len(self.train.classes)


def read_stream(config: LifelongConfig) -> list[StreamTask]:
    """Read the data set and cut it; with `held_out` the test set is never opened.

    Raises `SideAgentsError` where data is missing, and for numbers of tasks that cannot be.
    """
    root = Path(config.data)
    train = load_cifar(root, "train")
    if config.held_out:
        train, test = train.split_per_class(config.held_out, seed=0)
    else:
        test = load_cifar(root, "test")
    tasks = cut(train, test, config.tasks)
    order = config.order or tuple(range(len(tasks)))
    if len(set(order)) < len(order) or not set(order) <= set(range(len(tasks))):
        raise SideAgentsError(f"order={list(order)}: must name tasks from 0 to {len(tasks) - 1}, each at most once")
    return [tasks[number] for number in order]


def cut(train: ImageSet, test: ImageSet, tasks: int) -> list[StreamTask]:
    """Cut classes into tasks of equally many, in their order; raises `SideAgentsError` where that cannot be."""
    each, rest = divmod(len(train.classes), tasks)
    if rest or not each:
        raise SideAgentsError(f"tasks={tasks}: {len(train.classes)} classes cannot be cut into so many equal tasks")
    found = []
    for number in range(tasks):
        first = number * each
        part = train.of_classes(first, each)
        name = f"{first}-{first + each - 1}"
        found.append(StreamTask(number, name, part, test.of_classes(first, each)))
    return found


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
    padded = torch.nn.functional.pad(images, (pad,) * 4)
    down, right = torch.randint(0, 2 * pad + 1, (2, len(images)), generator=generator)
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    picked = padded.permute(0, 2, 3, 1)[torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None]]
    return picked.permute(0, 3, 1, 2)
