"""LoRA and IA3 through PEFT: which layers they are in, and what cannot be."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from adapted_networks import network
from sideagents.adaptation import adapt
from sideagents.errors import SideAgentsError

if find_spec("peft") is None:
    pytest.skip("PEFT is not installed (the `nlp` extra)", allow_module_level=True)


def test_networks_whose_layers_have_numbers_for_names():
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
    )
    made = adapt(net, "lora", input_size=(8, 8), rank=2)
    made.add_task("a", classes=3)
    names = {name for name, p in made.task("a").net.named_parameters() if p.requires_grad}
    assert {name for name in names if "lora" in name} == {
        "encoder.0.0.lora_A.default.weight", "encoder.0.0.lora_B.default.weight"
    }  # fmt: skip
    assert {name for name in names if "lora" not in name} == {
        "encoder.0.1.weight", "encoder.0.1.bias", "encoder.1.0.weight", "encoder.1.0.bias"
    }  # fmt: skip


def test_dilated_convolutions_stay_as_they_are():
    made = adapt("curvature", "lora", rank=2)  # of one layer with a dilation
    net = made.add_task("a", classes=3).net
    dilated = [name for name, part in net.named_modules() if isinstance(part, nn.Conv2d) and part.dilation != (1, 1)]
    assert len(dilated) == 1
    assert "lora" not in dilated[0]
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(images), made.base(images))
    with pytest.raises(SideAgentsError, match="matches none of the"):
        adapt("curvature", "lora", layers=dilated[0].split(".", 1)[1] + "$").add_task("b", classes=3)


def test_torch_s_attention_gets_no_adapter_that_is_never_called():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.attention = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2, batch_first=True)
            self.mlp = nn.Linear(8, 8)

        def forward(self, images):
            x = self.embed(images).flatten(2).transpose(1, 2)
            return self.mlp(self.attention(x, x, x)[0]).mean(dim=1)

    made = adapt(Attending(), "lora", input_size=(8, 8), rank=2)
    made.add_task("a", classes=3)
    made(torch.rand(2, 3, 8, 8)).sum().backward()
    trained = dict(made.task("a").net.named_parameters())
    assert all(p.grad is not None for p in trained.values() if p.requires_grad)
    assert {name.split(".")[1] for name in trained if "lora_A" in name} == {"embed", "mlp"}


@pytest.mark.parametrize("method", ["lora", "ia3", "taps", "finetune"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_torch_s_transformer_layers_compute_the_same_in_both_modes(method, activation):
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 16, 4, 4)
            layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, activation=activation, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)

        def forward(self, images):
            return self.encoder(self.embed(images).flatten(2).transpose(1, 2)).mean(dim=1)

    torch.manual_seed(0)
    made = adapt(Patches(), method, input_size=(8, 8))
    made.add_task("a", classes=3)
    images, labels = torch.rand(8, 3, 8, 8), torch.randint(3, (8,))
    optimizer = torch.optim.SGD(made.trainable_parameters(), lr=0.1)
    for _ in range(5):
        nn.functional.cross_entropy(made.train()(images), labels).backward()
        optimizer.step()
    with torch.no_grad():
        expected = made.train()(images)
        torch.testing.assert_close(made.eval()(images), expected)
        torch.testing.assert_close(made.export()(images), expected, atol=1e-5, rtol=1e-5)


def test_layers_are_chosen_by_an_expression():
    made = adapt(network(), "lora", input_size=(16, 16), layers=r"layer3\..*conv1$")
    made.add_task("a")
    found = {name.split(".lora_A")[0] for name, _ in made.task("a").net.named_parameters() if "lora_A" in name}
    assert found == {f"encoder.layer3.{i}.conv1" for i in range(4)}


def test_ia3_s_scales_do_not_decay():
    made = adapt(network(), "ia3", input_size=(16, 16))
    made.add_task("a", classes=2)
    decaying = {
        id(p) for g in made.parameter_groups(lr=0.1, weight_decay=0.5) if g["weight_decay"] for p in g["params"]
    }
    scales = [p for name, p in made.task("a").net.named_parameters() if "ia3" in name]
    assert scales
    assert not any(id(p) in decaying for p in scales)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lora", {"rank": 0}, "rank is at least 1"),
        ("lora", {"dropout": 1.5}, "dropout from 0 to below 1"),
        ("lora", {"layers": "laier"}, "layers='laier' matches none of the 25 linear layers and convolutions"),
        ("ia3", {"layers": "("}, "is no regular expression"),
    ],
)
def test_settings_that_cannot_be(method, options, message):
    with pytest.raises(SideAgentsError, match=message):
        adapt(network(), method, input_size=(16, 16)).add_task("a", **options)


def test_only_low_rank_weights_move_the_output():
    made = adapt(network(), "lora", input_size=(16, 16))
    made.add_task("a")
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(made.eval()(images), made.base(images), atol=1e-6)
