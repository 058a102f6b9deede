"""Joint compression of adapters: the residual is what the singular values say, beta is shared, gammas learn."""

from __future__ import annotations

import pytest
import torch

from adapted_networks import network
from sideagents.adaptation import Adapted, adapt
from sideagents.adaptation.residual import adapted_convs
from sideagents.adaptation.svd import LowRankAdapter, compress_adapters
from sideagents.errors import SideAgentsError

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def made(tasks: int = 3, **options: object) -> Adapted:
    torch.manual_seed(0)
    result = adapt(network(), "residual_adapters", input_size=(16, 16), init="he", **options)
    for number in range(tasks):
        result.add_task(f"t{number}", classes=2)
    return result.eval()


def test_the_residual_is_the_sum_of_the_squares_cut_off():
    adapted = made()
    place = "encoder.layer2.1.conv1"
    before = [
        adapted_convs(adapted.task(t).net)[place].adapter.weight[:, :, 0, 0].detach().clone() for t in adapted.tasks
    ]
    residuals = compress_adapters(adapted)
    after = [adapted_convs(adapted.task(t).net)[place].adapter.weight[:, :, 0, 0].detach() for t in adapted.tasks]
    squares = sum((a - b).square().sum().item() for a, b in zip(after, before, strict=True))
    assert residuals[place] == pytest.approx(squares, rel=1e-4)
    values = torch.linalg.svdvals(torch.cat(before, dim=1))
    assert residuals[place] == pytest.approx(float(values[8:].square().sum()), rel=1e-4)


def test_beta_is_shared_and_frozen_and_gammas_learn():
    adapted = made()
    compress_adapters(adapted)
    layers = [adapted_convs(adapted.task(t).net)["encoder.layer1.0.conv2"].adapter for t in adapted.tasks]
    assert all(isinstance(layer, LowRankAdapter) for layer in layers)
    assert len({id(layer.beta) for layer in layers}) == 1
    names = [name for name, p in adapted.task("t0").named_parameters() if p.requires_grad and "adapter" in name]
    assert len(names) == 25
    assert all(name.endswith("gamma") for name in names)
    adapted.requires_grad_(True)
    assert not any(layer.beta.requires_grad for layer in layers)  # whatever is switched on
    fresh = {t: adapted(IMAGES, t) for t in adapted.tasks}
    optimizer = torch.optim.SGD(adapted.parameter_groups("t1", lr=0.1))
    adapted.train()
    adapted(IMAGES, "t1").square().sum().backward()
    optimizer.step()
    adapted.eval()
    assert torch.equal(adapted(IMAGES, "t0"), fresh["t0"])
    assert not torch.equal(adapted(IMAGES, "t1"), fresh["t1"])


def test_compressed_networks_are_exported():
    adapted = made()
    compress_adapters(adapted)
    with torch.no_grad():
        plain, expected = adapted.export("t2"), adapted(IMAGES, "t2")
        assert (plain(IMAGES) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_compressed_tasks_are_saved_and_loaded(tmp_path):
    adapted = made()
    compress_adapters(adapted)
    adapted.save_task("t1", tmp_path)
    other = adapt(network(), "residual_adapters", input_size=(16, 16))
    other.load_task(tmp_path)
    assert torch.equal(other.eval()(IMAGES), adapted(IMAGES, "t1"))
    assert not any(name.endswith("beta") and p.requires_grad for name, p in other.named_parameters())


def test_tasks_that_are_loaded_hold_what_they_share_once(tmp_path, capsys):
    adapted = made()
    compress_adapters(adapted)
    adapted.summary(batch=1)
    expected = capsys.readouterr().out.splitlines()[0]
    other = adapt(network(), "residual_adapters", input_size=(16, 16))
    for task in adapted.tasks:
        adapted.save_task(task, tmp_path / task)
        other.load_task(tmp_path / task)
    other.summary(batch=1)
    assert capsys.readouterr().out.splitlines()[0] == expected
    betas = {id(p): p for name, p in other.named_parameters(remove_duplicate=False) if name.endswith("beta")}
    assert len(betas) == 25
    assert not any(beta.requires_grad for beta in betas.values())
    other.eval()
    assert all(torch.equal(other(IMAGES, task), adapted(IMAGES, task)) for task in adapted.tasks)
    apart = made()
    with torch.no_grad():
        for conv in adapted_convs(apart.task("t0").net).values():
            conv.adapter.weight.mul_(2.0)
    compress_adapters(apart)
    apart.save_task("t1", tmp_path / "apart")
    other.load_task(tmp_path / "apart", "apart")  # of another compression: its own beta
    layer = adapted_convs(other.task("apart").net)["encoder.layer1.0.conv2"].adapter
    assert id(layer.beta) not in betas


def test_a_layer_where_it_would_save_nothing_stays():
    adapted = made(2)
    assert compress_adapters(adapted, rank=32) == {}


def test_what_tasks_share_counts_once(capsys):
    adapted = made(9)
    rows = adapted.summary(batch=1)
    before = float(capsys.readouterr().out.split("weights, ")[1].split(" x")[0])
    assert before == pytest.approx(1 + sum(row["multiple"] - 1 for row in rows.values()), abs=0.01)
    compress_adapters(adapted)
    adapted.summary(batch=1)
    after = float(capsys.readouterr().out.split("weights, ")[1].split(" x")[0])
    norms = 9 * 2 * sum(p.numel() for p in adapted.base.parameters() if p.dim() == 1) / rows["t0"]["base"]
    # (T + 1) K / (T C) = 10 / 18 of the adapters' weights, but for stages where C_in is not C_out
    assert (after - 1 - norms) / (before - 1 - norms) == pytest.approx(0.556, abs=0.06)


def test_tasks_without_the_same_adapters_are_refused():
    with pytest.raises(SideAgentsError, match="needs two or more tasks"):
        compress_adapters(made(1))
    adapted = made(2)
    adapted.add_task("odd", classes=2, placement="late")
    with pytest.raises(SideAgentsError, match="at the same places"):
        compress_adapters(adapted)
    with pytest.raises(SideAgentsError, match="plain parallel adapters"):
        compress_adapters(made(2, kind="series"))
