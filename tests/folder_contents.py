"""What is in a folder, to be compared with what is in it later."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """Return `{path: bytes of a file, None of a folder, a word for anything else}` of all that is below a folder.

    Links are not followed and special files not opened: both are told by what they are.
    """
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[str(path)] = f"link to {os.readlink(path)}"
        elif stat.S_ISREG(mode):
            found[str(path)] = path.read_bytes()
        else:
            found[str(path)] = None if stat.S_ISDIR(mode) else f"special {stat.S_IFMT(mode):o}"
    return found
