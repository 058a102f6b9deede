"""A stack of sides: what is below is frozen, its code and its name in the fingerprint count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sideagents import SideAgentsError, SideTuned, load_base, trainable_copy
from sideagents.adaptation import adapt
from sideagents.core.boosting import stacked
from sideagents.core.side import make_side


def images() -> torch.Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_the_stack_by_hand() -> None:
    torch.manual_seed(0)
    first = SideTuned(load_base("curvature"), "conv")
    first.alpha.raw_alpha.data.fill_(1.0)
    expected = first(images()).detach()
    base = stacked(first)
    assert base.name == "curvature+side"
    assert torch.equal(base(images()), expected)
    second = SideTuned(base, "conv")
    torch.testing.assert_close(second(images()), 0.5 * expected + 0.5 * second.side(images()))
    own = {id(p) for p in second.parameters()}
    assert own.isdisjoint({id(p) for p in first.parameters()})  # what is below is not trained
    assert not any(p.requires_grad for p in first.parameters())


def test_a_third_floor_and_the_library(tmp_path) -> None:
    base = load_base("curvature")
    for floor in range(2):
        torch.manual_seed(floor)
        base = stacked(SideTuned(base, "conv"))
    adapted = adapt(base, "sidetune", side="conv")
    adapted.add_task("a", classes=4)
    assert adapted(images()).shape == (3, 4)
    adapted.save_task("a", tmp_path)
    again = adapt(base, "sidetune", side="conv")
    again.load_task(tmp_path)
    assert torch.equal(again.eval()(images()), adapted.eval()(images()))


def test_the_fingerprint_knows_what_is_below() -> None:
    def floors(name: str) -> str:
        torch.manual_seed(0)
        return stacked(SideTuned(load_base(name), "conv"), "stack").fingerprint

    assert floors("curvature") == floors("curvature") != floors("denoising")

    def of(**changes: object) -> str:
        torch.manual_seed(0)
        settings = {"mean": (0.5,), "alpha": 0.5, "dtype": None} | changes
        base = load_base("cifar:resnet20", dtype=settings["dtype"])
        side = make_side("fcn4", (64,), 3, (32, 32), options={"mean": settings["mean"]})
        return stacked(SideTuned(base, side, alpha=settings["alpha"])).fingerprint

    plain = of()
    assert plain == of()
    other = [of(mean=(0.4,)), of(alpha=0.25), of(dtype="bfloat16")]
    assert len({plain, *other}) == 4


def test_a_network_of_the_user_s_own_is_stacked_on_too() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
    adapted = adapt(net, "sidetune", input_size=(64, 64), side="conv")
    adapted.add_task("a")
    found = adapted.eval()(10 * images())
    base = stacked(adapted.task("a").net)
    assert base.raw
    assert torch.equal(base(10 * images()), found)


def test_a_base_that_is_trained_cannot_be_stacked_on() -> None:
    with pytest.raises(SideAgentsError, match="the network trains its base"):
        stacked(SideTuned(trainable_copy(load_base("curvature")), "conv"))
    with pytest.raises(SideAgentsError, match="the side reads images of another size"):
        stacked(SideTuned(load_base("curvature"), "conv", input_size=(32, 32)))
