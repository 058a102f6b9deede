"""Which task a call means that names none: in threads, in copies, and where it is computed again in a backward pass."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import checkpoint as module
from torch.utils.checkpoint import checkpoint

from sideagents.adaptation.choice import Choice
from sideagents.errors import SideAgentsError


class Scales(nn.Module):
    """y = w_task x: the gradient of a weight is the sum of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = Choice()
        self.weights = nn.ParameterDict({name: nn.Parameter(torch.tensor(1.0)) for name in "abc"})

    def forward(self, x: Tensor) -> Tensor:
        # two products, so that something is saved for the backward pass
        return self.weights[str(self.choice.get())] * x * 1.0

    def gradients(self) -> dict[str, float]:
        return {name: float(p.grad) for name, p in self.weights.items() if p.grad is not None}


def test_the_name_of_a_thread_is_its_own() -> None:
    choice = Choice()
    assert choice.get() is None
    choice.set("a")
    seen: list[str | None] = []

    def run() -> None:
        seen.append(choice.get())
        choice.set("b")
        seen.append(choice.get())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert (seen, choice.get()) == (["a", "b"], "a")
    assert pickle.loads(pickle.dumps(choice)).get() == "a"
    choice.forget("a")
    choice.forget("b")
    assert choice.get() is None


@pytest.mark.parametrize(("use_reentrant", "nested"), [(True, False), (False, False), (False, True)])
def test_what_is_computed_again_means_what_it_meant(use_reentrant: bool, nested: bool) -> None:
    net, x = Scales(), torch.ones(2, requires_grad=True)

    def inner(given: Tensor) -> Tensor:
        return checkpoint(net, given, use_reentrant=use_reentrant) if nested else net(given)

    def both(given: Tensor) -> Tensor:
        first = inner(given)
        net.choice.set("b")  # inside: played again with the rest
        return first + inner(3 * given)

    net.choice.set("a")
    total = checkpoint(both, x, use_reentrant=use_reentrant).sum()
    net.choice.set("c")
    total = total + checkpoint(net, 10 * x, use_reentrant=use_reentrant).sum()
    net.choice.set("b")
    total.backward(retain_graph=not use_reentrant)
    assert net.gradients() == {"a": 2.0, "b": 6.0, "c": 20.0}
    if not use_reentrant:  # a second pass through the same graph
        total.backward()
        assert net.gradients() == {"a": 4.0, "b": 12.0, "c": 40.0}


def test_a_forward_pass_that_cannot_be_told_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = Scales(), torch.ones(2, requires_grad=True)
    net.choice.set("a")
    monkeypatch.setattr(module, "__file__", "another checkpoint")
    total = checkpoint(net, x, use_reentrant=True).sum()
    net.choice.set("b")
    with pytest.raises(SideAgentsError, match=r"which task\? a forward pass is computed again in the backward pass"):
        total.backward()
    assert net.gradients() == {}


def test_compiled_calls_know_the_name() -> None:
    net = Scales()
    compiled: Any = torch.compile(net, backend="eager")
    for name in "ab":
        net.choice.set(name)
        compiled(torch.ones(2)).sum().backward()
    assert net.gradients() == {"a": 2.0, "b": 2.0}
