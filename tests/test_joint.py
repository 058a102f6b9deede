"""Joint training: the base learns what tasks share, the one that was given stays, own layers become fewer."""

from __future__ import annotations

import pytest
import torch

from sideagents.adapt import Adapted, adapt
from sideagents.adapt.joint import JointConfig, fit_jointly, shared_base
from sideagents.adapt.taps import gates
from sideagents.bases import load_base
from sideagents.data.images import LabelledImages
from sideagents.errors import SideAgentsError
from sideagents.train.supervised import judge

CONFIG = JointConfig(epochs=15, batch_size=16, learning_rate=3e-3)


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
    return judge(lambda images, _: found(images, name), DATA[name]).accuracy


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
    tasks = adapt(found, "taps")
    tasks.add_task("one", classes=3)
    assert tasks(DATA["one"].images[:2].float() / 255).shape == (2, 3)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SideAgentsError, match=r"data is of \['one'\], the tasks are \['one', 'two'\]"):
        fit_jointly(adapted(), {"one": DATA["one"]}, CONFIG)
    with pytest.raises(SideAgentsError, match="method 'finetune' does not share the base's parameters"):
        fit_jointly(adapted("finetune"), DATA, CONFIG)
    with pytest.raises(SideAgentsError, match="there is no task to learn"):
        shared_base(load_base("cifar:resnet20"), {}, CONFIG)
