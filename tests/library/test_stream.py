"""Streams: the classes of a data set, cut into tasks in their order."""

from __future__ import annotations

import pytest
import torch

from sideagents.data.images import LabelledImages
from sideagents.errors import SideAgentsError
from sideagents.lifelong.stream import cut


def image_set(per_class: int) -> LabelledImages:
    labels = torch.arange(6).repeat(per_class)
    images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return LabelledImages(images, labels, tuple("abcdef"))


def test_classes_are_cut_in_their_order_and_counted_from_0():
    first, second, third = cut(image_set(4), image_set(1), 3)
    assert [task.name for task in (first, second, third)] == ["0-1", "2-3", "4-5"]
    assert [task.number for task in (first, second, third)] == [0, 1, 2]
    assert second.train.outputs == (2,)
    assert set(second.train.images.flatten().tolist()) == {2, 3}
    assert (second.train.labels == second.train.images[:, 0, 0, 0] - 2).all()
    assert len(second.train) == 8
    assert len(second.test) == 2
    with pytest.raises(SideAgentsError, match="tasks=4: 6 classes"):
        cut(image_set(1), image_set(1), 4)
