"""Sequences of tasks: the classes of one data set, cut into tasks in their order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sideagents.data.cifar import load_cifar
from sideagents.data.images import LabelledImages
from sideagents.errors import SideAgentsError
from sideagents.lifelong.config import LifelongConfig


@dataclass(frozen=True)
class StreamTask:
    """One task: its number among all, its images to learn from and to be judged by, labels counted from 0."""

    number: int
    name: str
    train: LabelledImages
    test: LabelledImages

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
    if test.classes != train.classes:
        raise SideAgentsError(f"{root}: training and test images are not of the same classes")
    tasks = cut(train, test, config.tasks)
    return [tasks[number] for number in config.order or range(len(tasks))]


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
