"""Modules of the user's own: imported when a command says so, recorded in its runs, never imported by a run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from sideagents import SIDES
from sideagents.config import imports
from sideagents.errors import SideAgentsError
from sideagents_policies.cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:stable_baselines3.*")

SOURCE = """
from small_agent import DropoutSide
from sideagents import SIDES

SIDES.register("restless", DropoutSide)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path with `own_sides.py`; what the test imports and registers is forgotten after it."""
    (tmp_path / "own_sides.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    tests = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(tests), os.environ.get("PYTHONPATH", "")]))
    forget(monkeypatch)
    return tmp_path


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be as a new process that imported nothing."""
    monkeypatch.setattr(imports, "_imported", [])
    monkeypatch.setattr(SIDES, "_targets", {k: v for k, v in SIDES._targets.items() if k != "restless"})
    for name in ("own_sides", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def told(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([str(word) for word in words]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_list_and_check_know_what_is_imported(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown side 'restless'" in told(capsys, "check", "pointnav/demo", "model.side=restless")
    assert main(["check", "pointnav/demo", "model.side=restless", "--import", "own_sides"]) == 0
    assert main(["list", "sides", "--import", "own_sides", "--import", "own_sides"]) == 0
    assert "restless" in capsys.readouterr().out
    assert imports.imported() == ["own_sides"]


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("nothing_here", "", "--import nothing_here: no such module; it is named without .py"),
        ("own_sides.py", "", "named without .py"),
        ("./own_sides", "", "no such module"),
        ("broken", "import nothing_here\n", "ModuleNotFoundError: No module named 'nothing_here' ("),
        ("broken", "x = 1\ny = z\n", "NameError: name 'z' is not defined ("),
        ("broken", "from sideagents import SIDES\nSIDES.register('conv', 'a:b')\n", "'conv' is registered already"),
        ("broken", "x = (\n", "SyntaxError"),
    ],
)
def test_what_cannot_be_imported_is_one_line(
    own: Path, capsys: pytest.CaptureFixture[str], name: str, source: str, message: str
) -> None:
    (own / "broken.py").write_text(source)
    line = told(capsys, "list", "sides", "--import", name)
    assert message in line
    if "NameError" in message:
        assert line.endswith("broken.py, line 2)")
    assert imports.imported() == []
    with pytest.raises(SideAgentsError):
        imports.import_own(name)


def test_a_run_says_what_it_was_made_with_and_imports_nothing(
    own: Path,
    homes: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [*homes, "model.side=restless", f"runs={own / 'runs'}", "workers=2", "vec.n_envs=2", "ppo.frames=32"]
    assert main(["train", "pointnav/demo", *words, "--import", "own_sides"]) == 0
    run = own / "runs" / "demo_train_1"
    assert json.loads((run / "versions.json").read_text())["imports"] == ["own_sides"]
    for verb in (["eval", run], ["enjoy", run], ["train", "--resume", run, "workers=2"]):
        forget(monkeypatch)
        line = told(capsys, *verb)
        assert "unknown side 'restless'" in line
        assert f"{run} was made with --import own_sides: if you trust it, give that again" in line
        assert "own_sides" not in sys.modules
    assert main(["eval", str(run), "--episodes", "1", "--import", "own_sides"]) == 0
    forget(monkeypatch)
    assert main(["train", "--resume", str(run), "ppo.frames=64", "--import", "own_sides"]) == 0
