"""Images with a target as examples: errors by hand, masks, mirrors, right answers."""

from __future__ import annotations

import math

import pytest
import torch

from sideagents.data.image_set import ImageSet
from sideagents.data.targets import SEQUENCE, TARGETS

IMAGES = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
KEYS = [("house", 0, 0), ("house", 0, 1)]
BOTH = torch.arange(2)


def test_maps_are_judged_by_absolute_errors_where_something_was_hit() -> None:
    raw = torch.full((2, 1, 2, 2), 512, dtype=torch.uint16)  # 1 m, -1/7 on the scale
    valid = torch.tensor([[True, False], [True, True]]).expand(2, 1, 2, 2)
    data = ImageSet(TARGETS["depth"], IMAGES, raw, valid, KEYS)
    answers = torch.full((2, 1, 2, 2), 6 / 7)
    answers[:, :, 0, 1] = 50.0  # where nothing was hit
    answers[0, 0, 1, 1] = -8 / 7
    assert (data.outputs, data.asks_classes) == ((1, 2, 2), False)
    assert float(data.loss(answers, BOTH)) == pytest.approx(1.0)
    found = data.evaluate(answers, BOTH)
    assert (found.mean_loss, found.weight, found.asked) == (pytest.approx(1.0), 6.0, 0)
    assert math.isnan(found.accuracy)


def test_curvature_is_judged_by_squared_errors_over_both_channels() -> None:
    raw = torch.full((2, 2, 2, 2), 127, dtype=torch.uint8)
    data = ImageSet(TARGETS["curvature"], IMAGES, raw, None, KEYS)
    answers = torch.stack((torch.full((2, 2, 2), 3.0), torch.full((2, 2, 2), 1.0)), dim=1)
    assert float(data.loss(answers, BOTH)) == pytest.approx((9 + 1) / 2)
    assert data.evaluate(answers[:1], BOTH[:1]).weight == 8


def test_a_mirrored_image_is_told_of_its_mirrored_target() -> None:
    raw = torch.zeros(2, 3, 2, 2).half()
    raw[:, 0, :, 0] = 0.5  # x of a normal in the left column
    data = ImageSet(TARGETS["normals"], IMAGES, raw, None, KEYS)
    answers = torch.zeros(2, 3, 2, 2)
    answers[0, 0, :, 0], answers[1, 0, :, 1] = 0.5, -0.5
    assert float(data.loss(answers, BOTH, torch.tensor([False, True]))) == 0.0
    assert float(data.loss(answers, BOTH, torch.tensor([True, False]))) > 0.0


def test_classes_of_pixels() -> None:
    raw = torch.tensor([[[[0, 17], [3, 3]]], [[[3, 3], [3, 3]]]], dtype=torch.uint8)
    data = ImageSet(TARGETS["segmentation"], IMAGES, raw, None, KEYS)
    answers = torch.zeros(2, 18, 2, 2)
    answers[:, 3] = math.log(17.0)  # half of the probability
    assert data.outputs == (18, 2, 2)
    assert float(data.loss(answers, BOTH)) == pytest.approx((6 * math.log(2) + 2 * math.log(34)) / 8)
    found = data.evaluate(answers, BOTH)
    assert (found.accuracy, found.right, found.asked) == (6 / 8, 6, 8)
    flipped = answers.flip(3)
    assert float(data.loss(flipped, BOTH, torch.ones(2, dtype=torch.bool))) == pytest.approx(found.mean_loss)


def test_a_distribution_over_classes_of_the_image() -> None:
    raw = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]]).half().view(2, 3, 1, 1)
    data = ImageSet(TARGETS["room"], IMAGES, raw, None, KEYS)
    answers = torch.tensor([[math.log(2.0), 0.0, 0.0], [math.log(2.0), 0.0, 0.0]])  # 1/2, 1/4, 1/4
    assert (data.outputs, data.asks_classes) == ((3,), True)
    first = 0.75 * math.log(2) + 0.25 * math.log(4)
    assert float(data.loss(answers, BOTH)) == pytest.approx((first + math.log(4)) / 2)
    found = data.evaluate(answers, BOTH)
    assert (found.accuracy, found.weight) == (0.5, 2.0)
    assert found.mean_loss == pytest.approx((first + math.log(4)) / 2)


def test_the_sequence_is_of_twelve_known_tasks_with_the_published_losses() -> None:
    assert len(set(SEQUENCE)) == 12
    losses = {name: TARGETS[name].loss for name in SEQUENCE}
    assert losses["curvature"] == "l2"
    assert [name for name in SEQUENCE if losses[name] == "cross_entropy"] == ["segmentation", "room"]
    assert list(losses.values()).count("l1") == 9
