"""The cache folder for generated buildings and navigation meshes, and writing that is never half done."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONSTANTS = ("spaces.py",)  # hold numbers that are compiled into kernels
_TOLD = "SIDEAGENTS_TOLD_OF_COMPILING"


def cache_dir() -> Path:
    """Return the cache folder: `SIDEAGENTS_CACHE`, else `~/.cache/sideagents`."""
    root = os.environ.get("SIDEAGENTS_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "sideagents"


def keep_kernels() -> None:
    """Tell numba to keep compiled kernels in the cache folder, below the digest of the modules that hold them.

    Beside the modules, where numba would keep them, an installation may be read-only, which numba takes for an error
    when there is no home folder either; and a kernel that was compiled with another module's kernel inside would be
    used on when that module has changed. To be called before our kernels are imported. A folder that the user chose
    with NUMBA_CACHE_DIR stays, and where the cache folder cannot be written to numba is left to itself.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    try:
        sources = {file.name: file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))}
        holds = re.compile(rb"^@.*njit", re.MULTILINE)
        kernels = [source for name, source in sources.items() if name in _CONSTANTS or holds.search(source)]
        folder = cache_dir() / f"numba-{hashlib.sha256(b''.join(kernels)).hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return
    if os.access(folder, os.W_OK | os.X_OK):
        os.environ["NUMBA_CACHE_DIR"] = str(folder)
        if "numba" in sys.modules:  # imported by someone else, it has read the environment already
            sys.modules["numba"].config.reload_config()


def tell_of_compiling() -> None:
    """Say on standard error that kernels are about to be compiled, where none are kept yet.

    One of the processes that work together says it, once: the first of those that train, not those that it starts.
    """
    folder = os.environ.get("NUMBA_CACHE_DIR")
    if folder is None or _TOLD in os.environ or os.environ.get("RANK", "0") != "0":
        return
    os.environ[_TOLD] = "1"  # which child processes inherit
    if next(Path(folder).glob(f"{Path(__file__).parent.name}_*/*.nbi"), None) is None:
        print("compiling the simulator (once on this machine, up to a minute)", file=sys.stderr, flush=True)


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
