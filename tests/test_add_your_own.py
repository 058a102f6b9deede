"""The examples of docs/add-your-own.md that add methods: they run as they stand there, on the command line too."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sideagents.adaptation import ADAPTATIONS, Adapted
from sideagents.config import imports
from sideagents.core.merge import MERGES
from sideagents.core.methods import METHODS
from sideagents.lifelong.learners import LEARNERS
from sideagents_envs.task import tasks
from sideagents_policies.agent.runs import load_agent
from sideagents_policies.cli.main import main

PAGE = Path(__file__).parents[1] / "docs" / "add-your-own.md"
REGISTRIES: tuple[Any, ...] = (ADAPTATIONS, LEARNERS, MERGES, METHODS)


def example(title: str) -> str:
    """Return the Python of a section."""
    _, _, section = PAGE.read_text().partition(f"## {title}\n")
    found = re.search(r"^```python\n(.*?)^```$", section, re.M | re.S)
    assert found is not None, title
    return found.group(1)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path; what the test registers and imports is forgotten after it."""
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_targets", dict(registry._targets))
    monkeypatch.setattr(imports, "_imported", [])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_methods", raising=False)
    return tmp_path


def words(cifar: Path, *more: str) -> list[str]:
    return [f"data={cifar}", "base=cifar:resnet20", "base_weights=null", "threads=1", *more, "--json", "result.json"]


@pytest.mark.parametrize("title", ["A merge", "A method"])
def test_what_a_section_registers_is_there(title: str, own: Path) -> None:
    before = {name for registry in REGISTRIES for name in registry.names()}
    exec(compile(example(title), PAGE.name, "exec"), {})
    assert len({name for registry in REGISTRIES for name in registry.names()} - before) == 1


def test_a_method_of_adaptation_in_40_lines(own: Path, cifar: Path) -> None:
    text = example("A method of adaptation in 40 lines")
    assert len(text.splitlines()) <= 40
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(text, PAGE.name, "exec"), names)
    made: Adapted = names["adapted"]
    made.add_task("second", classes=3)
    assert made.costs("first")["trainable"] == 8
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = made.eval()(images, "second")
    optimizer = torch.optim.SGD(made.parameter_groups("first", lr=0.1))
    nn.functional.cross_entropy(made.train()(images, "first"), torch.arange(4)).backward()
    optimizer.step()
    with torch.no_grad():
        assert torch.equal(made.eval()(images, "second"), before)
    made.save_task("first", own / "first")
    made.load_task(own / "first", "again")
    with torch.no_grad():
        assert torch.equal(made.eval()(images, "again"), made(images, "first"))

    ADAPTATIONS._targets.pop("biases")
    (own / "my_methods.py").write_text(text)
    few = ["first_class=0", "classes=0", "epochs=1", "method=biases"]
    assert main(["adapt", "vision/adapters_cifar", *words(cifar, *few), "--import", "my_methods"]) == 0
    assert json.loads((own / "result.json").read_text())["method"] == "biases"
    few = ["side_init=default", "side_options={}", "tasks=2", "steps=4", "batch_size=16", "method=biases"]
    sequence = ["lifelong", "lifelong/icifar", *words(cifar, *few), "--import", "my_methods"]
    assert main([*sequence, "options.layers=bn1"]) == 0
    loss = json.loads((own / "result.json").read_text())["loss"]
    assert loss[1][0] == loss[0][0]  # the second task left the first as it was
    assert main([*sequence, "options.layer=bn1"]) == 2
    assert main([*sequence, "options.layers=conv"]) == 2  # which have none


def test_a_method_of_lifelong_learning(own: Path, cifar: Path, capsys: Any) -> None:
    (own / "my_methods.py").write_text(example("A method of lifelong learning"))
    few = ["side_init=default", "side_options={}", "tasks=2", "steps=4", "batch_size=16", "method=anchored"]
    command = ["lifelong", "lifelong/icifar", *words(cifar, *few)]
    assert main(command) == 2
    assert "unknown method 'anchored'" in capsys.readouterr().err
    for wrong, line in (
        ("strenght=1", "has no option 'strenght', did you mean 'strength'? (allowed: strength)"),
        ("strength=much", "option strength must be a valid number, got 'much'"),
        ("strength=-1", "option strength must be greater than or equal to 0, got -1"),
    ):
        assert main([*command, f"options.{wrong}", "--import", "my_methods"]) == 2
        assert capsys.readouterr().err == f"error: method 'anchored'{'' if 'has no' in line else ':'} {line}\n"
    assert not (own / "runs").exists()
    losses = {}
    for strength in (1000, 0):
        given = [f"options.strength={strength}", f"runs={own / str(strength)}", "--import", "my_methods"]
        assert main([*command, *given]) == 0
        losses[strength] = json.loads((own / "result.json").read_text())["loss"]
    assert losses[1000][0] == losses[0][0]
    assert losses[1000][1] != losses[0][1]  # only the second task has something to be pulled back to
    command.append("options.strength=0.5")
    assert main([*command, "--import", "my_methods"]) == 0
    result = json.loads((own / "result.json").read_text())
    assert (result["method"], len(result["per_task"])) == ("anchored", 2)
    assert main([*command, "--import", "my_methods", "--resume"]) == 0  # anchors and all
    assert json.loads((own / "runs" / "icifar_1" / "versions.json").read_text())["imports"] == ["my_methods"]
    capsys.readouterr()
    assert main(["list", "learners", "--json", "--import", "my_methods"]) == 0
    (row,) = [row for row in json.loads(capsys.readouterr().out) if row["name"] == "anchored"]
    assert row["summary"] == "One network for all tasks, pulled back to its weights after the last one"
    assert row["options"] == {"strength": {"type": "float", "default": 1.0}}


def test_a_sensor_and_a_task(own: Path, homes: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The sensor is observed in this process and in a worker, cloned from stored episodes, and learnt from."""
    monkeypatch.setattr(tasks, "TASKS", dict(tasks.TASKS))
    monkeypatch.delitem(sys.modules, "my_tasks", raising=False)
    (own / "my_tasks.py").write_text(example("A sensor and a task"))
    words = [
        "pointnav/sidetune_curvature",
        *homes,
        "task.kind=compassnav",
        f"runs={own}",
        "name=compass",
        "--import",
        "my_tasks",
    ]
    assert main(["clone", *words]) == 0
    assert main(["train", *words, "--init", str(own / "compass_clone_1"), "vec.kind=subproc"]) == 0
    policy = load_agent(own / "compass_train_1").policy
    assert policy.observation_space["compass"].shape == (2,)
    moved = {name.split(".")[1] for name, p in policy.named_parameters() if p.requires_grad}
    assert "compass_reader" in moved
    assert main(["eval", str(own / "compass_train_1"), "--import", "my_tasks"]) == 0
    assert "compass_train_1" in capsys.readouterr().out
