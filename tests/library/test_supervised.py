"""Training of classifiers: mini-batches, augmentation, schedules, judging."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sideagents.data.images import LabelledImages
from sideagents.train.supervised import augmented, batches, example_loss, fixed_views, totals


def colours(count: int = 40) -> LabelledImages:
    """Two classes: dark and bright images."""
    labels = torch.arange(count) % 2
    images = (60 + 120 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()
    return LabelledImages(images, labels, ("dark", "bright"))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(48, 2)

    def forward(self, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1) - 0.5)


def test_judging_by_hand():
    net, data = Net(), colours(2)
    nn.init.zeros_(net.layer.weight)
    net.layer.bias.data = torch.tensor([math.log(3.0), 0.0])  # probabilities 3/4 and 1/4
    found = totals(net.eval(), data)
    assert found.accuracy == 0.5
    assert found.mean_loss == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_the_loss_is_the_mean_cross_entropy_of_augmented_images():
    net, data = Net(), colours()
    index, seen = torch.tensor([0, 1, 5]), []

    def logits(images, numbers):
        seen.append((images, numbers))
        return net(images, numbers)

    found = example_loss(logits, data, "none", index, torch.Generator())
    expected = nn.functional.cross_entropy(net(data.images[index].float() / 255, index), data.labels[index])
    assert torch.equal(found, expected)
    example_loss(logits, data, "flip_crop", index, torch.Generator().manual_seed(0))
    assert torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[0][0], seen[1][0])


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
    assert augmented(images, "none", generator) == (images, None)
    flipped, mirrored = augmented(images, "flip", generator)
    assert mirrored is not None
    assert torch.equal(mirrored, flipped[:, 0, 0, 0] == 4)
    assert {tuple(image[0, 0].tolist()) for image in flipped} == {(1, 2, 3, 4), (4, 3, 2, 1)}
    moved, _ = augmented(images, "flip_crop", generator)
    assert moved.shape == images.shape
    padded = torch.nn.functional.pad(images[0], (4, 4, 4, 4))
    windows = [padded[:, i : i + 4, j : j + 4] for i in range(9) for j in range(9)]
    windows += [window.flip(2) for window in windows]
    # a mirrored image is padded after it was mirrored: the same windows
    assert all(any(torch.equal(image, window) for window in windows) for image in moved)
    assert len({tuple(image.flatten().tolist()) for image in moved}) > 9


def test_crops_of_larger_images_need_no_border():
    images = torch.arange(1.0, 17.0).view(1, 1, 4, 4).expand(64, 3, 4, 4)
    moved, _ = augmented(images, "flip_crop", torch.Generator().manual_seed(0), crop=3)
    windows = [part[:, i : i + 3, j : j + 3] for part in (images[0], images[0].flip(2)) for i in (0, 1) for j in (0, 1)]
    found = {tuple(image[0].flatten().tolist()) for image in moved}
    assert found == {tuple(window[0].flatten().tolist()) for window in windows}


def test_fixed_views_are_copies_one_after_another():
    data = colours(6)
    found = fixed_views(data, "flip_crop", 3, torch.Generator().manual_seed(0))
    assert torch.equal(found.labels, data.labels.repeat(3))
    assert found.classes == data.classes
    assert found.images.shape == (18, 3, 4, 4)
    expected, _ = augmented(data.images.float() / 255, "flip_crop", torch.Generator().manual_seed(0))
    assert torch.equal(found.images[:6].float() / 255, expected)  # eight bits lose nothing
    assert not torch.equal(found.images[:6], found.images[6:12])
