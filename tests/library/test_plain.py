"""The side-tuning paper's methods on any network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adapted_networks import network
from sideagents.adaptation import adapt
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


@pytest.mark.parametrize(("base", "side"), [("curvature", "copy"), ("curvature", "conv"), ("cifar:resnet20", "fcn4")])
def test_a_side_tuned_network_is_exported_without_its_side_s_class(base, side):
    made = adapt(base, "sidetune", side=side)
    task = made.add_task("a", classes=3)
    made.eval()
    for parameter in task.net.side.parameters():  # a copy would say what the base says
        parameter.data.add_(torch.linspace(-0.3, 0.3, parameter.numel()).view_as(parameter))
    images = torch.rand(5, 3, *made.base.input_size)
    with torch.no_grad():
        plain = made.export()
        torch.testing.assert_close(plain(images), made(images), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(plain(images), task.readout(made.base(images)), atol=1e-3)
    found = {type(part).__name__ for part in plain.modules() if type(part).__module__.startswith("sideagents")}
    assert found <= {type(part).__name__ for part in made.base.encoder.modules()}


def test_a_side_inside_its_base_has_no_plain_form():
    made = adapt("cifar:resnet20", "sidetune", side="feedback")
    made.add_task("a", classes=3)
    with pytest.raises(SideAgentsError, match="side FeedbackSide reads the base's activations, so that it has"):
        made.export()


class Forking(nn.Module):
    """A side that decides by what it sees."""

    def forward(self, images):
        code = images.mean(dim=(2, 3)).repeat(1, 11)[:, :32]
        return code if images.sum() > 0 else -code


def test_what_no_graph_can_follow_is_called_as_it_is():
    made = adapt(network(), "sidetune", input_size=(16, 16))
    made.add_task("a", classes=3, side=Forking())
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(made.export()(images), made.eval()(images))
