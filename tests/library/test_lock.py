"""One process at a time works on a folder; what a killed one leaves locks nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sideagents.errors import SideAgentsError
from sideagents.storage.lock import LOCK, locked

HOLD = "import sys, time, pathlib; from sideagents.storage.lock import locked\n" + (
    "with locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
)


def holder(folder: Path) -> subprocess.Popen[str]:
    """Return a process that holds the lock of a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_in_one_line_and_a_killed_one_locks_nothing(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        with (
            pytest.raises(SideAgentsError, match=f"process {process.pid} is working on it") as caught,
            locked(tmp_path),
        ):
            pass
        assert str(caught.value).startswith(f"{tmp_path}: ")
        assert "\n" not in str(caught.value)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (tmp_path / LOCK).exists()  # what it left
        with locked(tmp_path):
            pass
        assert not list(tmp_path.iterdir())
    finally:
        process.kill()
        process.communicate()


def test_a_process_holds_it_once_and_again_when_it_is_free(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            assert (tmp_path / LOCK).read_text() == str(os.getpid())
            with pytest.raises(SideAgentsError, match="working on it"), locked(tmp_path):
                pass
        assert not list(tmp_path.iterdir())


def test_it_is_released_after_an_error_and_when_the_folder_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(KeyError), locked(folder):
        raise KeyError
    with locked(folder):
        (folder / LOCK).unlink()
        folder.rmdir()
    assert not folder.exists()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(SideAgentsError, match="cannot be written"), locked(folder):
        pass
    assert (tmp_path / "precious").read_text() == "kept"
