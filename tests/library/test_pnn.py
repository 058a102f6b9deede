"""Progressive nets: a new column changes no older one, laterals by hand, sizes as the paper's code has them."""

import copy

import pytest
import torch
from torch import nn

from sideagents import SideAgentsError
from sideagents.bases.encoder import MidLevelEncoder
from sideagents.core.counting import weights_of
from sideagents.core.merge import MERGES
from sideagents.core.side import FCN4
from sideagents.lifelong.pnn import Lateral, ProgressiveCopy, ProgressiveFCN4, ProgressiveNet


def stages():
    """Two stages with BatchNorm and dropout, which show at once whether a column is in eval mode."""
    return [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 5, 1), nn.ReLU()),
    ]


def pictures(size=9, seed=0):
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(seed))


def taps(*channels, size=8):
    torch.manual_seed(1)
    return [torch.randn(4, channel, size, size, requires_grad=True) for channel in channels]


def train(net, task, base=(), steps=3):
    optimizer = torch.optim.SGD(net.columns[task].parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    net.train()
    for step in range(steps):
        optimizer.zero_grad()
        net(pictures(seed=step), task, base).square().mean().backward()
        optimizer.step()
    return net.eval()


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("dense", [True, False])
def test_training_a_column_leaves_the_earlier_ones_bitwise(dense):
    net = ProgressiveNet(stages, (None, 7, None), dense=dense)
    base = taps(7)
    outputs, states = [], []
    for task in range(3):
        assert net.add_column() == task
        train(net, task, base)
        for earlier in range(task):
            assert torch.equal(net(pictures(), earlier, base), outputs[earlier])
            state = net.columns[earlier].state_dict()
            assert all(torch.equal(tensor, states[earlier][name]) for name, tensor in state.items())
        outputs.append(net(pictures(), task, base).detach())
        states.append(snapshot(net.columns[task]))
    assert all(tap.grad is None for tap in base)


def test_earlier_columns_are_frozen_detached_and_in_eval_mode():
    net = ProgressiveNet(stages).train()
    net.add_column()
    assert net.columns[0].training
    assert all(parameter.requires_grad for parameter in net.parameters())
    net.add_column()
    for _ in range(2):
        assert not any(part.training for part in net.columns[0].modules())
        assert all(part.training for part in net.columns[1].modules())
        assert not any(parameter.requires_grad for parameter in net.columns[0].parameters())
        net.eval().train()
        net.columns[0].train()
    net(pictures(), 1).sum().backward()
    assert all(parameter.grad is None for parameter in net.columns[0].parameters())
    assert all(parameter.grad is not None for parameter in net.columns[1].parameters())


def test_a_column_added_in_eval_mode_is_in_eval_mode():
    net = ProgressiveNet(stages).eval()
    net.add_column()
    assert not any(part.training for part in net.columns[0].modules())


def test_the_first_stage_reads_no_other_column():
    net = ProgressiveNet(stages)
    for _ in range(3):
        net.add_column()
    assert [len(laterals) for laterals in net.columns[2].from_columns] == [0, 2, 2]
    assert [len(laterals) for laterals in net.columns[0].from_columns] == [0, 0, 0]


def test_laterals_join_before_norm_and_non_linearity():
    """Column 1 by hand, from column 0's activations and the base's."""
    net = ProgressiveNet(stages, (None, 7, None)).eval()
    net.add_column()
    net.add_column()
    base = taps(7)[0]
    old, new = net.columns
    h1, h2 = old.stages[0](pictures()), None
    h2 = old.stages[1][0](h1) + old.from_base["1"](base, (3, 3))
    h2 = old.stages[1][2](old.stages[1][1](h2))
    g1 = new.stages[0](pictures())
    g2 = new.stages[1][0](g1) + new.from_columns[1][0](h1, (3, 3)) + new.from_base["1"](base, (3, 3))
    g2 = new.stages[1][2](new.stages[1][1](g2))
    g3 = torch.relu(new.stages[2][0](g2) + new.from_columns[2][0](h2, (3, 3)))
    torch.testing.assert_close(net(pictures(), 1, [base]), g3)


def test_a_lateral_by_hand():
    lateral = Lateral(2, 2, 0.5)
    with torch.no_grad():
        lateral.adapter[0].weight.copy_(torch.eye(2)[:, :, None, None])
        lateral.adapter[3].weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]])[:, :, None, None])
    # each channel is a group of its own: rows of -1 and +1 are normed to themselves, whatever the scale
    activation = torch.tensor([[[[-3.0, 3.0]], [[5.0, -5.0]]]])
    expected = torch.tensor([[[[2.0, 1.0]], [[1.0, 0.0]]]])  # relu gives (0, 1) and (1, 0)
    torch.testing.assert_close(lateral(activation, (1, 2)), expected, rtol=1e-4, atol=1e-4)
    wide = activation.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(lateral(wide, (1, 2)), expected, rtol=1e-4, atol=1e-4)
    assert lateral(activation, (3, 5)).shape == (1, 2, 3, 5)
    assert Lateral(4, 4).scale.item() == pytest.approx(0.9)
    assert weights_of(Lateral(16, 32)) == 1 + 16 * 32 + 2 * 32 + 32 * 32


@pytest.mark.parametrize("dense", [True, False])
def test_laterals_join_by_any_merge_exact_at_the_ends_of_alpha(dense):
    def grown(**settings):
        torch.manual_seed(0)
        net = ProgressiveNet(stages, (None, 7, None), dense=dense, **settings).eval()
        net.add_column()
        net.add_column()
        return net

    base = taps(7)
    of_column, of_lateral = (grown(laterals="alpha", laterals_alpha=alpha) for alpha in (0.0, 1.0))
    new = of_column.columns[1]
    x = pictures()
    for stage in new.stages:
        x = stage(x)
    assert torch.equal(of_column(pictures(), 1, base), x)  # the column as if it had no laterals
    lateral = of_lateral.columns[1].from_base["1"]
    assert torch.equal(lateral.joined(torch.full((4, 6, 3, 3), torch.nan), base[0]), lateral(base[0], (3, 3)))
    for name in MERGES.names():
        net = grown(laterals=name).train()
        found = net(pictures(), 1, base)
        assert found.shape == x.shape
        found.square().mean().backward()
        alphas = [p for key, p in net.columns[1].named_parameters() if "alpha" in key]
        assert bool(alphas) == (name == "alpha")
        assert all(p.grad is not None for p in net.columns[1].parameters())
    assert torch.equal(grown()(pictures(), 1, base), grown(laterals="sum")(pictures(), 1, base))
    with pytest.raises(SideAgentsError, match=r"laterals_alpha=0\.5 has no effect on this merge"):
        grown(laterals_alpha=0.5)


def cifar_taps():
    torch.manual_seed(2)
    sizes = ((16, 32), (16, 32), (32, 16), (64, 8))
    return [torch.randn(2, channels, size, size) for channels, size in sizes]


@pytest.mark.parametrize(("stem", "weights"), [(True, 37_428), (False, 36_883)])
def test_cifar_columns_have_the_papers_size(stem, weights):
    net, base = ProgressiveFCN4(stem=stem), cifar_taps()
    for _ in range(3):
        net.add_column()
    assert [weights_of(column) for column in net.columns] == [weights] * 3
    assert net(torch.rand(2, 3, 32, 32), 2, base if stem else base[1:]).shape == (2, 64)


def test_dense_cifar_columns_grow_with_their_number():
    net = ProgressiveFCN4(dense=True)
    for _ in range(3):
        net.add_column()
    assert [weights_of(column) for column in net.columns] == [37_428, 37_428 + 8_419, 37_428 + 2 * 8_419]
    assert net(torch.rand(2, 3, 32, 32), 2, cifar_taps()).shape == (2, 64)


def test_without_laterals_a_cifar_column_is_the_side_net():
    net, side = ProgressiveFCN4(), FCN4()
    net.add_column()
    for stage, own in zip(net.columns[0].stages, (side.conv1, side.conv2, side.conv3, side.conv5), strict=True):
        stage.load_state_dict(own.state_dict())
    for lateral in net.columns[0].from_base.values():
        nn.init.zeros_(lateral.adapter[3].weight)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(net(images, 0, cifar_taps()), side(images))


@pytest.mark.parametrize("dense", [True, False])
def test_a_state_dict_fits_a_net_of_as_many_columns(dense):
    net, other = (ProgressiveNet(stages, (4, None, None), dense=dense).eval() for _ in range(2))
    for one in (net, other):
        one.add_column()
        one.add_column()
    other.load_state_dict(net.state_dict())
    base = taps(4)
    for task in range(2):
        assert torch.equal(other(pictures(), task, base), net(pictures(), task, base))


def test_a_copy_and_another_dtype_keep_columns_frozen():
    net = ProgressiveNet(stages)
    net.add_column()
    net.add_column()
    copied = copy.deepcopy(net).double().train()
    assert not any(part.training for part in copied.columns[0].modules())
    copied.add_column()
    assert copied(pictures().double(), 2).dtype == torch.float64


def test_wrong_settings_are_one_clear_line():
    with pytest.raises(SideAgentsError, match="for each of the 3 stages, got 2"):
        ProgressiveNet(stages, (None, 7))
    for channels in ((), (None, None, None)):
        with pytest.raises(SideAgentsError, match="nothing to read from"):
            ProgressiveNet(stages, channels, dense=False)
    for bad in (nn.Sequential(), nn.Sequential(nn.ReLU()), nn.Conv2d(3, 3, 1)):
        with pytest.raises(SideAgentsError, match=r"stage 1 must be an nn\.Sequential that starts with a Conv2d"):
            ProgressiveNet(lambda bad=bad: [stages()[0], bad])


def test_wrong_calls_are_one_clear_line():
    net = ProgressiveNet(stages, (None, 7, None))
    with pytest.raises(SideAgentsError, match=r"has 0 columns, none for task 0; add_column\(\) first"):
        net(pictures(), 0, taps(7))
    net.add_column()
    for task in (-1, 1):
        with pytest.raises(SideAgentsError, match=f"none for task {task}"):
            net(pictures(), task, taps(7))
    for base, found in ([], r"\[\]"), (taps(6), r"\[6\]"), (taps(7, 7), r"\[7, 7\]"):
        with pytest.raises(SideAgentsError, match=rf"of \[7\] channels, got {found}"):
            net(pictures(), 0, base)


def test_columns_like_the_base_read_what_leaves_its_stages():
    torch.manual_seed(0)
    base = MidLevelEncoder(width=16).eval()
    net = ProgressiveCopy(lambda: copy.deepcopy(base).stages())
    assert net.base_channels == (None, 16, 32, 64)
    net.add_column()
    images = pictures(64)
    activations = [images]
    for stage in base.stages():
        activations.append(stage(activations[-1]))
    assert torch.equal(activations[-1], base(images))  # the stages are the encoder
    for lateral in net.columns[0].from_base.values():
        nn.init.zeros_(lateral.adapter[-1].weight)
    assert torch.allclose(net(images, 0, activations[1:-1]), base(images), atol=1e-5)  # no laterals: a copy
    own = sum(weights_of(Lateral(c, c_out)) for c, c_out in ((16, 32), (32, 64), (64, 8)))
    assert weights_of(net.columns[0]) == weights_of(base) + own
