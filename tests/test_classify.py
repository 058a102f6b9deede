"""Training of classifiers: mini-batches, augmentation, schedules, judging."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sideagents.data.images import LabelledImages
from sideagents.errors import SideAgentsError
from sideagents.train.classify import Classifier, ClassifyConfig, augmented, batches, judge


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


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "radam"])
def test_every_optimizer_learns(optimizer):
    torch.manual_seed(0)
    net, data = Net(), colours()
    trainer = Classifier(ClassifyConfig(optimizer=optimizer, learning_rate=0.05, batch_size=8), net, 60)
    losses = []
    generator = torch.Generator().manual_seed(0)
    trainer.fit(net, data, batches(len(data), 8, 60, generator), generator, after=losses.append)
    assert len(losses) == trainer.done == 60
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    accuracy, loss = judge(net, data)
    assert accuracy == 1.0
    assert loss < 0.69


def test_judging_by_hand():
    net, data = Net(), colours(2)
    nn.init.zeros_(net.layer.weight)
    net.layer.bias.data = torch.tensor([math.log(3.0), 0.0])  # probabilities 3/4 and 1/4
    accuracy, loss = judge(net.eval(), data)
    assert accuracy == 0.5
    assert loss == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_the_rate_falls_by_a_cosine_over_all_steps_and_goes_on_where_it_was():
    net, data = Net(), colours()
    config = ClassifyConfig(optimizer="sgd", learning_rate=0.1, final_lr_fraction=0.5, batch_size=8)
    generator = torch.Generator()
    seen = []
    trainer = Classifier(config, net, 4)
    record = lambda _: seen.append(trainer.optimizer.param_groups[0]["lr"])  # noqa: E731
    trainer.fit(net, data, batches(40, 8, 2, generator), generator, after=record)
    trainer = Classifier(config, net, 4, done=2)
    trainer.fit(net, data, batches(40, 8, 2, generator), generator, after=record)
    assert seen == pytest.approx([0.05 + 0.05 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])


def test_the_penalty_is_part_of_the_loss():
    net, data = Net(), colours()
    losses = []
    trainer = Classifier(ClassifyConfig(), net, 1)
    generator = torch.Generator()
    trainer.fit(net, data, [torch.arange(4)], generator, lambda: torch.tensor(100.0), losses.append)
    assert losses[0] > 100


def test_a_loss_that_is_not_finite_and_nothing_to_train():
    net, data = Net(), colours()
    trainer = Classifier(ClassifyConfig(), net, 1)
    with pytest.raises(SideAgentsError, match="step 1: the loss became nan; lower learning_rate"):
        trainer.fit(net, data, [torch.arange(4)], torch.Generator(), lambda: torch.tensor(math.nan))
    with pytest.raises(SideAgentsError, match="there is nothing to train"):
        Classifier(ClassifyConfig(), nn.ReLU(), 1)


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
