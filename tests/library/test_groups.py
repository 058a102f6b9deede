"""Optimizer groups: what is in which, and what is left to the optimizer."""

from __future__ import annotations

import torch
from torch import nn

from sideagents.core.alpha import FixedAlpha, LearnedAlpha
from sideagents.core.groups import parameter_groups


class Model(nn.Module):
    """Named so that no group can be told from a name alone."""

    def __init__(self, share: nn.Module) -> None:
        super().__init__()
        self.alphabet = nn.Linear(3, 2)
        self.inner = nn.ModuleDict({"share": share})
        self.held = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def names(groups: list[dict[str, object]]) -> list[object]:
    return [group["name"] for group in groups]


def test_each_trainable_parameter_is_in_its_group() -> None:
    model = Model(LearnedAlpha())
    weights, vectors, alpha = parameter_groups(model, 0.1, 0.2, 0.3, decay_vectors=False)
    assert weights == {"name": "weights", "params": [model.alphabet.weight], "lr": 0.1, "weight_decay": 0.3}
    assert vectors == {"name": "vectors", "params": [model.alphabet.bias], "lr": 0.1, "weight_decay": 0.0}
    assert alpha["params"] == list(model.inner["share"].parameters())
    assert (alpha["name"], alpha["lr"], alpha["weight_decay"]) == ("alpha", 0.2, 0.0)
    together, _ = parameter_groups(model, 0.1, 0.2, 0.3)
    assert together["params"] == [model.alphabet.weight, model.alphabet.bias]


def test_what_is_not_given_is_the_optimizers_own() -> None:
    groups = parameter_groups(Model(LearnedAlpha()))
    assert [sorted(group) for group in groups] == [["name", "params"], ["name", "params", "weight_decay"]]
    optimizer = torch.optim.AdamW(groups, lr=0.5, weight_decay=0.25)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.5, 0.25), (0.5, 0.0)]
    assert [g["lr"] for g in parameter_groups(Model(LearnedAlpha()), 0.1)] == [0.1, 0.1]


def test_no_group_is_empty() -> None:
    assert names(parameter_groups(Model(FixedAlpha(0.5)), 0.1)) == ["weights"]
    assert names(parameter_groups(LearnedAlpha(), 0.1)) == ["alpha"]
    assert parameter_groups(FixedAlpha(0.5), 0.1) == []


class Gated(nn.Module):
    """Has one alpha among its own parameters, and parts that have none."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.gate = nn.Parameter(torch.zeros(4))
        self.bias = nn.Parameter(torch.zeros(4))

    def alphas(self) -> list[nn.Parameter]:
        return [self.gate]


def test_alphas_among_the_parameters_of_a_module() -> None:
    model = Gated()
    weights, vectors, alpha = parameter_groups(nn.Sequential(model), 0.1, 0.2, 0.3, decay_vectors=False)
    assert weights["params"] == [model.linear.weight]
    assert [id(p) for p in vectors["params"]] == [id(model.bias), id(model.linear.bias)]
    assert alpha == {"name": "alpha", "params": [model.gate], "lr": 0.2, "weight_decay": 0.0}
