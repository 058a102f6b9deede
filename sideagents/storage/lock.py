"""A folder that one process at a time writes into; the system releases the lock when the process dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sideagents.errors import SideAgentsError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"  # in the folder, while a process works on it
_OWNER_BYTES = 20


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that is there; raises `SideAgentsError` with one line where another process does.

    One process may hold it once. The file goes when the block ends; what a killed process leaves locks nothing.
    """
    path = folder / LOCK
    handle = _take(path)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        with suppress(OSError):  # Windows keeps an open file
            path.unlink()  # while it is locked, so that nobody else's goes
        os.close(handle)


def _take(path: Path) -> int:
    """Return the descriptor of the locked file."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except OSError as problem:
            raise SideAgentsError(f"{path}: cannot be written ({problem.strerror})") from None
        try:
            _lock(handle)
        except OSError:
            owner = os.read(handle, _OWNER_BYTES).decode(errors="replace")
            os.close(handle)
            who = f"process {owner}" if owner.isdecimal() else "another process"
            raise SideAgentsError(f"{path.parent}: {who} is working on it; wait for its end, or stop it") from None
        try:
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # its holder removed it in between: the lock is of another file


def _lock(handle: int) -> None:
    """Lock an open file or raise `OSError` at once."""
    if sys.platform == "win32":
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
