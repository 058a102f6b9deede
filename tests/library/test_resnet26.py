"""ResNet-26 of the residual adapters."""

from __future__ import annotations

import torch
from torch import nn

from sideagents.bases.resnet26 import ResNet26, resnet26_base
from sideagents.core.feedback import FeedbackSide


def test_weights_and_shapes():
    net = ResNet26(100)
    assert sum(p.numel() for p in net.parameters() if p.dim() == 4) == 5_806_944
    assert sum(isinstance(part, nn.Conv2d) for part in net.modules()) == 25
    assert sum(isinstance(part, nn.BatchNorm2d) for part in net.modules()) == 26
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 100)
    assert ResNet26()(torch.zeros(1, 3, 72, 72)).shape == (1, 256)
    assert ResNet26(factor=2.0)(torch.zeros(1, 3, 32, 32)).shape == (1, 512)


def test_the_shortcut_of_a_halving_block_averages_and_pads_with_zeros():
    block = ResNet26().layer2[0].eval()
    nn.init.zeros_(block.bn2.weight)  # the convolutions add nothing
    x = torch.rand(1, 64, 4, 4)
    out = block(x)
    assert torch.allclose(out[:, :64], nn.functional.avg_pool2d(x, 2))
    assert torch.equal(out[:, 64:], torch.zeros(1, 64, 2, 2))


def test_the_stem_has_no_non_linearity():
    net = ResNet26(factor=0.25).eval()
    seen = []
    net.layer1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(torch.randn(1, 3, 16, 16))
    assert (seen[0] < 0).any()


def test_its_activations_make_the_code_and_a_side_can_read_them():
    net = ResNet26(factor=0.25).eval()
    images = torch.rand(2, 3, 32, 32)
    taps = net.taps(images)
    assert [tuple(tap.shape[1:]) for tap in taps] == [(8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    assert torch.equal(net.from_taps(taps), net(images))
    base = resnet26_base("resnet26")
    assert FeedbackSide(base, base.out_shape)(images).shape == (2, 256)
