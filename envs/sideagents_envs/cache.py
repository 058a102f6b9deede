"""The cache folder for generated buildings and navigation meshes, and writing that is never half done."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CONSTANTS = ("sensors/spaces.py",)  # hold numbers that are compiled into kernels


def cache_dir() -> Path:
    """Return the cache folder: `SIDEAGENTS_CACHE`, else `~/.cache/sideagents`."""
    root = os.environ.get("SIDEAGENTS_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "sideagents"


def keep_kernels() -> None:
    """Tell numba to keep compiled kernels in the cache folder, below the digest of the modules that hold them.

    Beside the modules, where numba would keep them, an installation may be read-only, which numba takes for an error
    when there is no home folder either; and a kernel that was compiled with another module's kernel inside would be
    used on when that module has changed. All installations with equal modules share what one of them has compiled;
    numba itself tells processors and its own versions apart. To be called before our kernels are imported. A folder
    that the user chose with NUMBA_CACHE_DIR stays, and where the cache folder cannot be written to numba is left to
    itself.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    try:
        package = Path(__file__).parent
        sources = {file.relative_to(package): file.read_bytes() for file in sorted(package.rglob("*.py"))}
        holds = re.compile(rb"^@(kernel|.*njit)|njit\(", re.MULTILINE)
        kernels = {name: source for name, source in sources.items() if holds.search(source)}
        constants = [source for name, source in sources.items() if name.as_posix() in _CONSTANTS]
        digest = hashlib.sha256(b"".join([*kernels.values(), *constants])).hexdigest()
        folder = cache_dir() / f"numba-{digest[:16]}"
        for room in {(package / name).parent for name in kernels}:
            (folder / room.name).mkdir(parents=True, exist_ok=True)
            _share(folder / room.name, room)
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return
    if os.access(folder, os.W_OK | os.X_OK):
        os.environ["NUMBA_CACHE_DIR"] = str(folder)
        if "numba" in sys.modules:  # imported by someone else, it has read the environment already
            sys.modules["numba"].config.reload_config()


def _share(kept: Path, room: Path) -> None:
    """Lead the folder that numba names after the path of our `room` to the one that all installations share.

    Where links cannot be made, each installation compiles for itself.
    """
    own = kept.with_name(f"{room.name}_{hashlib.sha1(os.path.abspath(room).encode()).hexdigest()}")
    with suppress(OSError):
        if not own.exists():
            own.symlink_to(kept.name, target_is_directory=True)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; it becomes `path` when the block ends well and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix="".join(path.suffixes))
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
