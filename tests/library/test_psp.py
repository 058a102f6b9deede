"""Superposition: keys by hand, every task as pretrained, shared weights, own BatchNorms, no task but the view's own."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from sideagents import SideAgentsError, load_base
from sideagents.core.trainable import TrainableBase
from sideagents.lifelong.psp import KEYS, superpose
from sideagents.storage.tensors import load_tensors, save_tensors

KINDS = KEYS.names()


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.GroupNorm(2, 6),
        nn.Conv2d(6, 6, 3, 2, groups=2),
        nn.Flatten(),
        nn.Linear(6 * 3 * 3, 5),
    )
    model[1].running_mean.normal_()
    model[1].weight.data.uniform_(0.5, 2.0)
    return model


def pictures(seed=0):
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def disturbed(views, seed=0):
    """What tasks have stored, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in views.named_parameters():
        if name.endswith("original"):
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    return views


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", range(3))
def test_every_fresh_task_computes_what_the_pretrained_network_did(kind, task):
    for mode in (False, True):
        model = network()
        views = superpose(model, 3, kind)
        assert torch.equal(views.train(mode).view(task)(pictures()), model.train(mode)(pictures()))
        assert torch.equal(views.view(task).state_dict()["1.running_mean"], model[1].running_mean)


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_a_superposed_base_is_its_own_for_every_task(kind):
    base = load_base("curvature")
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    views = superpose(TrainableBase(base, "frozen"), 3, kind).eval()
    own = base(images).flatten()
    for task in range(3):
        with torch.no_grad():
            code = views(images, task).flatten()
        assert float(torch.corrcoef(torch.stack([own, code]))[0, 1]) == pytest.approx(1.0, abs=1e-6)


def test_a_fresh_task_after_a_trained_one_starts_near_the_pretrained_network():
    """Another task's difference comes under a foreign key: a small perturbation, not another network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    views = superpose(model, 2)
    inputs, targets = torch.randn(64, 256), torch.randn(64, 10)
    optimizer = torch.optim.Adam([p for p in views.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        (views(inputs, 0) - targets).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert float((views(inputs, 0) - targets).square().mean()) < 0.1 * float(targets.square().mean())
        fresh = torch.stack([model(inputs).flatten(), views(inputs, 1).flatten()])
    assert float(torch.corrcoef(fresh)[0, 1]) > 0.5  # 0 where only the first key holds the pretrained weights


@pytest.mark.parametrize("kind", KINDS)
def test_the_pretrained_network_stays_as_it_was(kind):
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    views = superpose(model, 2, kind)
    views.view(1)(pictures()).sum().backward()
    assert type(model[0]) is nn.Conv2d
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_binary_weights_by_hand():
    model = nn.Linear(3, 2, bias=False)
    views = superpose(model, 4, seed=1)
    signs = [view.parametrizations.weight[0].signs for view in views.views]
    assert all(key.shape == (3,) and bool((key.abs() == 1).all()) for key in signs)
    assert all(torch.equal(view.weight, model.weight) for view in views.views)  # nothing is stored yet
    stored = disturbed(views).view(0).parametrizations.weight.original
    for view, key in zip(views.views, signs, strict=True):
        assert torch.equal(view.weight, model.weight + stored * key)
    # a convolution's signs cover channels and kernel, and are the same for all outputs
    conv = superpose(nn.Conv2d(4, 5, 3), 2).view(1)
    assert conv.parametrizations.weight[0].signs.shape == (4, 3, 3)


def test_rotations_are_orthogonal_and_turn_the_input():
    model = nn.Conv2d(6, 2, 3, bias=False)
    views = disturbed(superpose(model, 2, "rotation"))
    keys = [view.parametrizations.weight[0].turn for view in views.views]
    for key in keys:
        torch.testing.assert_close(key @ key.T, torch.eye(6), rtol=0, atol=1e-5)
    images = torch.randn(1, 6, 5, 5)
    stored = views.view(0).parametrizations.weight.original
    turned = torch.einsum("ij,bjhw->bihw", keys[1], images)  # (W C) x = W (C x)
    expected = model(images) + nn.functional.conv2d(turned, stored)
    torch.testing.assert_close(views.view(1)(images), expected, rtol=1e-4, atol=1e-5)


def test_rotations_prefer_no_direction():
    """Plain QR has a diagonal of fixed sign on average; Haar's mean is 0."""
    turns = [view.parametrizations.weight[0].turn for view in superpose(nn.Linear(2, 1), 400, "rotation").views]
    assert torch.stack(turns).mean(0).abs().max() < 0.15


def test_complex_weights_by_hand():
    model = nn.Linear(3, 2, bias=False)
    views = disturbed(superpose(model, 2, "complex"))
    phases = [torch.view_as_complex(view.parametrizations.weight[0].phase) for view in views.views]
    torch.testing.assert_close(phases[1].abs(), torch.ones(3))
    stored = views.view(0).parametrizations.weight.original
    assert stored.shape == (2, 3, 2)
    for view, phase in zip(views.views, phases, strict=True):
        torch.testing.assert_close(view.weight, model.weight + (torch.view_as_complex(stored) * phase).real)


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_buffers_from_the_seed_and_never_trained(kind):
    views = superpose(network(), 3, kind, seed=7)
    keys = {name: tensor.clone() for name, tensor in views.named_buffers() if name.split(".")[-2] == "0"}
    assert len(keys) == 3 * 4
    assert not any(name.endswith(("signs", "turn", "phase")) for name, _ in views.named_parameters())
    assert not any(key.requires_grad for key in keys.values())
    optimizer = torch.optim.SGD([p for p in views.parameters() if p.requires_grad], lr=0.1)
    for mode in (True, False):
        views.train(mode).view(1)(pictures()).square().sum().backward()
        optimizer.step()
    again, other = superpose(network(1), 5, kind, seed=7), superpose(network(), 3, kind, seed=8)
    for name, key in keys.items():
        assert torch.equal(views.get_buffer(name), key)
        assert torch.equal(again.get_buffer(name), key)  # whatever the weights and the number of tasks
    assert not all(torch.equal(other.get_buffer(name), key) for name, key in keys.items())
    tasks = [[keys[name] for name in keys if name.startswith(f"views.{task}.")] for task in range(3)]
    assert not any(torch.equal(one, two) for one, two in zip(tasks[1], tasks[2], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_train_and_eval_compute_alike_but_for_batchnorm(kind):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    views = disturbed(superpose(model, 2, kind))
    assert torch.equal(views.train().view(1)(pictures()), views.eval().view(1)(pictures()))
    assert torch.equal(views(pictures(), 1), views.view(1)(pictures()))
    assert not torch.allclose(views(pictures(), 1), views(pictures(), 0))


@pytest.mark.parametrize("kind", KINDS)
def test_all_tasks_train_the_same_parameters_and_their_own_batchnorm(kind):
    model = network()
    views = superpose(model, 3, kind)
    shared = [{name: id(p) for name, p in view.named_parameters() if not name.startswith("1.")} for view in views.views]
    assert shared[0] == shared[1] == shared[2]
    norm = sum(p.numel() for p in model[1].parameters())
    stored = sum(m.weight.numel() for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    extra = stored if kind == "complex" else 0
    trained = sum(p.numel() for p in views.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for p in model.parameters()) + 2 * norm + extra
    assert sum(p.numel() for p in views.parameters()) == trained + stored  # the pretrained weights once, frozen
    views.view(2)(pictures()).sum().backward()
    reached = [name for name, p in views.named_parameters() if p.grad is not None]
    assert not any(name.startswith("views.1.") for name in reached)
    assert {name for name in reached if name.startswith("views.2.")} == {"views.2.1.weight", "views.2.1.bias"}
    assert views.views[0][0].parametrizations.weight.original.grad is not None
    means = [view[1].running_mean for view in views.views]
    assert torch.equal(means[0], model[1].running_mean)
    assert not torch.equal(means[2], means[0])


def test_three_tasks_are_held_where_one_network_would_forget():
    """Random linear maps of 256 inputs: the error of each stays that of superposed noise, not of another map."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(256, 4, bias=False)
    nn.init.zeros_(model.weight)
    views = superpose(model, 3)
    targets = [torch.randn(4, 256, generator=generator) for _ in range(3)]
    stored = views.view(0).parametrizations.weight.original
    with torch.no_grad():
        for view, target in zip(views.views, targets, strict=True):
            stored += view.parametrizations.weight[0].store(target)
        for view, target in zip(views.views, targets, strict=True):
            overlap = (view.weight * target).sum() / target.square().sum()
            assert 0.8 < float(overlap) < 1.2


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradients_of_recomputed_passes_are_of_their_own_tasks(use_reentrant):
    views = disturbed(superpose(network(), 2)).train()

    def gradients(run):
        views.zero_grad()
        images = pictures().requires_grad_(True)
        sum(run(images, task).square().sum() for task in range(2)).backward()
        return [p.grad.clone() for p in views.parameters() if p.grad is not None]

    again = gradients(lambda images, task: checkpoint(views, images, task, use_reentrant=use_reentrant))
    for found, expected in zip(again, gradients(views), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_two_threads_give_what_one_gives(kind):
    views = disturbed(superpose(network(), 2, kind)).eval()
    images = pictures()

    def work(task):
        return [views.view(task)(images).detach() for _ in range(50)]

    alone = [work(task)[0] for task in range(2)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(work, range(2)))
    for task in range(2):
        assert all(torch.equal(output, alone[task]) for output in together[task])


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_holds_each_shared_tensor_once(kind, tmp_path):
    views = disturbed(superpose(network(), 3, kind, seed=1)).eval()
    state = views.state_dict()
    for part in ("original", "start"):
        assert len([name for name in state if name.endswith(part)]) == 4
    assert sum(p.numel() for name, p in state.items() if name in dict(views.named_parameters())) == sum(
        p.numel() for p in views.parameters()
    )
    save_tensors(tmp_path / "psp.safetensors", state)
    other = superpose(network(1), 3, kind, seed=2).eval()
    holder = nn.ModuleDict({"psp": other})
    holder.load_state_dict({f"psp.{name}": t for name, t in load_tensors(tmp_path / "psp.safetensors").items()})
    for task in range(3):
        assert torch.equal(other.view(task)(pictures()), views.view(task)(pictures()))
    assert holder.state_dict().keys() == {f"psp.{name}" for name in state}
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("views.0.")})


def test_a_copy_shares_among_its_own_views_only():
    views = disturbed(superpose(network(), 2))
    copied = copy.deepcopy(views)
    originals = [view[0].parametrizations.weight.original for view in copied.views]
    assert originals[0] is originals[1]
    assert originals[0] is not views.view(0)[0].parametrizations.weight.original
    assert torch.equal(copied.eval()(pictures(), 1), views.eval()(pictures(), 1))


def test_the_first_layer_may_be_left_out():
    model = network()
    views = superpose(model, 2, skip_first=True)
    assert torch.equal(views.view(1)[0].weight, model[0].weight)
    assert type(views.view(1)[0]) is nn.Conv2d
    assert views.view(0)[0].weight is views.view(1)[0].weight


def test_frozen_weights_stay_frozen():
    model = network()
    model[0].weight.requires_grad_(False)
    views = superpose(model, 2)
    assert not views.view(1)[0].parametrizations.weight.original.requires_grad
    assert any(isinstance(part, _BatchNorm) for part in views.view(1).modules())


def test_wrong_networks_and_tasks_are_one_clear_line():
    with pytest.raises(SideAgentsError, match="unknown superposition key 'binry', did you mean 'binary'"):
        superpose(network(), 2, "binry")
    with pytest.raises(SideAgentsError, match="at least one task, got 0"):
        superpose(network(), 0)
    with pytest.raises(SideAgentsError, match="with a Linear or Conv2d layer; this one has none"):
        superpose(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), 2)
    with pytest.raises(SideAgentsError, match="besides the first, which skip_first leaves out"):
        superpose(nn.Linear(2, 2), 2, skip_first=True)
    for task in (-1, 2):
        with pytest.raises(SideAgentsError, match=f"has tasks 0 to 1, got {task}"):
            superpose(network(), 2).view(task)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with pytest.raises(SideAgentsError, match="'0' and '1' share one weight"):
        superpose(tied, 2)
    with pytest.raises(SideAgentsError, match="weight of '' is parametrized already"):
        superpose(parametrizations.weight_norm(nn.Linear(3, 3)), 2)
