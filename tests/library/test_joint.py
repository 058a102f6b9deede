"""Joint training: the base learns what tasks share, the one that was given stays, own layers become fewer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sideagents.adaptation import Adapted, adapt
from sideagents.adaptation import joint as module
from sideagents.adaptation.joint import JointConfig, fit_jointly, fit_shared, shared_base
from sideagents.adaptation.taps import gates
from sideagents.bases import load_base
from sideagents.core.base import FrozenBase
from sideagents.data.images import LabelledImages
from sideagents.errors import SideAgentsError
from sideagents.train.probe import linear_probe
from sideagents.train.readouts import make_readout
from sideagents.train.supervised import totals

CONFIG = JointConfig(epochs=8, batch_size=16, learning_rate=5e-3)


def colours(seed: int, count: int = 64) -> LabelledImages:
    """Three classes by colour, other colours for each seed."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    shades = torch.randint(30, 226, (3, 3, 1, 1), generator=generator)
    noise = torch.randint(-20, 20, (count, 3, 32, 32), generator=generator)
    return LabelledImages((shades[labels] + noise).clamp(0, 255).to(torch.uint8), labels, ("a", "b", "c"))


DATA = {"one": colours(0), "two": colours(1, 40)}


def adapted(method: str = "taps", **options: object) -> Adapted:
    torch.manual_seed(0)
    found = adapt(load_base("cifar:resnet20"), method, **options)
    for name in DATA:
        found.add_task(name, classes=3)
    return found


def accuracy(found: Adapted, name: str) -> float:
    return totals(lambda images, _: found(images, name), DATA[name]).accuracy


def test_base_and_tasks_learn_together_and_the_given_base_stays() -> None:
    before = adapted()
    prints = before.base.fingerprint
    joint = fit_jointly(before, DATA, CONFIG)
    assert all(accuracy(joint, name) > 0.9 for name in DATA)
    assert before.base.fingerprint == prints
    assert joint.base.fingerprint != prints
    assert joint.base.name.endswith("-joint")
    assert not any(p.requires_grad or p.grad is not None for p in joint.base.parameters())
    shared = {id(p) for p in joint.base.parameters()}
    for name in DATA:  # one set of weights below both tasks
        assert not shared.isdisjoint({id(p) for p in joint.task(name).parameters()})
    assert not joint.training


def test_a_high_price_leaves_no_layer_of_its_own_and_the_base_learns_all_the_same(tmp_path) -> None:
    joint = fit_jointly(adapted(lam=50.0), DATA, CONFIG)
    assert not any(gate.active for name in DATA for gate in gates(joint.task(name).net).values())
    assert all(accuracy(joint, name) > 0.6 for name in DATA)
    joint.save_task("one", tmp_path)
    again = adapt(joint.base, "taps", lam=50.0)
    again.load_task(tmp_path)
    image = DATA["one"].images[:4].float() / 255
    assert torch.equal(again.eval()(image), joint(image, "one"))
    with pytest.raises(SideAgentsError, match="was saved for base"):
        adapt(load_base("cifar:resnet20"), "taps").load_task(tmp_path)


def test_one_network_with_many_readouts_becomes_a_base() -> None:
    base = load_base("cifar:resnet20")
    found = shared_base(base, DATA, CONFIG)
    assert (found.out_shape, found.mean, found.name) == (base.out_shape, base.mean, f"{base.name}-shared")
    assert found.fingerprint != base.fingerprint
    assert not any(p.requires_grad for p in found.parameters())

    def probe(frozen: FrozenBase) -> float:
        codes = {name: frozen(data.images) for name, data in DATA.items()}
        scores = [linear_probe(codes[n], DATA[n].labels, codes[n], DATA[n].labels, 3, l2=1.0) for n in DATA]
        return sum(scores) / len(scores)

    assert probe(found) >= max(0.9, probe(base))
    short = CONFIG.model_copy(update={"epochs": 1})
    assert shared_base(base, DATA, short).fingerprint == shared_base(base, DATA, short).fingerprint


def test_readouts_of_a_shared_network_are_kept(tmp_path) -> None:
    found = fit_shared(load_base("cifar:resnet20"), DATA, CONFIG)
    assert found.tasks == tuple(DATA)
    # BatchNorm's statistics are those of both tasks, where each mini-batch in training had its own
    assert all(accuracy(found, name) > 0.5 for name in DATA)
    images = DATA["one"].images[:4].float() / 255
    with torch.no_grad():
        assert torch.allclose(found.export("one")(images), found(images, "one"), atol=1e-5)
        found.save_task("one", tmp_path)
        again = adapt(found.base, "features")
        again.load_task(tmp_path, readout=make_readout(found.base.out_shape, DATA["one"].outputs))
        assert torch.equal(again.eval()(images), found(images, "one"))


def test_tasks_learned_jointly_keep_their_readouts_in_files_and_exports(tmp_path) -> None:
    joint = fit_jointly(adapted(), DATA, CONFIG.model_copy(update={"epochs": 2}))
    images = DATA["one"].images[:4].float() / 255
    again = adapt(joint.base, "taps")
    with torch.no_grad():
        for name in DATA:
            again.load_task(joint.save_task(name, tmp_path / name))
            assert torch.equal(again.eval()(images, name), joint(images, name))
            assert torch.allclose(joint.export(name)(images), joint(images, name), atol=1e-5)


@pytest.mark.parametrize("form", ["fit_jointly", "fit_shared"])
def test_images_go_where_the_networks_are(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.device | None] = []

    def loss(*given: Any, device: torch.device | None = None) -> torch.Tensor:
        seen.append(device)
        return torch.zeros((), requires_grad=True)

    monkeypatch.setattr(module, "example_loss", loss)
    config = CONFIG.model_copy(update={"epochs": 1})
    if form == "fit_jointly":
        fit_jointly(adapted(), DATA, config)
    else:
        fit_shared(load_base("cifar:resnet20"), DATA, config)
    assert set(seen) == {torch.device("cpu")}  # the base's, said in every call


def test_each_task_is_differentiated_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    backward, loss = torch.Tensor.backward, LabelledImages.loss
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: events.append("backward") or backward(self))
    monkeypatch.setattr(LabelledImages, "loss", lambda *args: events.append("loss") or loss(*args))
    shared_base(load_base("cifar:resnet20"), DATA, CONFIG.model_copy(update={"epochs": 1}))
    assert events == ["loss", "backward"] * (len(DATA) * 4)


def test_batchnorm_of_the_new_base_is_the_mean_of_the_tasks() -> None:
    joint = fit_jointly(adapted(), DATA, CONFIG.model_copy(update={"epochs": 2}))
    own = joint.base.encoder.bn1
    others = [joint.task(name).net.encoder.bn1 for name in DATA]
    for key in ("weight", "bias", "running_mean", "running_var"):
        torch.testing.assert_close(getattr(own, key), sum(getattr(o, key) for o in others) / 2)


def test_the_price_waits_for_its_warm_up() -> None:
    config = CONFIG.model_copy(update={"epochs": 2, "penalty_warmup": 2, "learning_rate": 1e-3})
    joint = fit_jointly(adapted(lam=50.0), DATA, config)
    assert all(gate.active for name in DATA for gate in gates(joint.task(name).net).values())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SideAgentsError, match=r"data is of \['one'\], the tasks are \['one', 'two'\]"):
        fit_jointly(adapted(), {"one": DATA["one"]}, CONFIG)
    with pytest.raises(SideAgentsError, match="method 'finetune' does not share the base's parameters"):
        fit_jointly(adapted("finetune"), DATA, CONFIG)
    lowered = adapt(load_base("cifar:resnet20", dtype="bfloat16"), "taps")
    lowered.add_task("one", classes=3)
    with pytest.raises(SideAgentsError, match=r"computes in torch\.bfloat16; load it without dtype"):
        fit_jointly(lowered, {"one": DATA["one"]}, CONFIG)
    with pytest.raises(SideAgentsError, match="there is no task to learn"):
        shared_base(load_base("cifar:resnet20"), {}, CONFIG)
