"""Files of a user's or a stranger's, which may be pipes, devices or nothing at all."""

from __future__ import annotations

import stat
from pathlib import Path

from sideagents_envs.errors import EnvsError


def read_bytes(path: Path, error: type[EnvsError] = EnvsError) -> bytes:
    """Return the bytes of a file; raises `error` with one line where it is no file or cannot be read.

    Anything but a file is refused before it is opened: a pipe would hang, a device never end. A file that is not
    there is a `FileNotFoundError`: who asks knows what was looked for.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise error(f"{path}: is {'a folder' if stat.S_ISDIR(mode) else 'a pipe or a device'}, a file is needed")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from None


def read_text(path: Path, error: type[EnvsError] = EnvsError) -> str:
    """Return the UTF-8 text of a file; raises as `read_bytes` does."""
    try:
        return read_bytes(path, error).decode()
    except UnicodeDecodeError as problem:
        raise error(f"{path}: is no UTF-8 text (byte {problem.start})") from None
