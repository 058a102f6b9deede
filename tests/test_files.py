"""Files are whole or absent, and a bad JSON file is one line that names it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sideagents.errors import CheckpointError, SideAgentsError
from sideagents.run.files import read_json, read_text, write_bytes, write_json, write_text
from sideagents.run.progress import Progress


def test_round_trip_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_json(path, {"x": [1, "ü"]})
    write_json(path, {"x": 2**70})
    assert read_json(path) == {"x": 2**70}
    assert [entry.name for entry in path.parent.iterdir()] == ["b.json"]
    write_text(path, "grüße\n")
    assert read_text(path) == "grüße\n"


def test_a_failing_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.txt"
    write_text(path, "old")

    def no_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_disk)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_refuses_nan_before_it_touches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, float("nan"))
    assert read_json(path) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b" 2}', "line 2, column 6"),
        (b"", "line 1, column 1"),
        (b"\x80\x04", "no UTF-8"),
        (b"[" * 100_000, "no valid JSON"),
        (b"1" * 10_000, "no valid JSON"),
    ],
)
def test_bad_json_is_one_line_with_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_json(path, CheckpointError)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps(1))
    with pytest.raises(SideAgentsError, match=r"stat\.json: no such file, did you mean 'state\.json'"):
        read_json(tmp_path / "stat.json")
    with pytest.raises(SideAgentsError, match="no such file"):
        read_json(tmp_path / "state.json" / "below.json")


def test_progress_off_a_terminal_writes_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, "epochs", unit="image", line_every_s=0.0) as progress:
        progress.update(4, loss=0.25)
        progress.update(6, loss=0.125)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("epochs: 4/10 image")
    assert lines[-1].startswith("epochs: 10/10 image")
    assert lines[-1].endswith("loss=0.125")
    with Progress(10, "epochs", line_every_s=1e9) as progress:
        progress.update(10)
    assert len(capsys.readouterr().err.splitlines()) == 1
    with Progress(10, "epochs", show="off") as progress:
        progress.update(10)
    assert capsys.readouterr().err == ""


def test_progress_bar_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, "epochs", done=2, show="bar") as progress:
        progress.update(8, loss=0.5)
    assert "10/10" in capsys.readouterr().err
