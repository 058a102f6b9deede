"""Checkpoints that are damaged, hostile or of something else: one clear line, and nothing in them is run."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from damaged_files import cut, edit
from sideagents.errors import CheckpointError, DivergedError
from sideagents.run.checkpoint import (
    check_tensors,
    load_checkpoint,
    save_checkpoint,
    step_of,
)
from small_checkpoint import make_checkpoint


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
    path = make_checkpoint(tmp_path / "run", optimizer=torch.optim.Adam([nn.Parameter(torch.zeros(1))]))
    name = name if "." in name else f"{name}.safetensors"
    assert (path / name).is_file()
    (path / name).write_bytes(bomb(tmp_path / "pwned"))
    with pytest.raises(CheckpointError, match=name) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


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
    path = make_checkpoint(tmp_path)
    damage(path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_wrong_model_or_base_is_refused(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
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
