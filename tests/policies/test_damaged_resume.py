"""A state that cannot be put back is found before anything is written, in however many processes the run trains."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sideagents.run.folder import RunFolder
from sideagents.run.scalars import read_scalars
from sideagents_policies.agent.checks import default_config
from sideagents_policies.cli.main import main
from sideagents_policies.train.cloning import clone
from sideagents_policies.train.reinforcement import train

Damage = Callable[[Any], object]


def refused(run: Path, verb: str, damage: Damage, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Damage the state of a run's newest checkpoint; assert that resuming says so in a line and writes nothing."""
    latest = RunFolder.open(run).latest()
    assert latest is not None
    path = latest / "state.json"
    good = path.read_text()
    state = json.loads(good)
    damage(state["state"])
    path.write_text(json.dumps(state))
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    more = ["ppo.frames=128"] if verb == "train" else ["threads=2"]
    assert main([verb, "--resume", str(run), "runs=elsewhere", *more]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if not re.match(r"\w+: \d+/\d+ ", line)]
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    path.write_text(good)


def test_ppo(homes, tmp_path, capfd, monkeypatch):
    words = [*homes, f"runs={tmp_path}", "workers=2", "vec.n_envs=2", "ppo.frames=64"]
    run = train(default_config(words))
    capfd.readouterr()

    def second(part: str) -> Damage:
        return lambda state: state["processes"][1]["ppo"].update({part: 3})

    def episodes(state: Any) -> None:
        state["processes"][1]["ppo"]["episode_infos"] = [{"r": "far"}]

    def all_of_them(state: Any) -> None:
        for own in state["processes"]:
            own["environments"] = 3

    refused(run, "train", second("last_obs"), "state is damaged", capfd)
    refused(run, "train", all_of_them, "step_000000064: ", capfd)
    refused(run, "train", episodes, "statistics of its episodes are damaged", capfd)
    monkeypatch.setattr("sys.argv", ["/x/bin/sideagents", "train", "--resume", "here"])
    assert main(["train", "--resume", str(run), "ppo.frames=96", "ppo.checkpoint_every_frames=32"]) == 0
    assert [row["frames"] for row in read_scalars(run / "progress.csv")] == ["32", "64", "96"]
    assert "checkpoint_every_frames: 32" in (run / "config.yaml").read_text()
    assert (run / "command.txt").read_text().splitlines()[1:] == ["sideagents train --resume here"]


def test_cloning(homes, tmp_path, capfd):
    words = [*homes, f"runs={tmp_path}", "task.max_steps=200", "workers=2", "vec.n_envs=2"]
    run = clone(default_config([*words, "clone.dagger_frames=64", "clone.dagger_round_frames=64"]))
    capfd.readouterr()
    refused(run, "clone", lambda state: state["processes"][1].update(rng=3), "state is damaged", capfd)
    refused(run, "clone", lambda state: state["common"].update(moments=3), "step_", capfd)
