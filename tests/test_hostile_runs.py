"""A hundred and fifty runs and checkpoints that were mutated by chance, with one seed: each is refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hostile import refused, refused_by_command
from sideagents_policies.cli.main import main
from troubles import Hostile, edited

EVAL, RESUME, PLOT = ["eval"], ["train", "--resume"], ["plot"]
CHECKPOINT = ("model.safetensors", "state.safetensors", "state.json", "meta.json")
VERBS = {  # what reads a file of a run
    **dict.fromkeys(CHECKPOINT, (EVAL, RESUME)), "config.yaml": (EVAL, RESUME), "versions.json": (RESUME,),
    "progress.csv": (PLOT,), "command.txt": (RESUME,),
}  # fmt: skip
CONTENTS: dict[str, bytes] = {
    "pickle": pickle.dumps(Hostile()), "archive": b"PK\x03\x04" + bytes(60), "page": b"<html>",
    "noise": bytes(range(256)), "a huge header": (2**40).to_bytes(8, "little") + b"{}",
    "nested": b"[" * 50_000, "a number": b"9" * 10_000,
}  # fmt: skip
MAKERS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link out": lambda path: path.symlink_to(path.parents[len(path.parents) - 2] / "elsewhere"),
    "folder": Path.mkdir,
}
ODD = (None, -1, 1.5, True, "x", [], {}, [[]], 10**30, {"$array": "no such"}, {"$text": ["a"], "dtype": "<U999999999"})


@dataclass(frozen=True)
class Case:
    verb: list[str]
    change: Callable[[Path, Path], object]  # of a run and its checkpoint


def replaced(name: str, content: bytes) -> Callable[[Path, Path], object]:
    return lambda run, checkpoint: place(run, checkpoint, name).write_bytes(content)


def made(name: str, make: Callable[[Path], object]) -> Callable[[Path, Path], object]:
    def change(run: Path, checkpoint: Path) -> None:
        path = place(run, checkpoint, name)
        path.unlink()
        make(path)

    return change


def place(run: Path, checkpoint: Path, name: str) -> Path:
    return (checkpoint if name in CHECKPOINT else run) / name


def cut(name: str, share: float) -> Callable[[Path, Path], object]:
    def change(run: Path, checkpoint: Path) -> None:
        path = place(run, checkpoint, name)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * (len(data) - 3))])

    return change


def set_json(name: str, keys: tuple[str | int, ...], value: Any) -> Callable[[Path, Path], object]:
    def change(run: Path, checkpoint: Path) -> None:
        path = place(run, checkpoint, name)
        tree = json.loads(path.read_text())
        node = tree
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        path.write_text(json.dumps(tree))

    return change


def link_out(name: str) -> Callable[[Path, Path], object]:
    def change(run: Path, checkpoint: Path) -> None:
        (run.parent / "elsewhere").mkdir()
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).symlink_to(run.parent / "elsewhere", target_is_directory=True)

    return change


def table(text: str) -> Callable[[Path, Path], object]:
    return replaced("progress.csv", text.encode())


STATE = ("state", "processes", 0, "ppo")
WRONG_JSON: list[tuple[str, tuple[str | int, ...], tuple[Any, ...]]] = [
    ("meta.json", ("format",), (None, 2, "1", [])),
    ("meta.json", ("step",), (None, "x", 1.5, [])),
    ("state.json", ("state",), (None, 3, [], "x", {})),
    ("state.json", ("state", "kind"), (None, "clone", 3, [])),
    ("state.json", ("state", "processes"), (None, 3, [], {}, [3])),
    ("state.json", (*STATE[:3], "recent"), (3, [3], [[1, 2]], [["a"] * 4], ODD[-1], ODD[-2])),
    ("state.json", STATE, (None, 3, [], "x", {})),
    ("state.json", (*STATE, "episode_infos"), (None, 3, "x", [3], [{}], [{"r": "x", "l": 1, "t": 1}], {"a": 1})),
    ("state.json", (*STATE, "episode_successes"), (None, 3, "x", [None], ["x"], {})),
    ("state.json", (*STATE, "num_timesteps"), (None, "x", -1, 1.5, [])),
    ("state.json", (*STATE, "n_updates"), (None, "x", -1, {})),
    ("state.json", (*STATE, "progress_remaining"), (None, "x", [])),
    ("versions.json", ("resumed",), (3, "x", [3], {})),
    ("versions.json", ("imports",), (3, "x", {})),
]
_HEADER = "step,rollout/success\n"
TABLES = (
    "step,frames,rollout/success\nx,1,0.5\n", "step,frames,rollout/success\n1,many,0.5\n", f"{_HEADER}1,half\n",
    f"{_HEADER}1,nan\n", f"{_HEADER}1,1e999\n", "a,b\n1,2\n", f"{_HEADER}1,{'9' * 200_000}\n",
    f"{_HEADER}{'1' * 5000},0.5\n", "step,step\n1,1\n", f'{_HEADER}1,"0.5\n', "\x00\n", "step\n1\n", "",
    f"{_HEADER}\u00b2,0.5\n",
)  # fmt: skip
SETTINGS = {"seed": 2**32, "ppo": {"frames": "x"}, "model": {"hidden": 10**8}, "task": {"max_steps": 2**63}}
REAL = ("model.safetensors is pickle", "state.json is a device", "checkpoints leads out", "table 3", "cut 7 state.json")


def cases() -> dict[str, Case]:
    chance = random.Random(7)
    found: dict[str, Case] = {}
    for name, verbs in VERBS.items():
        for what, content in CONTENTS.items():
            if name != "command.txt" or what == "noise":
                found[f"{name} is {what}"] = Case(chance.choice(verbs), replaced(name, content))
        for what, make in MAKERS.items():
            found[f"{name} is a {what}"] = Case(chance.choice(verbs), made(name, make))
    for number in range(32):
        name = chance.choice(CHECKPOINT)
        found[f"cut {number} {name}"] = Case(chance.choice((EVAL, RESUME)), cut(name, chance.random()))
    for name, keys, values in WRONG_JSON:
        for number, value in enumerate(values):
            found[f"{name} {'/'.join(map(str, keys))} {number}"] = Case(RESUME, set_json(name, keys, value))
    for number, text in enumerate(TABLES):
        found[f"table {number}"] = Case(PLOT, table(text))
    for name in ("checkpoints", "tensorboard", "eval", "videos", "plots", "demos", "buffer"):
        found[f"{name} leads out"] = Case(chance.choice((EVAL, RESUME)), link_out(name))
    for key, value in SETTINGS.items():
        found[f"configuration {key}"] = Case(RESUME, _edited(key, value))
    return found


def _edited(key: str, value: Any) -> Callable[[Path, Path], object]:
    return lambda run, checkpoint: edited(run / "config.yaml", **{key: value})


CASES = cases()


@pytest.fixture(scope="module")
def trained(homes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", "pointnav/demo", *homes, "ppo.frames=64", f"runs={folder}"]) == 0
    return folder / "demo_train_1"


def words(case: Case, trained: Path, here: Path) -> list[str]:
    run = here / "run"
    shutil.copytree(trained, run)
    case.change(run, max((run / "checkpoints").glob("step_*")))
    more = {"eval": ["--episodes", "1"], "train": ["ppo.frames=96"], "plot": ["--out", str(here / "curve.png")]}
    return [*case.verb, str(run), *more[case.verb[0]]]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line(name, trained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    refused(words(CASES[name], trained, tmp_path), tmp_path, capfd)


@pytest.mark.parametrize("name", REAL)
def test_as_a_real_command(name, trained, tmp_path):
    refused_by_command(words(CASES[name], trained, tmp_path), tmp_path)


def test_there_are_a_hundred_and_fifty():
    assert len(CASES) >= 150
    assert list(cases()) == list(CASES)
