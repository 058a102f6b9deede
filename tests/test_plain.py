"""The side-tuning paper's methods on any network."""

from __future__ import annotations

import pytest
import torch
from test_adapt_invariants import network
from torch import nn

from sideagents.adapt import adapt
from sideagents.bases.resnet26 import ResNet26
from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError


def test_from_scratch_a_known_architecture_draws_as_it_always_does():
    """He's initialisation by fan-out: the standard deviation is the root of 2 / (9 x outputs)."""
    torch.manual_seed(0)
    made = adapt(ResNet26(factor=0.5), "scratch", input_size=(16, 16))
    made.add_task("a")
    weight = made.task("a").net.encoder.layer3[2].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert not torch.equal(weight, made.base.encoder.layer3[2].conv1.weight)


def test_from_scratch_any_other_network_is_drawn_anew():
    base = FrozenBase(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "grid", (8, 8))
    made = adapt(base, "scratch")
    made.add_task("a")
    assert not torch.equal(made.task("a").net.encoder[0].weight, base.encoder[0].weight)
    with pytest.raises(SideAgentsError, match="has no weights that could be drawn anew"):
        adapt("pixels", "scratch").add_task("a")


def test_a_side_may_be_an_object():
    made = adapt(network(), "sidetune", input_size=(16, 16))
    side = nn.Sequential(nn.Flatten(), nn.Linear(768, 32))
    assert made.add_task("a", side=side, alpha=0.25).net.side is side
    assert made.task("a").net.alpha_value() == 0.25
