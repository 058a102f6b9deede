"""Files are whole or absent, and a bad JSON file is one line that names it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from sideagents.errors import CheckpointError, SideAgentsError
from sideagents.run.progress import Progress
from sideagents.run.scalars import ScalarTable
from sideagents.storage.files import data_folder, find_data, read_json, read_text, write_bytes, write_json, write_text


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


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    table = ScalarTable(tmp_path / "progress.csv")
    table.write(1, {"loss": 1.0})
    monkeypatch.setattr(os, "fsync", no_disk)
    with pytest.raises(OSError, match="No space") as caught:
        write_bytes(tmp_path / "a.txt", b"new")
    assert caught.value.filename == str(tmp_path / "a.txt")
    with pytest.raises(OSError, match="No space") as caught:
        table.write(2, {"more": 1.0})
    assert caught.value.filename == str(tmp_path / "progress.csv")


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
        for name, kind in (("pipe", "a pipe"), ("zero", "a device"), ("socket", "a socket")):
            with pytest.raises(CheckpointError, match=f"{name}: is {kind}, a file is needed"):
                read_json(tmp_path / name, CheckpointError)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json(tmp_path / "a\0b", CheckpointError)
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 2**43)  # 8 TB with nothing in them
    with pytest.raises(CheckpointError, match=r"huge: holds 8796\.1 GB, the machine has"):
        read_json(tmp_path / "huge", CheckpointError)


def test_data_is_looked_for_below_the_variable_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared" / "data" / "tiny").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("SIDEAGENTS_DATA", raising=False)
    assert data_folder() is None
    assert find_data("tiny") == "tiny"
    monkeypatch.setenv("SIDEAGENTS_DATA", str(tmp_path / "shared" / "data"))
    assert find_data("tiny") == str(tmp_path / "shared" / "data" / "tiny")


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
    ids=["two pairs", "empty", "binary", "nested", "huge number"],
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
