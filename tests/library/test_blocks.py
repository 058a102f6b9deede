"""The residual block against its equation."""

from __future__ import annotations

import torch
from torch import nn

from sideagents.bases.blocks import BasicBlock


def silent(block: BasicBlock) -> BasicBlock:
    """Make f(x) = 0: only the shortcut is left."""
    nn.init.zeros_(block.bn2.weight)
    return block.eval()


def test_without_a_residual_it_is_the_positive_part_of_its_shortcut() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0, 3.0]).view(1, 1, 2, 2)
    assert torch.equal(silent(BasicBlock(1, 1, 1))(x), x.clamp(min=0))
    halved = silent(BasicBlock(1, 1, 2, nn.AvgPool2d(2)))
    assert torch.equal(halved(x), torch.ones(1, 1, 1, 1))  # (-1 + 0 + 2 + 3) / 4


def test_the_residual_is_two_convolutions_with_a_relu_between() -> None:
    block = BasicBlock(1, 1, 1).eval()
    for conv, centre in ((block.conv1, -2.0), (block.conv2, 3.0)):
        nn.init.zeros_(conv.weight)
        with torch.no_grad():
            conv.weight[0, 0, 1, 1] = centre
    for norm in (block.bn1, block.bn2):
        norm.eps = 0.0
    x = torch.tensor([-1.0, 2.0]).view(1, 1, 1, 2)
    # x = -1: relu(2) = 2, 3 * 2 - 1 = 5; x = 2: relu(-4) = 0, 0 + 2 = 2
    assert torch.equal(block(x).flatten(), torch.tensor([5.0, 2.0]))


def test_names_of_weights_are_those_of_published_networks() -> None:
    names = set(BasicBlock(2, 2, 1).state_dict())
    assert {"conv1.weight", "bn1.weight", "conv2.weight", "bn2.running_var"} <= names
    assert not any(name.startswith("shortcut") for name in names)
