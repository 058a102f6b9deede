"""Ways to go wrong, for tests/test_bad_input.py: each makes the words of a command line, and what they meet."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

from glb import box, write_glb
from small_agent import dataset_of


@dataclass
class Place:
    """A folder to make trouble in, a small dataset, and a trained run and demonstrations to copy."""

    here: Path
    good: list[str]
    made: Path

    @property
    def data(self) -> Path:
        return dataset_of(self.good)

    def run(self) -> Path:
        return self.copy("runs/demo_train_1")

    def demos(self) -> Path:
        return self.copy("demos")

    def copy(self, name: str) -> Path:
        target = self.here / Path(name).name
        shutil.copytree(self.made / name, target)
        return target

    def file(self, name: str, content: bytes | str) -> Path:
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def config(self, **changes: object) -> Path:
        return self.file("mine.yaml", yaml.safe_dump(changes))

    def buildings(self) -> Path:
        shutil.copytree(self.data, self.here / "data")
        return self.here / "data"

    def episodes(self, name: str = "bad.json.gz", **changes: object) -> Path:
        with gzip.open(self.data / "episodes" / "val.json.gz") as file:
            rows = json.load(file)["episodes"][:1]
        goals = [{"position": changes.pop("goal"), "radius": 0.2}] if "goal" in changes else rows[0]["goals"]
        rows[0].update({"goals": goals, **changes})
        text = json.dumps({"episodes": rows})
        return self.file(name, gzip.compress(text.encode()))

    def checkpoint(self) -> Path:
        return max((self.run() / "checkpoints").glob("step_*"))


class Hostile:
    """A pickle that makes a file when it is loaded."""

    def __reduce__(self):
        return (open, ("hacked", "w"))


def check(*words: str) -> Callable[[Place], list[str]]:
    return lambda place: ["check", "pointnav/demo", "model.base=random", *words]


def train(*words: str) -> Callable[[Place], list[str]]:
    return lambda place: ["train", "pointnav/demo", *place.good, *words]


def checked_file(text: str) -> Callable[[Place], list[str]]:
    return lambda place: ["check", str(place.file("mine.yaml", text))]


def evaluated(*words: str, **changes: object) -> Callable[[Place], list[str]]:
    """Evaluate the expert on one episode that was changed."""
    return lambda place: [
        "eval", "--agent", "expert", *place.good, "--episodes-file", str(place.episodes(**changes)), *words
    ]  # fmt: skip


def on_file(content: bytes | str, name: str = "bad.json.gz") -> Callable[[Place], list[str]]:
    return lambda place: [
        "eval", "--agent", "expert", *place.good, "--episodes-file", str(place.file(name, content))
    ]  # fmt: skip


def building(content: Callable[[bytes], bytes]) -> Callable[[Place], list[str]]:
    """Train in buildings of which one was damaged."""

    def words(place: Place) -> list[str]:
        path = place.buildings() / "train" / "one.glb"
        path.write_bytes(content(path.read_bytes()))
        return ["train", "pointnav/demo", *place.good, "scenes.dataset=data"]

    return words


def run_with(change: Callable[[Path], object], *verb: str) -> Callable[[Place], list[str]]:
    """Evaluate a run whose checkpoint was changed."""

    def words(place: Place) -> list[str]:
        checkpoint = place.checkpoint()
        change(checkpoint)
        run = str(checkpoint.parents[1])
        return [*verb, run] if verb else ["eval", run, "--episodes", "1"]

    return words


def edited(path: Path, **changes: object) -> None:
    """Change sections of a run's configuration."""
    config = yaml.safe_load(path.read_text())
    for section, values in changes.items():
        config[section] = config[section] | values if isinstance(values, dict) else values
    path.write_text(yaml.safe_dump(config))


def retensored(checkpoint: Path, fingerprint: torch.Tensor | None) -> None:
    """Change the fingerprint of the base in a checkpoint."""
    tensors = load_file(checkpoint / "model.safetensors")
    tensors.pop("features_extractor._extra_state")
    if fingerprint is not None:
        tensors["features_extractor._extra_state"] = fingerprint
    save_file(tensors, checkpoint / "model.safetensors")


def resumed_with(change: Callable[[dict[str, Any]], object]) -> Callable[[Place], list[str]]:
    """Resume a run whose saved state was changed."""

    def words(place: Place) -> list[str]:
        checkpoint = place.checkpoint()
        contents = json.loads((checkpoint / "state.json").read_text())
        change(contents["state"])
        (checkpoint / "state.json").write_text(json.dumps(contents))
        return ["train", "--resume", str(checkpoint.parents[1]), "ppo.frames=64"]

    return words


def naming_code(*verb: str, **model: str) -> Callable[[Place], list[str]]:
    """Use a stranger's run whose configuration names a module that makes a file when it is imported."""

    def words(place: Place) -> list[str]:
        run = place.run()
        place.file("hostile.py", "open('hacked', 'w')")
        edited(run / "config.yaml", model=model)
        return [*verb, str(run)]

    return words


def without_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile()))


def table_top(path: Path) -> Path:
    return write_glb(path, [box([-0.2, 0, -0.2], [0.2, 0.8, 0.2])])


def poor_weights(place: Place) -> list[str]:
    save_file({"weight": torch.zeros(2, 2)}, place.here / "poor.safetensors")
    return [
        "train",
        "pointnav/demo",
        *place.good,
        "model.base=taskonomy:curvature",
        "model.base_weights=poor.safetensors",
    ]


def hostile_weights(place: Place) -> list[str]:
    place.file("w.pth", pickle.dumps(Hostile()))
    return ["train", "pointnav/demo", *place.good, "model.base=taskonomy:curvature", "model.base_weights=w.pth"]


def demos_of(change: Callable[[Path], object], *words: str) -> Callable[[Place], list[str]]:
    def made(place: Place) -> list[str]:
        folder = place.demos()
        change(folder)
        return ["clone", "pointnav/demo", *place.good, "--demos", str(folder), *words]

    return made


def hostile_shard(path: Path) -> None:
    np.savez(path, poses=np.array([Hostile()]))
