"""Training that diverges in several processes ends as in one: a line, exit code 2, the last good checkpoint."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ended_processes import still_alive
from sideagents.run.checkpoint import load_checkpoint
from sideagents.run.folder import RunFolder
from sideagents_policies.agent.checks import read_config
from sideagents_policies.demos.collect import collect

PROGRESS = re.compile(r"\w+: \d+/\d+ ")
CASES = [
    ("train", "96", "head", "0,1"),
    ("train", "96", "features", "1"),  # the main process does not know it
    ("train", "32", "features", "1"),
    ("clone", "3", "features", "1"),
]


@pytest.fixture(scope="module")
def demos(homes, tmp_path_factory) -> Path:
    return collect(
        read_config("pointnav/demo", [*homes, "task.max_steps=200"]), tmp_path_factory.mktemp("clone") / "demos"
    )


@pytest.mark.parametrize(("verb", "when", "part", "ranks"), CASES)
def test_two_processes(homes, demos, tmp_path, verb, when, part, ranks):
    own = ["--demos", str(demos), "task.max_steps=200", "clone.checkpoint_every_s=0.001"] if verb == "clone" else []
    words = [verb, "pointnav/demo", *homes, "workers=2", "vec.n_envs=2", f"runs={tmp_path / 'runs'}", *own]
    env = {"DIVERGE_AT": when, "DIVERGE_PART": part, "DIVERGE_RANKS": ranks, "DIVERGE_PIDS": str(tmp_path)}
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "sideagents_policies.cli.main", *words, "--import", "diverging"],
        env={**os.environ, "PYTHONPATH": path, **env}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = (text for text in done.stderr.splitlines() if not PROGRESS.match(text))
    assert line.startswith("error: ")
    assert "diverged" in line
    assert not still_alive(tmp_path)
    if when == "32":
        assert line.endswith("; there is no checkpoint yet")
        assert not (tmp_path / "runs").exists()
        return
    (run,) = (tmp_path / "runs").iterdir()
    latest = RunFolder.open(run).latest()
    assert latest is not None
    assert line.endswith(f"; the last good checkpoint is {latest}")
    assert all(torch.isfinite(tensor).all() for tensor in load_checkpoint(latest).tensors.values())
    assert not (run / ".lock").exists()
