"""The run folder: never reused, explains itself, its scalars survive kill and resume."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sideagents.errors import CheckpointError, ConfigError, DivergedError, SideAgentsError
from sideagents.run import provenance
from sideagents.run.checkpoint import save_checkpoint
from sideagents.run.folder import RunFolder
from sideagents.run.provenance import command_line, versions
from sideagents.run.scalars import ScalarTable, read_scalars


def add_checkpoint(run: RunFolder, step: int) -> Path:
    return save_checkpoint(run.checkpoints, step, {"w": torch.zeros(1)})


def test_the_commit_says_when_the_source_was_changed_and_rows_are_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        options = ["-c", "user.name=n", "-c", "user.email=e@x.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *options, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    source, rows = tmp_path / "package" / "provenance.py", tmp_path / "docs" / "results" / "rows.jsonl"
    for path in (source, rows):
        path.parent.mkdir(parents=True)
        path.write_text("1\n")
    monkeypatch.setattr(provenance, "__file__", str(source))
    assert provenance.git_commit() is None
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    commit = git("rev-parse", "HEAD")
    assert provenance.git_commit() == commit
    rows.write_text("1\n2\n")
    assert provenance.git_commit() == commit
    source.write_text("2\n")
    assert provenance.git_commit() == f"{commit}-dirty"


def test_a_new_run_explains_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/sideagents", "train", "a b.yaml", "ppo.frames=3"])
    run = RunFolder.create(tmp_path / "runs", "agent", "seed: 1\n")
    assert run.path == tmp_path / "runs" / "agent_1"
    assert run.config_path.read_text() == "seed: 1\n"
    assert (run.path / "command.txt").read_text() == "sideagents train 'a b.yaml' ppo.frames=3\n"
    recorded = json.loads((run.path / "versions.json").read_text())
    assert recorded["torch"] == torch.__version__
    assert {"python", "numpy", "stable-baselines3", "gymnasium", "sideagents", "platform", "git_commit"} <= set(
        recorded
    )


def test_a_used_folder_is_never_taken_again(tmp_path: Path) -> None:
    for used in ("agent_3", "agent_x", "other_9"):
        (tmp_path / used).mkdir()
    (tmp_path / "agent_5").write_text("a file in the way")
    assert RunFolder.create(tmp_path, "agent", "").path.name == "agent_6"
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: RunFolder.create(tmp_path, "race", ""), range(8)))
    assert sorted(run.path.name for run in runs) == [f"race_{n}" for n in range(1, 9)]


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="letters, digits"):
        RunFolder.create(tmp_path, name, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["scripts/run.py", "--x", "a b"], "python scripts/run.py --x 'a b'"),
        (["/site/pkg/__main__.py", "go"], "python -m pkg go"),
        (["/venv/bin/sideagents", "list"], "sideagents list"),
        (["no such program"], "'no such program'"),
    ],
)
def test_the_command_can_be_typed_again(argv: list[str], line: str) -> None:
    assert command_line(argv) == line
    assert shlex.split(line)[-1] == argv[-1]


def test_opening_a_run_or_a_checkpoint_in_it(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "agent", "seed: 1\n")
    with pytest.raises(CheckpointError, match="agent_1: has no checkpoint yet"):
        run.checkpoint()
    first, second = add_checkpoint(run, 10), add_checkpoint(run, 20)
    assert RunFolder.open(run.path).checkpoint() == run.latest() == second
    with pytest.raises(CheckpointError, match="no checkpoint was evaluated in training"):
        run.best()
    best = save_checkpoint(run.checkpoints, 10, {"w": torch.zeros(1)}, score=[0.5])
    assert RunFolder.open(run.path).best() == best
    at_first = RunFolder.open(first)
    assert (at_first.path, at_first.checkpoint(), at_first.latest()) == (run.path, first, second)


def test_opening_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "agent", "")
    half = add_checkpoint(run, 10)
    (half / "meta.json").unlink()
    for path, message in [
        (tmp_path / "agnet_1", "no such run, did you mean 'agent_1'?"),
        (tmp_path / "no" / "agent_1", f"no such run (the folder {tmp_path / 'no'} does not exist)"),
        (tmp_path, "is no run (no config.yaml in it)"),
        (run.config_path, "is a file"),
        (half, "half-written"),
        (run.checkpoints, "is no run"),
    ]:
        with pytest.raises(CheckpointError) as caught:
            RunFolder.open(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_resume_takes_the_newest_run_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="no run agent_1"):
        RunFolder.create(tmp_path, "agent", "", resume=True)
    runs = [RunFolder.create(tmp_path, "agent", f"seed: {n}\n") for n in range(3)]
    add_checkpoint(runs[0], 1)
    add_checkpoint(runs[1], 1)
    monkeypatch.setattr(sys, "argv", ["sideagents", "train", "--resume"])
    again = RunFolder.create(tmp_path, "agent", "other", resume=True)
    assert again.path == runs[1].path
    assert again.config_path.read_text() == "seed: 1\n"
    assert len((again.path / "command.txt").read_text().splitlines()) == 1
    again.go_on(9)
    assert (again.path / "command.txt").read_text().splitlines()[1:] == ["sideagents train --resume"]
    assert json.loads((again.path / "versions.json").read_text()) == versions()
    changed = {**versions(), "torch": "9.9"}
    monkeypatch.setattr("sideagents.run.folder.versions", lambda: changed)
    again.go_on(9)
    again.go_on(9)
    assert json.loads((again.path / "versions.json").read_text())["resumed"] == [changed]


def test_the_table_grows_and_reads_back(tmp_path: Path) -> None:
    table = ScalarTable(tmp_path / "progress.csv")
    table.write(1, {"loss": 0.1 + 0.2, "note": "a, b"})
    table.write(2, {"loss": 0.5, "eval/success": 1})
    table.write(3, {"note": "c"})
    assert table.path.read_text().splitlines() == [
        "step,loss,note,eval/success", '1,0.30000000000000004,"a, b",', "2,0.5,,1", "3,,c,"
    ]  # fmt: skip
    assert float(read_scalars(table.path)[0]["loss"]) == 0.1 + 0.2


def test_resume_drops_rows_after_the_step_and_the_half_row(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    table = ScalarTable(path)
    for step in range(5):
        table.write(step, {"loss": float(step)})
    uninterrupted = path.read_text()
    with path.open("a") as file:
        file.write("5,0.")  # killed while writing
    again = ScalarTable(path)
    assert path.read_text() == uninterrupted
    again.truncate(2)
    for step in range(3, 5):
        again.write(step, {"loss": float(step)})
    assert path.read_text() == uninterrupted


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    for text in ("a,b\n1,2\n", "step,b\nx,2\n"):
        path.write_text(text)
        with pytest.raises(SideAgentsError, match=r"progress\.csv: is no table"):
            read_scalars(path)


def test_a_damaged_table_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    for text in (
        "step,b\n\u00b2,2\n", "step,b\n1.5,2\n", "step,b\n,2\n", "step,b\n" + "9" * 5000 + ",2\n", "step,b\n1_0,2\n",
        "step,b\n1," + "x" * 200_000 + "\n", 'step,b\n1,"2\n', "step,step\n1,2\n", "step,b\n--1,2\n",
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(SideAgentsError, match=r"progress\.csv: is no table") as caught:
            read_scalars(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


class Settings(BaseModel):
    seed: int = 1


def failing(root: Path, checkpoints: int, resume: bool = False) -> Path:
    """Work on a run, add checkpoints, fail; return where it was."""
    with pytest.raises(KeyError), RunFolder.working(root, "agent", Settings(), resume) as run:
        fail_with(run, checkpoints)
    return run.path


def fail_with(run: RunFolder, checkpoints: int) -> None:
    assert (run.path / "config.yaml").is_file()
    for step in range(checkpoints):
        add_checkpoint(run, step)
    raise KeyError


def test_a_run_that_fails_before_a_checkpoint_vanishes_and_one_with_a_checkpoint_stays(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    failing(root, 0)
    assert not root.exists()
    path = failing(root, 1)
    assert failing(root, 0, resume=True) == path == next(root.iterdir())
    with RunFolder.working(root, "agent", Settings(), resume=True):
        pass
    assert not (path / ".lock").exists()


def test_a_run_that_is_worked_on_is_refused(tmp_path: Path) -> None:
    with RunFolder.working(tmp_path, "agent", Settings()) as run:
        add_checkpoint(run, 1)
        before = (run.path / "command.txt").read_bytes()
        with (
            pytest.raises(SideAgentsError, match=rf"agent_1: process {os.getpid()} is working on it"),
            RunFolder.working(tmp_path, "agent", Settings(), resume=True),
        ):
            pass
        assert (run.path / "command.txt").read_bytes() == before
    with (
        pytest.raises(ConfigError, match="seed was 1, now 2"),
        RunFolder.working(tmp_path, "agent", Settings(seed=2), resume=True),
    ):
        pass


def test_an_end_by_divergence_or_a_full_disk_says_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sideagents", "adapt", "mine.yaml"])
    run = RunFolder.create(tmp_path, "agent", "")
    with pytest.raises(DivergedError, match="gone; there is no checkpoint yet"), run.telling():
        raise DivergedError("gone")
    with pytest.raises(SideAgentsError, match="a: No space left on device; there is no checkpoint yet"), run.telling():
        raise OSError(28, "No space left on device", "a")
    kept = add_checkpoint(run, 1)
    with pytest.raises(DivergedError, match=f"gone; the last good checkpoint is {kept}"), run.telling():
        raise DivergedError("gone")
    remedy = "a: No space left on device; make room, then go on with `sideagents adapt mine.yaml --resume`"
    with pytest.raises(SideAgentsError, match=remedy), run.telling():
        raise OSError(28, "No space left on device", "a")
    with pytest.raises(SideAgentsError, match="go on with `this`"), run.telling("this"):
        raise OSError(28, "No space left on device", "a")
    with pytest.raises(PermissionError), run.telling():
        raise PermissionError(13, "Permission denied", "a")


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "eval", "videos", "plots", "demos"])
def test_a_folder_that_is_a_link_out_of_the_run_is_refused(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    run = RunFolder.create(tmp_path / "runs", "agent", "")
    if name != "checkpoints":
        add_checkpoint(run, 1)
    (run.path / name).symlink_to(outside, target_is_directory=True)
    with pytest.raises(CheckpointError, match=f"{name}: is a link out of the run, to {outside}; put in its place"):
        RunFolder.open(run.path)
    (run.path / name).unlink()
    (run.path / "own").mkdir()
    (run.path / name).symlink_to("own", target_is_directory=True)  # within the run it may point where it likes
    RunFolder.open(run.path)


def test_files_that_are_links_out_of_the_run_pipes_or_circles(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs", "agent", "")
    checkpoint = add_checkpoint(run, 1)
    odd = checkpoint / "more.json"
    for make, message in (
        (lambda: odd.symlink_to("/dev/zero"), "is a link out of the run, to /dev/zero"),
        (lambda: odd.symlink_to(tmp_path / "not there"), "is a link out of the run"),
        (lambda: os.mkfifo(odd), "is a pipe, not a file of a run"),
    ):
        make()
        for opened in (run.path, checkpoint):
            with pytest.raises(CheckpointError, match=message):
                RunFolder.open(opened)
        odd.unlink()
    odd.symlink_to(odd.name)  # to itself
    assert RunFolder.open(run.path).latest() == checkpoint
    linked = tmp_path / "newest"
    linked.symlink_to(run.path, target_is_directory=True)  # the run itself may be found by a link
    assert RunFolder.open(linked).checkpoint() == linked / "checkpoints" / checkpoint.name


@pytest.mark.parametrize("text", ["[]", "3", '{"resumed": {}}', '{"resumed": [3]}', '{"imports": "os"}', "{", "null"])
def test_damaged_versions_are_known_before_anything_is_written(tmp_path: Path, text: str) -> None:
    run = RunFolder.create(tmp_path, "agent", "seed: 1\n")
    run.log(1, {"loss": 0.5})
    run.log(2, {"loss": 0.25})
    run.close()
    (run.path / "versions.json").write_text(text)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"versions\.json: is "):
        run.go_on(1, Settings())
    with pytest.raises(CheckpointError, match=r"versions\.json: is "):
        run.forgotten_imports()
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_log_reaches_the_table_and_tensorboard_and_rewinds(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "agent", "")
    assert not (run.path / "tensorboard").exists()
    for step in (1, 2, 3):
        run.log(step, {"alpha": step / 10, "note": "text stays in the table"})
    run.close()
    again = RunFolder.open(run.path)
    again.rewind(1)
    time.sleep(
        1.0 - time.time() % 1.0
    )  # within one second TensorBoard orders files by a number that is text, 10 before 9
    again.log(2, {"alpha": 0.9})
    again.close()
    again.close()
    assert [row["alpha"] for row in read_scalars(run.path / "progress.csv")] == ["0.1", "0.9"]
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert [(event.step, round(event.value, 4)) for event in events.Scalars("alpha")] == [(1, 0.1), (2, 0.9)]


def test_importing_the_folder_does_not_import_tensorboard() -> None:
    code = "import sys, sideagents.run.folder; print('tensorboard' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
