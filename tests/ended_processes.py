"""Whether processes are gone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path


def has_ended(pid: int) -> bool:
    """Tell whether a process is gone, or a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def have_ended(pids: Sequence[int], seconds: float = 10.0) -> bool:
    """Wait until all are gone; return whether they are."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not all(has_ended(pid) for pid in pids):
        time.sleep(0.05)
    return all(has_ended(pid) for pid in pids)


def still_alive(folder: Path, seconds: float = 15.0) -> list[int]:
    """Return the processes that wrote their number into files `pid*` of a folder and still run after a while."""
    pids = [int(path.read_text()) for path in folder.glob("pid*")]
    assert pids
    have_ended(pids, seconds)
    return [pid for pid in pids if not has_ended(pid)]
