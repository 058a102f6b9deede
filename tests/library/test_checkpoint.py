"""Checkpoints: exact round trips, survival of kill -9, and refusal of state that is not plain data."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sideagents.errors import CheckpointError
from sideagents.run.checkpoint import (
    best_checkpoint,
    flatten_optimizer,
    list_checkpoints,
    load_checkpoint,
    pack_state,
    restore_optimizer,
    restore_tensors,
    save_checkpoint,
    step_of,
    unpack_state,
)
from small_checkpoint import make_checkpoint


def through_json(tree: Any) -> Any:
    packed, tensors = pack_state(tree)
    return unpack_state(json.loads(json.dumps(packed, allow_nan=False)), tensors)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray | np.generic):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


@pytest.mark.parametrize(
    "tree",
    [
        None,
        {"i": 2**127 + 1, "f": 0.1 + 0.2, "b": True, "s": "ü\n", "n": None, "neg": -0.0},
        [math.nan, math.inf, -math.inf],
        (1, [2, (3,)], {}),
        {1: "a", (2, "x"): [1], "$float": "nan", "": 0},
        {"a/b": np.ones(2), "a": {"b": np.zeros(2)}},
        [np.array(5, dtype=np.uint32), np.zeros((0, 3), np.float16), np.float64(0.1), np.bool_(True)],
        [np.array(["left", "right"]), np.asfortranarray(np.arange(6).reshape(2, 3))],
        [np.array([True, False]), np.arange(3, dtype=np.uint16), np.array([2**63], dtype=np.uint64)],
        [torch.ones(2, dtype=torch.bfloat16), torch.tensor(3), torch.zeros(0), torch.arange(6).reshape(2, 3).T],
    ],
)
def test_state_comes_back_with_exact_types(tree: Any) -> None:
    assert same(through_json(tree), tree)


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_numpy_generators_continue_where_they_were(bits: Callable[[int], np.random.BitGenerator]) -> None:
    generator = np.random.Generator(bits(3))
    generator.integers(10, size=5, dtype=np.uint32)
    other = np.random.Generator(bits(99))
    other.bit_generator.state = through_json(generator.bit_generator.state)
    assert np.array_equal(other.normal(size=9), generator.normal(size=9))


@pytest.mark.parametrize(
    ("value", "where"), [({"a": [object()]}, "'a/0'"), (np.array([None]), "its root"), ({1j: 2}, "root")]
)
def test_what_is_no_data_is_refused_with_its_path(value: Any, where: str) -> None:
    with pytest.raises(TypeError, match=where):
        pack_state(value)


def test_round_trip_with_shared_and_strided_tensors(tmp_path: Path) -> None:
    weight = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": weight, "tied": weight, "column": weight[:, 1], "scalar": torch.tensor(2.0), "empty": torch.ones(0)}
    path = save_checkpoint(tmp_path, 12, tensors, {"k": (1, 2.5)}, config_hash="c0", extra={"note": "x"})
    loaded = load_checkpoint(path, expect=tensors)
    assert path.name == "step_000000012"
    assert step_of(path) == loaded.step == 12
    assert same(dict(sorted(loaded.tensors.items())), {name: tensors[name].clone() for name in sorted(tensors)})
    assert (loaded.state, loaded.config_hash, loaded.extra, loaded.optimizer) == (
        {"k": (1, 2.5)},
        "c0",
        {"note": "x"},
        None,
    )


@pytest.mark.parametrize(
    "build",
    [
        lambda groups: torch.optim.Adam(groups, lr=1e-3),
        lambda groups: torch.optim.Adam(groups, lr=1e-3, amsgrad=True),
        lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        lambda groups: torch.optim.AdamW(groups, lr=1e-3, fused=True),
        lambda groups: torch.optim.SGD(groups, lr=1e-3, momentum=0.9),
    ],
    ids=["adam", "amsgrad", "adamw", "fused", "sgd"],
)
def test_an_optimizer_continues_bit_for_bit(tmp_path: Path, build: Callable[[Any], torch.optim.Optimizer]) -> None:
    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Conv2d(4, 3, 3).to(memory_format=torch.channels_last)  # whose order of memory no file keeps
        return model, build([{"params": [model.weight]}, {"params": [model.bias], "lr": 0.1, "name": "alpha"}])

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            optimizer.zero_grad()
            model(torch.randn(5, 4, 5, 5, generator=torch.Generator().manual_seed(step))).pow(2).sum().backward()
            optimizer.step()

    model, optimizer = fresh()
    train(model, optimizer, 0, 3)
    path = save_checkpoint(tmp_path, 3, model.state_dict(), optimizer=optimizer)
    train(model, optimizer, 3, 6)
    again, other = fresh()
    loaded = load_checkpoint(path)
    assert loaded.optimizer is not None
    restore_tensors(again.state_dict(), loaded.tensors, path)
    restore_optimizer(other, *loaded.optimizer)
    assert same(other.state_dict()["param_groups"], optimizer.state_dict()["param_groups"])
    train(again, other, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_another_optimizer_is_refused() -> None:
    def stepped(*shapes: int) -> torch.optim.Optimizer:
        parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
        optimizer = torch.optim.Adam(parameters)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return optimizer

    tensors, tree = flatten_optimizer(stepped(2, 3))
    with pytest.raises(CheckpointError, match=r"groups of \[1\] tensors, the checkpoint groups of \[2\]"):
        restore_optimizer(stepped(2), tensors, tree)
    with pytest.raises(CheckpointError, match="exp_avg of tensor 1"):
        restore_optimizer(stepped(2, 4), tensors, tree)
    with pytest.raises(CheckpointError, match="damaged"):
        restore_optimizer(stepped(2, 3), tensors, {"state": {"x": {}}, "param_groups": []})
    del tensors["state/0/exp_avg"]
    with pytest.raises(CheckpointError, match="state/0/exp_avg"):
        restore_optimizer(stepped(2, 3), tensors, tree)


def test_keep_leaves_the_newest(tmp_path: Path) -> None:
    for step in range(1, 7):
        make_checkpoint(tmp_path, step, keep=2)
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [5, 6]


def test_keep_leaves_the_best_too(tmp_path: Path) -> None:
    assert best_checkpoint(tmp_path / "none") is None
    for step, score in enumerate([None, (0.5, 0.1), (0.5, 0.4), (0.4, 0.9), None, (0.5, 0.3), None, None]):
        make_checkpoint(tmp_path, step, keep=2, score=score)
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [2, 6, 7]
    assert best_checkpoint(tmp_path) == tmp_path / "step_000000002"
    assert load_checkpoint(tmp_path / "step_000000002").score == (0.5, 0.4)
    make_checkpoint(tmp_path, 8, keep=2, score=(0.5, 0.4))
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [7, 8]  # of equal ones the newest


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    save_checkpoint(tmp_path, 7, {"x": torch.ones(1)})
    assert list(load_checkpoint(tmp_path / "step_000000007").tensors) == ["x"]
    assert len(list(tmp_path.iterdir())) == 1


def test_leftovers_are_ignored_then_cleaned_and_a_replaced_one_survives(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 1).rename(tmp_path / ".replaced_step_000000001")  # killed between the two renames
    half = make_checkpoint(tmp_path / "x", 2)
    (half / "meta.json").unlink()
    half.rename(tmp_path / ".tmp_step_000000002_0123")
    (tmp_path / "x").rmdir()
    (tmp_path / "step_000000003").mkdir()  # a partial copy made by hand
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [1]
    assert load_checkpoint(list_checkpoints(tmp_path)[0]).step == 1
    make_checkpoint(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_000000001", "step_000000003", "step_000000004"
    ]  # fmt: skip


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from sideagents.run.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint

folder = Path(sys.argv[1])
torch.set_num_threads(1)
chance, half_written, count = random.Random(1), 0, 0

def write_for_ever(count, pipe):
    while True:
        count += 1  # every step is written twice, so that replacing is killed too
        tensors, state = {"w": torch.full((60_000,), float(count))}, {"count": count, "more": torch.full((500,), count)}
        save_checkpoint(folder, count // 2, tensors, state, keep=2)
        os.write(pipe, count.to_bytes(4, "little"))

for trial in range(40):
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        write_for_ever(count, theirs)
    os.close(theirs)
    said = os.read(ours, 4)  # one is there
    time.sleep(chance.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said += os.read(ours, 65536)
    os.close(ours)
    half_written += any(path.name.startswith(".") for path in folder.iterdir())
    found = [load_checkpoint(path) for path in list_checkpoints(folder)]
    for one in found:
        written = one.state["count"]
        assert (one.tensors["w"] == written).all() and (one.state["more"] == written).all(), one.path
    count = found[-1].state["count"]
    assert count >= int.from_bytes(said[-4:], "little"), "what was said to be saved is gone"
print("half written", half_written)
"""


def test_kill_9_while_writing_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 5  # else the kills came too late to mean anything
    make_checkpoint(folder, 99)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
