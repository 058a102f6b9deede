"""What a command must do with damaged or hostile input: exit 2, one line, no traceback, nothing written, nothing run.

`refused` runs `main(words)` in this process, `refused_by_command` the real command; both compare the folder `here`
before and after. Run them with `here` as the working directory: then whatever a payload writes is found too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from folder_contents import contents
from sideagents_policies.cli.main import main

MARKER = "hacked"  # the file that payloads (a pickle, a YAML tag, a module that is imported) would make
SECONDS = 30.0  # the longest that a refusal may take; a hang is found by pytest's own limit


def refused(words: Sequence[object], here: Path, capfd: pytest.CaptureFixture[str], message: str = "") -> str:
    """Run a command in this process; return its one line after all was checked. `message` must stand in the line."""
    before, started = contents(here), time.perf_counter()
    capfd.readouterr()
    code = main([str(word) for word in words])
    seconds = time.perf_counter() - started
    return _checked(code, capfd.readouterr().err, here, before, seconds, message)


def refused_by_command(words: Sequence[object], here: Path, message: str = "") -> str:
    """Run the real command with `here` as its working directory; else as `refused`."""
    before, started = contents(here), time.perf_counter()
    command = [sys.executable, "-m", "sideagents_policies.cli.main", *(str(word) for word in words)]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=300, env=_with_this_path())
    start_up = 60.0  # of an interpreter and torch on a busy machine
    return _checked(done.returncode, done.stderr, here, before, time.perf_counter() - started - start_up, message)


def _with_this_path() -> dict[str, str]:
    """Return the environment for a command that imports what this process imports."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _checked(
    code: int, err: str, here: Path, before: dict[str, bytes | str | None], seconds: float, message: str
) -> str:
    assert "Traceback" not in err, err
    assert code == 2, f"exit {code}: {err}"
    assert err.startswith("error: "), err
    assert err.endswith("\n"), err
    assert len(err.splitlines()) == 1, err
    assert message in err, err
    assert len(err) < 2000, f"a line of {len(err)} characters"
    after = contents(here)
    changed = sorted(name for name in {*before, *after} if before.get(name, 0) != after.get(name, 0))
    assert changed == [], f"written, changed or removed: {changed}"
    assert not (here / MARKER).exists()
    assert seconds < SECONDS, f"took {seconds:.0f} s"
    return err
