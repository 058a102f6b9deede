"""Sequences of tasks: the classes of one data set, cut in their order, or the targets of Taskonomy's images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sideagents.data.cifar import load_cifar
from sideagents.data.examples import Examples
from sideagents.data.image_set import ImageSet
from sideagents.data.images import LabelledImages
from sideagents.errors import SideAgentsError
from sideagents.lifelong.lifelong_config import LifelongConfig
from sideagents.train.rendered import read_rendered


@dataclass(frozen=True)
class StreamTask:
    """One task: its number among all, what to learn from and what to be tested on."""

    number: int
    name: str
    train: Examples
    test: Examples


def read_stream(config: LifelongConfig) -> list[StreamTask]:
    """Read the data of all tasks in their order.

    Raises `SideAgentsError` where data is missing, and for numbers of tasks that cannot be.
    """
    read = _targets if config.reader == "taskonomy" else _classes
    return read(config, config.order or tuple(range(config.count)))


def _classes(config: LifelongConfig, order: tuple[int, ...]) -> list[StreamTask]:
    """Cut a data set; with `held_out` the test set is never opened."""
    root = Path(config.data)
    train = load_cifar(root, "train")
    if config.held_out:
        train, test = train.split_per_class(config.held_out, seed=0)
    else:
        test = load_cifar(root, "test")
    if test.classes != train.classes:
        raise SideAgentsError(f"{root}: training and test images are not of the same classes")
    tasks = cut(train, test, config.tasks)
    return [tasks[number] for number in order]


def _targets(config: LifelongConfig, order: tuple[int, ...]) -> list[StreamTask]:
    """Read one target after the other, of the same images where all are there."""
    found: list[StreamTask] = []
    for number in order:
        name = config.order_of_targets[number]
        parts = list(read_rendered(config, config.data, name, config.size))
        if found:
            earlier = cast(tuple[ImageSet, ImageSet], (found[0].train, found[0].test))
            parts = [new.sharing(old) for new, old in zip(parts, earlier, strict=True)]
        found.append(StreamTask(number, name, *parts))
    return found


def cut(train: LabelledImages, test: LabelledImages, tasks: int) -> list[StreamTask]:
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
