"""TAPS: which layers have gates, what the straight-through gradient is, what a closed layer costs."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from adapted_networks import adapted, network, train
from sideagents.adaptation import adapt
from sideagents.adaptation.taps import START, TAU, Gated, gates
from sideagents.bases.timm_base import import_timm
from sideagents.errors import BaseError, CheckpointError


def test_one_gate_by_hand():
    gate = Gated(torch.tensor([2.0, 3.0]), TAU, START)
    base = torch.tensor([2.0, 3.0])
    upstream = torch.tensor([5.0, 7.0])
    (gate(base) @ upstream).backward()
    assert gate.delta.grad.tolist() == [5.0, 7.0]
    assert gate.score.grad.item() == 0.0  # <dL/dw, delta> with delta = 0
    gate.zero_grad()
    with torch.no_grad():
        gate.delta.copy_(torch.tensor([1.0, -2.0]))
        gate.score.fill_(0.05)
    assert not gate.active
    out = gate(base)
    assert torch.equal(out, base)
    (out @ upstream).backward()
    assert gate.delta.grad.tolist() == [0.0, 0.0]  # closed: the difference rests
    assert gate.score.grad.item() == 5.0 - 14.0  # but the score still hears of it
    assert gate.eval()(base) is base
    with torch.no_grad():
        gate.score.fill_(TAU)  # at the threshold it is open
    assert gate.active
    assert gate(base).tolist() == [3.0, 1.0]


def test_the_penalty_is_lambda_over_the_real_number_of_gates():
    made = adapted("taps")
    net = made.task("dogs").net
    assert len(gates(net)) == 25
    assert made.penalty("dogs").item() == pytest.approx(0.25 * START)
    with torch.no_grad():
        next(iter(gates(net).values())).score.fill_(-0.4)
    assert made.penalty("dogs").item() == pytest.approx(0.25 * (24 * START + 0.4) / 25)


def test_layers_are_chosen_by_an_expression():
    made = adapt(network(), "taps", input_size=(16, 16), layers=r"layer3\.")
    made.add_task("a", classes=2)
    names = list(gates(made.task("a").net))
    assert len(names) == 8
    assert all("layer3" in name for name in names)


def test_a_file_holds_open_layers_only_and_closed_ones_are_the_base(tmp_path):
    made = adapted("taps")
    train(made, "dogs")
    net = made.task("dogs").net
    whole = made.costs("dogs")["stored"]
    found = list(gates(net).values())
    with torch.no_grad():
        for gate in found[:20]:
            gate.score.fill_(0.0)
    images = torch.randn(2, 3, 16, 16)
    made.eval()
    with torch.no_grad():
        before = made(images, "dogs")
    saved = sum(gate.delta.numel() for gate in found[:20])
    assert made.costs("dogs")["stored"] == whole - saved
    made.save_task("dogs", tmp_path)
    assert sum(name.endswith(".delta") for name in load_file(tmp_path / "task.safetensors")) == 5
    made.remove_task("dogs")
    made.load_task(tmp_path)
    made.eval()
    with torch.no_grad():
        assert torch.equal(made(images, "dogs"), before)
    plain = made.export("dogs")
    layer = plain.get_submodule("0.layer1.0.conv1")
    assert type(layer) is nn.Conv2d
    assert torch.equal(layer.weight, made.base.encoder.layer1[0].conv1.weight)


def test_a_file_without_an_open_layer_s_difference_is_refused(tmp_path):
    made = adapted("taps")
    made.save_task("dogs", tmp_path)
    tensors = load_file(tmp_path / "task.safetensors")

    del tensors["encoder.conv1.parametrizations.weight.0.delta"]
    save_file(tensors, tmp_path / "task.safetensors")
    with pytest.raises(CheckpointError, match=r"'encoder\.conv1\.parametrizations\.weight\.0\.delta' is missing"):
        made.load_task(tmp_path, "again")


@pytest.mark.parametrize(("model", "count"), [("resnet50", 53), ("densenet121", 120), ("vit_small_patch16_224", 48)])
def test_gates_of_the_paper_s_networks(model, count):
    try:
        timm = import_timm()
    except BaseError:
        pytest.skip("timm is not installed (the `vision` extra)")
    made = adapt(timm.create_model(model), "taps")
    made.add_task("a", classes=2)
    assert len(gates(made.task("a").net)) == count


def test_attention_of_torch_s_own_is_gated_too():
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.fc = nn.Linear(8, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = self.patches(images).flatten(2).transpose(1, 2)
            return self.fc(self.attention(x, x, x, need_weights=False)[0].mean(1))

    made = adapt(Attend(), "taps", input_size=(8, 8))
    made.add_task("a", classes=2)
    assert set(gates(made.task("a").net)) == {"encoder.patches", "encoder.attention", "encoder.attention.out_proj"}
    images = torch.randn(2, 3, 8, 8)
    made(images).sum().backward()
    assert all(gate.delta.grad is not None for gate in gates(made.task("a").net).values())
    made.eval()
    with torch.no_grad():
        assert torch.allclose(made.export("a")(images), made(images), atol=1e-6)
