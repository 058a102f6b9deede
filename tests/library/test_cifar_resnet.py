"""CIFAR's residual networks as bases."""

from __future__ import annotations

import pytest
import torch

from shared_data import shared_data
from sideagents.bases import list_bases, load_base
from sideagents.bases.cifar_resnet import CifarResNet
from sideagents.errors import BaseError
from sideagents.storage.tensors import save_tensors


def test_resnet_44_has_the_published_weights_and_shapes():
    net = CifarResNet(44)
    assert sum(p.numel() for p in net.parameters()) == 657_936
    assert [tuple(tap.shape[1:]) for tap in net.taps(torch.zeros(1, 3, 32, 32))] == [
        (16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)
    ]  # fmt: skip
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 64)
    with pytest.raises(BaseError, match="6 n \\+ 2"):
        CifarResNet(45)


def test_the_shortcut_skips_pixels_and_pads_channels_on_both_sides():
    block = CifarResNet(20).layer2[0].eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 16, 4, 4)
    out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert torch.equal(out[:, :8], torch.zeros(1, 8, 2, 2))


def test_by_name_with_a_file_whose_classifier_is_left_out(tmp_path):
    tensors = {f"module.{name}": t for name, t in CifarResNet(20).state_dict().items()}
    tensors["module.linear.weight"] = torch.zeros(10, 64)
    save_tensors(tmp_path / "net.safetensors", tensors)
    base = load_base("cifar:resnet20", weights=tmp_path / "net.safetensors")
    assert base.out_shape == (64,)
    assert base.mean == pytest.approx((0.485, 0.456, 0.406))
    assert torch.equal(base.encoder.conv1.weight, tensors["module.conv1.weight"])
    assert "cifar:resnet44" in {row["name"] for row in list_bases()}
    with pytest.raises(BaseError, match="unknown base 'cifar:resnet45'"):
        load_base("cifar:resnet45")
    with pytest.raises(BaseError, match="does not fit CifarResNet"):
        load_base("cifar:resnet44", weights=tmp_path / "net.safetensors")


@pytest.mark.parametrize("name", ["resnet44-cifar.safetensors", "resnet44-cifar.pth"])
def test_the_published_weights_load(name):
    base = load_base("cifar:resnet44", weights=shared_data(f"checkpoints/{name}"))
    assert sum(p.numel() for p in base.parameters()) == 657_936
