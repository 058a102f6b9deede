"""What a training step keeps in memory, counted by hand."""

from __future__ import annotations

import torch
from torch import nn

from sideagents.core.counting import activation_bytes, weights_of

IMAGES = torch.zeros(2, 3, 4, 4)


def test_a_convolution_keeps_its_input_alone_which_is_not_counted():
    assert activation_bytes(nn.Conv2d(3, 5, 3), IMAGES) == 0


def test_each_layer_s_input_counts_once():
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 3))
    # the ReLU keeps its output, which is the second convolution's input: one tensor (2, 5, 4, 4) of float32
    assert activation_bytes(net, IMAGES) == 2 * 5 * 4 * 4 * 4


def test_what_is_frozen_keeps_nothing_and_nothing_is_changed():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert activation_bytes(net, IMAGES) > 0
    assert not net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert activation_bytes(net.requires_grad_(False), IMAGES) == 0
    assert weights_of(net) == 3 * 5 * 9 + 5 + 10
    assert weights_of(net, trainable_only=True) == 0
