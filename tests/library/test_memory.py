"""What a training step keeps in memory, counted by hand."""

from __future__ import annotations

import torch
from torch import nn

from sideagents.core.counting import weights_of
from sideagents.train.memory import activation_bytes, peak_bytes, training_peak_bytes

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


def test_the_peak_of_a_training_step_by_hand() -> None:
    net = nn.Sequential(nn.Linear(100, 50, bias=False), nn.ReLU(), nn.Linear(50, 10, bias=False))
    inputs = torch.rand(20, 100)
    # forward: h and relu(h) of 20 x 50, out of 20 x 10; h is not needed any more when it ends. Backward, at its peak:
    # relu(h), the gradients of the second weight (10 x 50), of relu(h), of h (20 x 50 each); or then that of h and the
    # first weight's (50 x 100)
    hidden, weights = 20 * 50, (50 * 100, 10 * 50)

    def step() -> None:
        net(inputs).sum().backward()

    found = peak_bytes(step, [*net.parameters(), inputs])
    assert 4 * (sum(weights) + hidden) <= found <= 4 * (sum(weights) + 3 * hidden)
    assert peak_bytes(lambda: inputs.view(10, 200)[1:], [inputs]) == 0  # views cost nothing
    assert peak_bytes(lambda: [inputs + 1 for _ in range(3)], [inputs]) == 3 * 4 * 2000
    assert peak_bytes(lambda: (inputs + 1).sum() + (inputs + 2).sum(), [inputs]) == 4 * (2000 + 2)


def test_the_peak_of_a_network_leaves_no_trace() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5)).eval()
    net(IMAGES).sum().backward()
    gradient, state = net[0].weight.grad, net[1].running_mean.clone()
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert training_peak_bytes(net, IMAGES) > activation_bytes(net, IMAGES) > 0
    assert torch.equal(torch.rand(1), drawn)
    assert net[0].weight.grad is gradient
    assert torch.equal(net[1].running_mean, state)
    assert not net.training
    frozen = net.requires_grad_(False)
    assert training_peak_bytes(frozen, IMAGES) > 0  # nothing to differentiate, but activations come and go
