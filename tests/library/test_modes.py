"""Modes that come back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sideagents.core.modes import modes_kept


def mixed() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    net[1][0].eval()
    return net


def test_every_part_gets_its_own_mode_back() -> None:
    net = mixed()
    before = [part.training for part in net.modules()]
    assert before == [True, True, True, False, True]
    with modes_kept(net):
        net.eval()
        assert not any(part.training for part in net.modules())
    assert [part.training for part in net.modules()] == before


def test_after_an_error_too() -> None:
    net = mixed()
    with pytest.raises(RuntimeError, match="cannot be multiplied"), modes_kept(net):
        net.eval()(torch.zeros(1, 3))
    assert [part.training for part in net.modules()] == [True, True, True, False, True]
