"""Streams: classes in their order, mini-batches as passes, images mirrored and shifted."""

from __future__ import annotations

import pytest
import torch

from sideagents.data.images import ImageSet
from sideagents.errors import SideAgentsError
from sideagents.lifelong.stream import augmented, batches, cut


def image_set(per_class: int) -> ImageSet:
    labels = torch.arange(6).repeat(per_class)
    images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return ImageSet(images, labels, tuple("abcdef"))


def test_classes_are_cut_in_their_order_and_counted_from_0():
    first, second, third = cut(image_set(4), image_set(1), 3)
    assert [task.name for task in (first, second, third)] == ["0-1", "2-3", "4-5"]
    assert [task.number for task in (first, second, third)] == [0, 1, 2]
    assert second.classes == 2
    assert set(second.train.images.flatten().tolist()) == {2, 3}
    assert (second.train.labels == second.train.images[:, 0, 0, 0] - 2).all()
    assert len(second.train) == 8
    assert len(second.test) == 2
    with pytest.raises(SideAgentsError, match="tasks=4: 6 classes"):
        cut(image_set(1), image_set(1), 4)


def test_batches_are_passes_over_all_items():
    found = batches(10, 4, 5, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in found] == [4] * 5
    joined = torch.cat(found)
    assert sorted(joined[:10].tolist()) == list(range(10))
    assert sorted(joined[10:].tolist()) == list(range(10))
    assert not torch.equal(joined[:10], joined[10:])
    assert [len(batch) for batch in batches(3, 8, 2, torch.Generator())] == [3, 3]


def test_images_are_mirrored_and_shifted_with_borders_of_0():
    images = torch.arange(1.0, 17.0).view(1, 1, 4, 4).expand(64, 3, 4, 4)
    generator = torch.Generator().manual_seed(0)
    assert augmented(images, "none", generator) is images
    flipped = augmented(images, "flip", generator)
    assert {tuple(image[0, 0].tolist()) for image in flipped} == {(1, 2, 3, 4), (4, 3, 2, 1)}
    moved = augmented(images, "flip_crop", generator, pad=1)
    assert moved.shape == images.shape
    padded = torch.nn.functional.pad(images[0], (1, 1, 1, 1))
    windows = [padded[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    windows += [window.flip(2) for window in windows]
    # a mirrored image is padded after it was mirrored: the same windows
    assert all(any(torch.equal(image, window) for window in windows) for image in moved)
    assert len({tuple(image.flatten().tolist()) for image in moved}) > 9
