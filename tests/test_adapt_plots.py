"""Pictures of adapted networks and of sequences of tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from test_adapt_invariants import adapted

from sideagents.adapt.plots import own_layers, plot_own_layers
from sideagents.adapt.taps import gates
from sideagents.errors import SideAgentsError
from sideagents.lifelong.plots import plot_sequence


def width_of(path: Path) -> int:
    with Image.open(path) as picture:
        return picture.size[0]


def test_layers_of_a_task_s_own(tmp_path):
    made = adapted("taps")
    with torch.no_grad():
        gates(made.task("dogs").net)["encoder.conv1"].score.fill_(0.0)
    table = own_layers(made)
    assert table["dogs"]["conv1"] is False
    assert sum(table["dogs"].values()) == 24
    assert all(table["cats"].values())
    assert width_of(plot_own_layers(made, tmp_path / "plots" / "layers.png")) > 300
    with pytest.raises(SideAgentsError, match="tasks adapted by taps"):
        own_layers(adapted("features"))


def test_a_sequence(tmp_path):
    result = {
        "method": "finetune",
        "tasks": ["0-1", "2-3"],
        "accuracy": [[0.9, None], [0.5, 0.8]],
        "measure": "accuracy",
        "mean_accuracy": 0.65,
    }
    assert width_of(plot_sequence(result, tmp_path / "accuracy.png")) > 300
