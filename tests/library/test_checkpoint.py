"""Checkpoints: exact round trips, survival of kill -9, and refusal of everything that is not plain data."""

from __future__ import annotations

import io
import json
import math
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sideagents.errors import CheckpointError, DivergedError
from sideagents.run.checkpoint import (
    best_checkpoint,
    check_tensors,
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


def make(folder: Path, step: int = 7, **options: Any) -> Path:
    tensors = {"side.weight": torch.arange(6.0).reshape(2, 3), "alpha": torch.tensor(0.0)}
    return save_checkpoint(
        folder, step, tensors, {"rng": np.arange(3)}, base="curvature", fingerprint="ab12", **options
    )


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
        make(tmp_path, step, keep=2)
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [5, 6]


def test_keep_leaves_the_best_too(tmp_path: Path) -> None:
    assert best_checkpoint(tmp_path / "none") is None
    for step, score in enumerate([None, (0.5, 0.1), (0.5, 0.4), (0.4, 0.9), None, (0.5, 0.3), None, None]):
        make(tmp_path, step, keep=2, score=score)
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [2, 6, 7]
    assert best_checkpoint(tmp_path) == tmp_path / "step_000000002"
    assert load_checkpoint(tmp_path / "step_000000002").score == (0.5, 0.4)
    make(tmp_path, 8, keep=2, score=(0.5, 0.4))
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [7, 8]  # of equal ones the newest


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    make(tmp_path)
    save_checkpoint(tmp_path, 7, {"x": torch.ones(1)})
    assert list(load_checkpoint(tmp_path / "step_000000007").tensors) == ["x"]
    assert len(list(tmp_path.iterdir())) == 1


def test_leftovers_are_ignored_then_cleaned_and_a_replaced_one_survives(tmp_path: Path) -> None:
    make(tmp_path, 1).rename(tmp_path / ".replaced_step_000000001")  # killed between the two renames
    half = make(tmp_path / "x", 2)
    (half / "meta.json").unlink()
    half.rename(tmp_path / ".tmp_step_000000002_0123")
    (tmp_path / "x").rmdir()
    (tmp_path / "step_000000003").mkdir()  # a partial copy made by hand
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [1]
    assert load_checkpoint(list_checkpoints(tmp_path)[0]).step == 1
    make(tmp_path, 4)
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
    make(folder, 99)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


# hostile and damaged files


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def bomb_pickle(target: Path) -> bytes:
    return pickle.dumps({"w": Bomb(target)})


def bomb_zip(target: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", bomb_pickle(target))
    return buffer.getvalue()


def bomb_torch(target: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": Bomb(target)}, buffer)
    return buffer.getvalue()


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    """What the next test refuses is no dud."""
    pickle.loads(bomb_pickle(tmp_path / "pwned"))
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize("bomb", [bomb_pickle, bomb_zip, bomb_torch])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "state.safetensors", "optimizer.safetensors", "state.json", "meta.json"]
)
def test_a_hostile_file_is_refused_and_not_run(tmp_path: Path, name: str, bomb: Callable[[Path], bytes]) -> None:
    path = make(tmp_path / "run", optimizer=torch.optim.Adam([nn.Parameter(torch.zeros(1))]))
    name = name if "." in name else f"{name}.safetensors"
    assert (path / name).is_file()
    (path / name).write_bytes(bomb(tmp_path / "pwned"))
    with pytest.raises(CheckpointError, match=name) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: cut(p / "model.safetensors", -4), "model.safetensors: is no safetensors file"),
        (lambda p: cut(p / "model.safetensors", 5), "model.safetensors: is no safetensors file"),
        (lambda p: cut(p / "model.safetensors", 0), "model.safetensors: is no safetensors file"),
        (lambda p: cut(p / "state.json", 20), "state.json: is no valid JSON"),
        (lambda p: (p / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda p: (p / "state.json").unlink(), "state.json: no such file, did you mean"),
        (lambda p: (p / "meta.json").unlink(), "meta.json: no such file"),
        (lambda p: (p / "state.safetensors").unlink(), "state.safetensors: no such file"),
        (lambda p: edit(p / "meta.json", '"format": 1', '"format": 99'), "format 99 is not the format 1"),
        (lambda p: edit(p / "meta.json", '"step": 7', '"step": "7"'), "format"),
        (lambda p: (p / "meta.json").write_text("[]"), "format None"),
        (lambda p: (p / "state.json").write_text("{}"), "holds no state"),
        (lambda p: edit(p / "state.json", '"rng"\n', '"gone"\n'), "the state does not fit its tensors"),
        (lambda p: edit(p / "state.json", "$array", "$evil"), "the state does not fit its tensors"),
        (lambda p: (p / "state.json").write_text('{"state": ' + "[" * 99999), "no valid JSON"),
        (lambda p: shutil.rmtree(p), "no such checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    path = make(tmp_path)
    damage(path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_wrong_model_or_base_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path)
    right = {"side.weight": torch.zeros(2, 3), "alpha": torch.tensor(0.0)}
    assert load_checkpoint(path, expect=right, fingerprint="ab12").base == "curvature"
    for expect, message in [
        ({"alpha": right["alpha"]}, "has besides 'side.weight'"),
        ({**right, "head.bias": torch.zeros(1)}, "lacks 'head.bias'"),
        (
            {**right, "side.weight": torch.zeros(3, 2)},
            "'side.weight' is float32 [2, 3], the model needs float32 [3, 2]",
        ),
        ({**right, "alpha": torch.tensor(0)}, "'alpha' is float32 [], the model needs int64 []"),
    ]:
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path, expect=expect)
        assert message in str(caught.value)
    with pytest.raises(CheckpointError, match=r"trained on base 'curvature' with fingerprint 'ab12'.*given has 'cd34'"):
        load_checkpoint(path, fingerprint="cd34")
    with pytest.raises(CheckpointError, match="lacks 'a', 'b', 'c' and 1 more"):
        check_tensors({}, dict.fromkeys("abcd", torch.zeros(1)), "x")


def test_a_file_in_place_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "model.zip"
    other.write_bytes(bomb_zip(tmp_path / "pwned"))
    with pytest.raises(CheckpointError, match="is a file; a checkpoint is a folder"):
        load_checkpoint(other)
    with pytest.raises(CheckpointError, match="its name must be step_"):
        step_of(other)


def test_weights_moments_and_state_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    good, bad = torch.zeros(3), torch.tensor([0.0, float("nan"), 1.0])
    first = save_checkpoint(tmp_path, 1, {"w": good}, {"scores": np.array([np.nan])})  # an array may say "not known"
    worse: list[dict[str, Any]] = [
        {"tensors": {"v": good, "w": bad}},
        {"tensors": {"w": torch.tensor([float("-inf")])}},
        {"tensors": {"w": torch.full((2,), float("inf"), dtype=torch.bfloat16)}},
        {"tensors": {"w": good}, "optimizer": ({"0/w": bad}, {})},
        {"tensors": {"w": good}, "state": {"common": [{"w": bad}]}},
    ]
    for given in worse:
        with pytest.raises(DivergedError, match=r"diverged, at step 2 there is nan or infinity in .*w'") as caught:
            save_checkpoint(tmp_path, 2, **given)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == [first]


def test_a_text_that_declares_more_than_it_is(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"w": torch.zeros(1)}, {"a": np.array(["x", "yy"])})
    contents = json.loads((path / "state.json").read_text())
    for dtype in ("<U1000000000", "O", "<f8", "V9", ""):
        contents["state"]["a"]["dtype"] = dtype
        (path / "state.json").write_text(json.dumps(contents))
        with pytest.raises(CheckpointError, match="the state does not fit its tensors"):
            load_checkpoint(path)
