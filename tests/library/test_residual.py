"""Residual adapters: the paper's counts, where they stand, and that fused networks compute the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adapted_networks import adapted, network
from sideagents.adaptation import adapt
from sideagents.adaptation.residual import AdaptedConv, adapted_convs, fuse, unfuse
from sideagents.bases.resnet26 import ResNet26
from sideagents.errors import SideAgentsError


@pytest.mark.parametrize(
    ("kind", "adapters", "trainable", "norms"), [("parallel", 645_216, 678_660, 26), ("series", 689_152, 729_828, 51)]
)
def test_counts_of_resnet_26(kind, adapters, trainable, norms):
    made = adapt(ResNet26(), "residual_adapters", input_size=(64, 64), kind=kind)
    task = made.add_task("a", classes=100)
    assert sum(p.numel() for name, p in task.named_parameters() if "adapter" in name) == adapters
    assert sum(p.numel() for p in made.trainable_parameters()) == trainable
    assert sum(isinstance(part, nn.BatchNorm2d) for part in task.modules()) == norms
    convs = sum(p.numel() for p in made.base.parameters() if p.dim() == 4)
    assert convs == 5_806_944
    assert kind == "series" or adapters * 9 == convs


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("early", range(9)),
        ("mid", range(9, 17)),
        ("late", range(17, 25)),
        ("half", range(0, 25, 2)),
        ("all", range(25)),
    ],
)
def test_placement_in_resnet_26(placement, expected):
    made = adapt(network(), "residual_adapters", input_size=(16, 16), placement=placement)
    made.add_task("a")
    every = [name for name, part in network().named_modules() if isinstance(part, nn.Conv2d)]
    found = [name.removeprefix("encoder.") for name in adapted_convs(made.task("a").net)]
    assert found == [every[i] for i in expected]


def test_fresh_adapters_change_nothing_unless_drawn_as_the_authors_do():
    images = torch.randn(2, 3, 16, 16)
    for kind in ("parallel", "series"):
        made = adapt(network(), "residual_adapters", input_size=(16, 16), kind=kind)
        made.add_task("zero")
        made.add_task("he", init="he")
        made.eval()
        with torch.no_grad():
            assert torch.allclose(made(images, "zero"), made.base(images), atol=1e-6)
            assert not torch.allclose(made(images, "he"), made.base(images), atol=1e-2)


@pytest.mark.parametrize("kind", ["parallel", "series"])
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 6, 3, 1, 1),
        nn.Conv2d(6, 8, 3, 2, 1, bias=False),
        nn.Conv2d(6, 6, 5, 1, 4, dilation=2),
        nn.Conv2d(6, 12, 3, 1, 1, groups=3),
    ],
    ids=str,
)
def test_fused_equals_unfused(kind, conv):
    if kind == "series" and conv.groups > 1:
        pytest.skip("a series adapter mixes all channels, so grouped convolutions get none")
    torch.manual_seed(0)
    layer = AdaptedConv(conv, kind, 0.5, "he")
    images = torch.randn(4, 6, 9, 9)
    for _ in range(3):
        layer(images)  # the norm sees something
    layer.eval()
    with torch.no_grad():
        if isinstance(layer.norm, nn.BatchNorm2d):
            layer.norm.weight.uniform_(0.5, 2.0)
            layer.norm.bias.uniform_(-1.0, 1.0)
        expected = layer(images)
        layer.set_fused(True)
        assert (layer(images) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_whole_network_is_fused_and_unfused():
    made = adapted("residual_adapters")
    net = made.task("dogs").net
    with pytest.raises(SideAgentsError, match=r"call eval\(\) first"):
        fuse(net)
    made.eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected, stored = made(images, "dogs"), made.costs("dogs")["stored"]
        fuse(net)
        fused = made(images, "dogs")
        assert torch.allclose(fused, expected, atol=1e-5)
        assert made.costs("dogs")["stored"] == stored  # fusing is no part of the network
        with pytest.raises(SideAgentsError, match="a fused network does not train: unfuse it first"):
            made.train()(images, "dogs")
        made.eval()
        unfuse(net)
        assert torch.equal(made(images, "dogs"), expected)


def test_dropout_reads_the_adapter_s_input_alone():
    torch.manual_seed(0)
    layer = AdaptedConv(nn.Conv2d(4, 4, 3, 1, 1, bias=False), "parallel", 1.0, "he").train()
    images = torch.randn(1, 4, 5, 5)
    assert torch.equal(layer(images), layer.conv(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "paralel"}, "option kind must be 'parallel' or 'series', got 'paralel'"),
        ({"placement": "middle"}, "option placement must be 'all', 'early', 'mid', 'late' or 'half', got 'middle'"),
        ({"init": "ones"}, "option init must be 'zero' or 'he', got 'ones'"),
        ({"layers": "laier1"}, "has 25 convolutions that can have one; layers='laier1' matches none of them"),
        ({"layers": "["}, "is no regular expression"),
    ],
)
def test_options_that_cannot_be(options, message):
    made = adapt(network(), "residual_adapters", input_size=(16, 16))
    with pytest.raises(SideAgentsError, match=message):
        made.add_task("a", **options)


def test_a_network_of_1x1_convolutions_has_no_place_for_them():
    made = adapt(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), "residual_adapters", input_size=(8, 8))
    with pytest.raises(SideAgentsError, match="has 0 convolutions that can have one; none fits"):
        made.add_task("a")


def test_a_strided_stem_of_three_channels_trains():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3), nn.ReLU(), nn.Conv2d(16, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    adapted = adapt(net, "residual_adapters", input_size=(160, 160), init="he")
    adapted.add_task("a", classes=2)
    images = torch.rand(2, 3, 160, 160)
    for _ in range(3):  # oneDNN's strided 1x1 convolution on few channels has crashed here
        adapted(images).sum().backward()
    conv = adapted_convs(adapted.task("a").net)["encoder.0"]
    narrow = torch.nn.functional.conv2d(images, conv.adapter.weight, stride=2)
    torch.testing.assert_close(conv(images), conv.conv(images) + narrow, atol=1e-5, rtol=1e-5)
    adapted.eval()
    expected = adapted(images)
    fuse(adapted.task("a").net)
    torch.testing.assert_close(adapted(images), expected, atol=1e-5, rtol=1e-5)


def test_what_is_fused_moves_with_the_network():
    conv = AdaptedConv(nn.Conv2d(3, 4, 3, padding=1), "parallel", 0.0, "he").eval()
    images = torch.rand(1, 3, 8, 8)
    expected = conv(images)
    conv.set_fused(True)
    torch.testing.assert_close(conv.double()(images.double()), expected.double(), atol=1e-5, rtol=1e-5)
