"""Pictures of adapted networks and of sequences of tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from adapted_networks import adapted
from sideagents.adaptation import adapt
from sideagents.adaptation.adapt_plots import kind_of_layer, own_layers, plot_own_layers, plot_shares, shares_of_own
from sideagents.adaptation.taps import gates
from sideagents.errors import SideAgentsError
from sideagents.lifelong.lifelong_plots import plot_sequence


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


class Block(nn.Module):
    """A layer of attention and an MLP, under the names that timm gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(8, 8), "fc2": nn.Linear(8, 8)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.attn["qkv"](x).chunk(3, dim=-1)
        x = x + self.attn["proj"]((q * k).softmax(-1) * v)
        return x + self.mlp["fc2"](self.mlp["fc1"](x).relu())


def test_layers_by_kind_and_depth(tmp_path):
    flat = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Block(), Block())
    made = adapt(flat, "taps", input_size=(8, 8))
    for name in ("a", "b"):
        made.add_task(name, classes=2)
    with torch.no_grad():
        for layer, gate in gates(made.task("b").net).items():
            gate.score.fill_(1.0 if "qkv" in layer or layer.endswith("4.attn.proj") else 0.0)
    shares = shares_of_own(made)
    assert set(shares["a"].values()) == {1.0}
    assert shares["b"] == {
        "all": 3 / 9,
        "convolution 4x4": 0.0,
        "query, key, value": 1.0,
        "attention projection": 0.5,
        "MLP": 0.0,
        "early third": 1 / 3,
        "middle third": 1 / 3,
        "late third": 1 / 3,
    }
    assert width_of(plot_own_layers(made, tmp_path / "layers.png")) > 300
    assert width_of(plot_shares(made, tmp_path / "shares.png")) > 300
    assert kind_of_layer("self_attention", nn.MultiheadAttention(4, 1)) == "query, key, value"
    assert kind_of_layer("self_attention.out_proj", nn.Linear(4, 4)) == "attention projection"
    assert kind_of_layer("mlp.0", nn.Linear(4, 4)) == "MLP"
    assert kind_of_layer("head", nn.Linear(4, 4)) == "linear"


def test_a_sequence(tmp_path):
    result = {
        "method": "finetune",
        "tasks": ["0-1", "2-3"],
        "accuracy": [[0.9, None], [0.5, 0.8]],
        "measure": "accuracy",
        "mean_accuracy": 0.65,
    }
    assert width_of(plot_sequence(result, tmp_path / "accuracy.png")) > 300
