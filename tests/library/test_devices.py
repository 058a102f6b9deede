"""Devices: what a configuration may say, and that nothing of a training step stays behind on the CPU.

There need be no GPU: torch's meta device has tensors without numbers, which do not compute with those of the CPU.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from optional_packages import methods_of
from sideagents.adaptation import adapt
from sideagents.bases import load_base
from sideagents.core.base import FrozenBase
from sideagents.core.merge import AlphaMerge
from sideagents.core.sidetuned import SideTuned
from sideagents.data.image_set import ImageSet
from sideagents.data.images import LabelledImages
from sideagents.data.targets import TARGETS
from sideagents.lifelong.ewc import EWC
from sideagents.lifelong.learners import LEARNERS, make_learner
from sideagents.lifelong.lifelong_config import LifelongConfig
from sideagents.lifelong.stream import StreamTask
from sideagents.machine import devices
from sideagents.machine.devices import device_here, device_name, device_of, has_device, missing_device, synchronize
from sideagents.train.distil import encode_all
from sideagents.train.supervised import example_loss, totals

META = torch.device("meta")
METHODS: dict[str, dict[str, Any]] = {
    "features": {}, "finetune": {}, "taps": {}, "residual_adapters": {}, "sidetune": {"side": "copy"},
}  # fmt: skip


def test_what_is_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
    assert has_device("auto")
    assert has_device("cpu")
    assert missing_device("auto") == ""
    assert missing_device("cuda:1") == "device: torch finds no cuda:1 here (device: auto takes what there is)"
    assert device_here("auto") == torch.device("cpu")
    assert device_here("cuda") == torch.device("cpu")
    assert capsys.readouterr().out == "torch finds no cuda here: computing on the CPU\n"
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 1)
    assert (has_device("cuda:0"), has_device("cuda:1")) == (True, False)
    assert device_here("auto") == torch.device("cuda")


def test_a_gpu_is_named_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(devices.torch.cuda, "synchronize", waited.append)
    synchronize(torch.device("cpu"))
    assert waited == []
    synchronize(torch.device("cuda", 1))
    assert waited == [torch.device("cuda", 1)]
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
    assert device_name() == "cpu"
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices.torch.cuda, "get_device_name", lambda: "a GPU")
    assert device_name() == "a GPU"


def test_where_a_network_is() -> None:
    assert device_of(load_base("pixels")) == torch.device("cpu")
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")


@pytest.fixture
def numberless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what reads numbers: tensors on the meta device have none."""
    for module in ("sideagents.core.base", "sideagents.core.trainable"):
        monkeypatch.setattr(f"{module}.unit_images", lambda images, channels, owner: images.float())
    monkeypatch.setattr(FrozenBase, "_own_type", lambda self, images: nullcontext())
    for name in ("mean", "std"):
        monkeypatch.setattr(FrozenBase, name, (0.5,) * 3)
    monkeypatch.setattr(AlphaMerge, "forward", lambda self, base, side, alpha: alpha * base + (1 - alpha) * side)
    monkeypatch.setattr(SideTuned, "alpha_value", lambda self: 0.5 if self.side is not None else 1.0)


def require_there(loss: torch.Tensor, trained: nn.Module) -> None:
    assert loss.device.type == "meta"
    loss.backward()
    parameters = [p for p in trained.parameters() if p.requires_grad]
    assert parameters
    assert {p.device.type for p in parameters} == {"meta"}


def colours() -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return LabelledImages(images, torch.arange(8) % 2, ("a", "b"))


@pytest.mark.parametrize("late", [False, True], ids=["task first", "device first"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("numberless")
def test_a_training_step_of_adapt_happens_where_the_network_is(method: str, late: bool) -> None:
    made = adapt("cifar:resnet20", method, **METHODS[method])
    made = made.to("meta") if late else made
    made.add_task("task", classes=2, images=None if late else {"mean": (0.4,) * 3})
    made.to("meta").train()
    assert made.base.device == made.task("task").base.device == META
    loss = example_loss(
        lambda images, _: made(images), colours(), "flip_crop", torch.arange(4), torch.Generator(), device=META
    )
    require_there(loss + made.penalty(), made.task("task"))


@pytest.mark.parametrize("method", methods_of(LEARNERS, ["scratch"]))  # fresh weights cannot be copied to nowhere
@pytest.mark.usefixtures("numberless")
def test_a_training_step_of_lifelong_happens_where_the_network_is(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LifelongConfig.model_validate(
        {"method": method, "base": "cifar:resnet20", "norm_groups": 8, "ewc": {"fisher": "empirical", "samples": 2}}
    )
    tasks = [StreamTask(number, str(number), colours(), colours()) for number in (0, 1)]
    learner = make_learner(config, load_base(config.base), tasks)
    held: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(EWC, "remember", lambda self, found: held.append(dict(found)))
    for task in (0, 1):
        learner.begin(task)
        learner.to("meta").train()
        trained = learner.trained(task)

        def answer(images: torch.Tensor, index: torch.Tensor, task: int = task) -> torch.Tensor:
            return learner(images, task)

        loss = example_loss(answer, tasks[task].train, "flip", torch.arange(4), torch.Generator(), device=META)
        require_there(loss + learner.penalty(), trained)
        learner.end(task, torch.Generator())
    assert {t.device.type for found in held for t in found.values()} == ({"meta"} if method == "ewc" else set())


@pytest.mark.parametrize(("name", "shape"), [("depth", (4, 1, 8, 8)), ("normals", (4, 3, 8, 8))])
def test_the_loss_of_maps_is_computed_where_the_answers_are(name: str, shape: tuple[int, ...]) -> None:
    target = TARGETS[name]
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    raw = torch.zeros(shape, dtype=torch.uint16 if name == "depth" else torch.uint8)
    data = ImageSet(target, images, raw, torch.ones(4, 1, 8, 8, dtype=torch.bool), [("b", i, 0) for i in range(4)])
    answers = torch.zeros(shape, device="meta", requires_grad=True)
    assert data.loss(answers, torch.arange(4), torch.tensor([True, False, True, False])).device.type == "meta"


def test_codes_and_judgements_return_to_the_cpu() -> None:
    base = load_base("cifar:resnet20")
    codes = encode_all(base, colours().images)
    assert codes.device.type == "cpu"
    assert totals(lambda images, _: base(images)[:, :2], colours(), device=torch.device("cpu")).asked == 8
