"""What every method of adaptation must keep to, one table for all of them: a new method is picked up by itself."""

from __future__ import annotations

import copy
import threading
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from adapted_networks import CLASSES, VARIANTS, adapted, network, train, variant
from sideagents.adaptation import ADAPTATIONS, Adaptation, Adapted, adapt
from sideagents.core.base import FrozenBase
from sideagents.errors import CheckpointError, SideAgentsError

NEEDS_PEFT = {"lora", "ia3"}


def _methods() -> list[object]:
    missing = find_spec("peft") is None
    skip = pytest.mark.skipif(missing, reason="PEFT is not installed (the `nlp` extra)")
    names = [pytest.param(name, marks=skip) if name in NEEDS_PEFT else name for name in ADAPTATIONS.names()]
    return [*names, *VARIANTS]


@pytest.fixture(params=_methods(), scope="module")
def case(request: pytest.FixtureRequest) -> tuple[str, Adapted, torch.Tensor]:
    """A method, a network with two tasks of which one is trained, and images."""
    made = adapted(request.param)
    train(made, "dogs")
    return request.param, made, torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def test_training_a_task_changes_it_and_no_other(case: tuple[str, Adapted, torch.Tensor]) -> None:
    method, made, images = case
    fresh = adapted(method).eval()
    with torch.no_grad():
        assert torch.equal(made(images, "cats"), fresh(images, "cats"))
        assert not torch.equal(made(images, "dogs"), fresh(images, "dogs"))


def test_the_base_is_frozen(case: tuple[str, Adapted, torch.Tensor]) -> None:
    method, made, _ = case
    fresh = adapted(method)
    assert made.base.fingerprint == fresh.base.fingerprint  # no weight, no statistic has moved
    frozen = {id(p) for p in made.base.parameters()}
    assert not any(p.requires_grad or p.grad is not None for p in made.base.parameters())
    assert not any(id(p) in frozen for task in CLASSES for p in made.trainable_parameters(task))
    stored = made.adaptation.stored(made.task("dogs").net)
    assert not any(id(tensor) in frozen for tensor in stored.values())
    assert not any(part.training for part in made.train().base.encoder.modules())
    made.eval()


def test_every_trained_weight_is_in_one_group(case: tuple[str, Adapted, torch.Tensor]) -> None:
    _, made, _ = case
    grouped = [id(p) for group in made.parameter_groups("dogs", lr=0.1) for p in group["params"]]
    assert sorted(grouped) == sorted({id(p) for p in made.trainable_parameters("dogs")})


def test_a_saved_task_comes_back_to_the_bit(case: tuple[str, Adapted, torch.Tensor], tmp_path) -> None:
    method, made, images = case
    made.save_task("dogs", tmp_path / "dogs")
    kind = variant(method)[0]
    other = adapt(network(), kind, input_size=(16, 16))
    other.load_task(tmp_path / "dogs", "again")
    other.eval()
    with torch.no_grad():
        assert torch.equal(other(images), made(images, "dogs"))
    stranger = adapt(network(seed=7), kind, input_size=(16, 16))
    with pytest.raises(CheckpointError, match="was saved for base 'ResNet26' with fingerprint"):
        stranger.load_task(tmp_path / "dogs")
    assert stranger.tasks == ()


def _require_export(made: Adapted) -> None:
    if type(made.adaptation).export is Adaptation.export:
        pytest.skip(f"{made.method} has no plain form")


def test_the_exported_network_computes_the_same_without_our_layers(case: tuple[str, Adapted, torch.Tensor]) -> None:
    _, made, images = case
    _require_export(made)
    with torch.no_grad():
        expected = made(images, "dogs")
        plain = made.export("dogs")
        assert torch.allclose(plain(images), expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(made(images, "dogs"), expected)  # exporting changed nothing
    ours = {type(part).__name__ for part in plain.modules() if type(part).__module__.startswith("sideagents")}
    assert ours <= {"ResNet26", "BasicBlock", "_Shortcut"}  # the user's own network, here
    active = sum(p.numel() for p in plain.parameters()) - made.costs("dogs")["readout"]
    assert made.costs("dogs")["active"] == active


def test_an_exported_network_is_a_copy(case: tuple[str, Adapted, torch.Tensor]) -> None:
    _, made, images = case
    _require_export(made)
    fingerprint = made.base.fingerprint
    with torch.no_grad():
        expected = made(images, "dogs")
        made.train()
        plain = made.export("dogs").train()
        assert made.task("dogs").readout.training
        made.eval()
        for parameter in plain.parameters():
            parameter.add_(1.0)
        plain(images)
        assert torch.equal(made(images, "dogs"), expected)
    assert made.base.fingerprint == fingerprint


def test_the_base_is_out_of_reach_of_who_moves_the_whole(case: tuple[str, Adapted, torch.Tensor]) -> None:
    made = copy.deepcopy(case[1])
    fingerprint = made.base.fingerprint
    frozen = {tensor.data_ptr() for tensor in made.base.parameters()}
    assert not any(tensor.data_ptr() in frozen for tensor in made.state_dict().values())  # not in a checkpoint
    other = adapted(case[0])
    other.load_state_dict(made.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval()(case[2], "dogs"), made(case[2], "dogs"))
    made.requires_grad_(True)
    assert not any(parameter.requires_grad for parameter in made.base.parameters())

    @torch.no_grad()
    def initialise(module: nn.Module) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.fill_(0.5)

    made.apply(initialise)  # as SB3 does
    assert made.base.fingerprint == fingerprint
    made.half()
    assert made.base.fingerprint == fingerprint


def test_threads_with_different_tasks_do_not_meet(case: tuple[str, Adapted, torch.Tensor]) -> None:
    _, made, images = case
    with torch.no_grad():
        expected = {task: made(images, task) for task in CLASSES}
    wrong: list[str] = []

    def run(task: str, named: bool) -> None:
        with torch.no_grad():
            for _ in range(10):
                made.set_task(task)
                if not torch.equal(made(images, task) if named else made(images), expected[task]):
                    wrong.append(task)

    threads = [threading.Thread(target=run, args=(task, named)) for task in CLASSES for named in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_recomputed_forward_pass_means_the_task_that_it_meant_at_first(
    case: tuple[str, Adapted, torch.Tensor], use_reentrant: bool
) -> None:
    """Gradients of two tasks, each checkpointed under its own, are those without: none lands in another task."""
    made, seen = copy.deepcopy(case[1]).train(), case[2]
    tracked = [part for part in made.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]

    def gradients(checkpointed: bool) -> dict[str, torch.Tensor | None]:
        made.zero_grad()
        torch.manual_seed(0)
        images = seen.clone().requires_grad_(True)  # use_reentrant=True asks for it
        total = torch.zeros(())
        for task in CLASSES:
            made.set_task(task)
            made.set_progress(0.3, task=task)
            outputs = checkpoint(made, images, use_reentrant=use_reentrant) if checkpointed else made(images)
            total = total + outputs.square().sum()
        made.set_task("cats")
        total.backward()
        return {name: p.grad for name, p in made.named_parameters()}

    plain = gradients(checkpointed=False)
    again = gradients(checkpointed=True)
    assert any(gradient is not None for name, gradient in plain.items() if "task_dogs" in name)
    for name, expected in plain.items():
        found = again[name]
        assert (found is None) == (expected is None), name
        if found is not None and expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert all(bool(torch.isfinite(part.running_mean).all()) for part in tracked)


def test_copies_and_compiled_networks_compute_the_same(case: tuple[str, Adapted, torch.Tensor]) -> None:
    _, made, images = case
    copied = copy.deepcopy(made)
    compiled = torch.compile(made, backend="eager")
    with torch.no_grad():
        for task in CLASSES:
            expected = made(images, task)
            assert torch.equal(copied(images, task), expected)
            assert torch.equal(compiled(images, task), expected)
            made.set_task(task)
            assert torch.equal(copy.deepcopy(made)(images), expected)
            assert torch.equal(compiled(images), expected)
    shared = {p.data_ptr() for p in copied.base.parameters()}
    assert shared.isdisjoint(p.data_ptr() for p in made.base.parameters())
    # a copy's views share the copy's base
    inside = {id(p) for p in copied.parameters() if not p.requires_grad}
    assert inside <= {id(p) for p in copied.base.parameters()} | {id(p) for p in copied.buffers()} | {
        id(p) for task in CLASSES for p in copied.adaptation.stored(copied.task(task).net).values()
    }


def test_costs_add_up(case: tuple[str, Adapted, torch.Tensor], capsys: pytest.CaptureFixture[str]) -> None:
    method, made, _ = case
    rows = made.summary(batch=2)
    assert variant(method)[0] in capsys.readouterr().out
    row = rows["dogs"]
    readout = 32 * 4 + 4
    assert row["readout"] == readout
    assert row["trainable"] == sum(p.numel() for p in made.trainable_parameters("dogs")) - readout
    assert row["multiple"] == 1 + row["stored"] / row["base"]
    # without weights of its own a method keeps the code for the readout's gradient, else more
    assert (row["activation_bytes"] <= 2 * 2 * 32 * 4) == (row["trainable"] == 0)
    assert row["peak_bytes"] > row["activation_bytes"]


def test_bases_that_own_their_normalisation_are_adapted_too(case: tuple[str, Adapted, torch.Tensor]) -> None:
    method, *_ = case
    base = FrozenBase(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU()), "grid", (16, 16), (0.5, 0.4, 0.3))
    kind, options = variant(method)
    made = adapt(base, kind, **options)
    made.add_task("a", classes=2)
    made.eval()
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        found = made(images)
        assert found.shape == (2, 2)
        if type(made.adaptation).export is Adaptation.export:
            return
        plain = made.export("a")
        assert torch.allclose(plain(images.float() / 255), found, atol=1e-6)
    assert not any(type(part).__module__.startswith("sideagents") for part in plain.modules())
    weights = sum(p.numel() for p in base.parameters()) + 4 * 2 + 2 + 3 + 3  # the readout, and the normalisation
    assert sum(tensor.numel() for tensor in plain.state_dict().values()) >= weights


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 3, 16), r"ResNet26 takes float32 images \(B, 3, H, W\), got torch.float32 \(2, 3, 16\)"),
        (torch.rand(2, 1, 16, 16), r"got torch.float32 \(2, 1, 16, 16\)"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "takes float32 images"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.float64), "takes float32 images"),
        (torch.rand(2, 3, 2, 2), "ResNet26 of 16x16 images cannot read those of 2x2: "),
    ],
)
def test_other_images_are_one_clear_line(case: tuple[str, Adapted, torch.Tensor], images, message: str) -> None:
    with pytest.raises(SideAgentsError, match=message):
        case[1].train()(images, "dogs")
    case[1].eval()
