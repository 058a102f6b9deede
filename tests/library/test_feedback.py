"""The side that reads its base's activations: one pass of the base, nothing of it kept, sizes as told."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sideagents import SideAgentsError, SideTuned, load_base, trainable_copy
from sideagents.adaptation import adapt
from sideagents.core.counting import weights_of
from sideagents.core.feedback import FeedbackSide
from sideagents.core.side import make_side
from sideagents.errors import BaseError
from sideagents.train.memory import activation_bytes

BASES = {"cifar:resnet44": (32, 25_424), "curvature": (64, None)}


def images(size: int) -> Tensor:
    return torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", BASES)
def test_code_and_activations_of_one_pass(name: str) -> None:
    base = load_base(name)
    size, weights = BASES[name]
    code, taps = base.tapped(images(size))
    assert torch.equal(code, base(images(size)))
    assert not any(tap.requires_grad for tap in (code, *taps))
    torch.manual_seed(0)
    side = make_side("feedback", base.out_shape, 3, (size, size), base=base)
    assert weights is None or weights_of(side) == weights
    assert {id(p) for p in side.parameters()}.isdisjoint({id(p) for p in base.parameters()})
    assert not any(key.startswith("base") for key in side.state_dict())
    net = SideTuned(base, side).eval()
    passes = []
    first = next(m for m in base.encoder.modules() if isinstance(m, nn.Conv2d))
    hook = first.register_forward_hook(lambda *_: passes.append(1))
    found = net(images(size))
    hook.remove()
    assert len(passes) == 1
    torch.testing.assert_close(found, 0.5 * code + 0.5 * side(images(size)))
    assert torch.equal(net(images(size), base_code=code), found)


def test_it_learns_and_keeps_nothing_of_the_base() -> None:
    base = load_base("cifar:resnet44")
    torch.manual_seed(0)
    net = SideTuned(base, make_side("feedback", base.out_shape, 3, (32, 32), base=base))
    kept = activation_bytes(net, images(32))
    whole = activation_bytes(nn.Sequential(copy.deepcopy(base.encoder).requires_grad_(True)), images(32))
    assert kept < 0.1 * whole
    net(images(32)).square().mean().backward()
    assert all(p.grad is not None for p in net.side.parameters())
    assert all(p.grad is None for p in base.parameters())


def test_a_task_of_the_library(tmp_path) -> None:
    adapted = adapt("cifar:resnet44", side="feedback")
    adapted.add_task("a", classes=3)
    adapted.save_task("a", tmp_path)
    again = adapt("cifar:resnet44", side="feedback")
    again.load_task(tmp_path)
    assert torch.equal(again.eval()(images(32)), adapted.eval()(images(32)))
    copied = copy.deepcopy(adapted)
    assert torch.equal(copied(images(32)), adapted(images(32)))


def test_a_side_reads_the_base_it_was_made_for_and_no_other() -> None:
    base, other = load_base("curvature"), load_base("curvature")
    side = make_side("feedback", base.out_shape, 3, (64, 64), base=base)
    for wrong in (other, trainable_copy(base)):
        with pytest.raises(SideAgentsError, match="reads activations of the frozen base it was made for"):
            SideTuned(wrong, side)
    with pytest.raises(SideAgentsError, match="at that base's size"):
        SideTuned(base, side, input_size=(32, 32))
    with pytest.raises(SideAgentsError, match="base_code must be"):
        SideTuned(base, side)(images(64), base_code=torch.zeros(4, 1))
    assert make_side("feedback", (28, 8, 8), 3, (64, 64), base=base)(images(64)).shape == (4, 28, 8, 8)


def test_bases_without_activations_are_refused() -> None:
    base = load_base("pixels")
    with pytest.raises(BaseError, match="its encoder shows no inner activations"):
        base.tapped(images(64))
    with pytest.raises((SideAgentsError, BaseError), match="shows no inner activations"):
        make_side("feedback", base.out_shape, 3, (64, 64), base=base)
    with pytest.raises(SideAgentsError, match="a width that 8 divides"):
        FeedbackSide(load_base("curvature"), (8, 8, 8), width=20)
