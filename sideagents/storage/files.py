"""Files that are never half written, and JSON that says which file is wrong."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sideagents.errors import ConfigError, SideAgentsError, nearest
from sideagents.ram import memory_bytes

FULL = (errno.ENOSPC, errno.EDQUOT)  # what an `OSError` of a full disk says
_SPECIAL = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def data_folder() -> Path | None:
    """Return where data is looked for next: the folder that `SIDEAGENTS_DATA` names, if it is set."""
    root = os.environ.get("SIDEAGENTS_DATA")
    return Path(root).expanduser() if root else None


def find_data(name: str) -> str:
    """Return a path of data with `~` written out, or the same path below `data_folder()` when only that exists.

    `{split}` may stand in it; it is there when it is there for the split `val`.
    """
    given, root = os.path.expanduser(name), data_folder()
    shown = given.replace("{split}", "val")
    if root and not os.path.exists(shown) and os.path.exists(root / shown):
        return str(root / given)
    return given


def missing_folder(path: str | Path) -> str:
    """Say that a folder of data is not there, and where it was looked for."""
    return f"no such folder {path} (nor below {data_folder() or 'SIDEAGENTS_DATA, which is not set'})"


def find_file(name: str) -> str:
    """Return `find_data(name)` for the name of a weights file, and any other name as it is."""
    return find_data(name) if name.endswith((".safetensors", ".pth", ".pt")) else name


def missing(names: Mapping[str, str | None]) -> Iterator[str]:
    """Yield one line for each key whose name is that of a weights file which is not there."""
    for key, name in names.items():
        if name and name.endswith((".safetensors", ".pth", ".pt")) and not os.path.isfile(name):
            yield f"{key}: no such file {name}"


def require(missing_lines: Iterable[str]) -> None:
    """Raise `ConfigError` with the first of the lines that say what is not there, if there is one."""
    for line in missing_lines:
        raise ConfigError(line)


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable; a no-op where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Let an `OSError` of the block that names no file, as a full disk's, name `path`."""
    try:
        yield
    except OSError as problem:
        if problem.filename is not None or problem.errno is None:
            raise
        raise OSError(problem.errno, problem.strerror or os.strerror(problem.errno), str(path)) from problem


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name beside `path`, flush it to disk, then rename it to `path`.

    Raises `OSError` with the name of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with naming_file(path), os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; raises `ValueError` for nan and infinity."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def missing_message(path: Path) -> str:
    """Return `"PATH: no such file"` with the nearest name in its folder, or the first folder that is missing."""
    folder = path.parent
    if folder.is_dir():
        return f"{path}: no such file{nearest(path.name, sorted(entry.name for entry in folder.iterdir()))}"
    while not folder.parent.is_dir():
        folder = folder.parent
    return f"{path}: no such file (the folder {folder} does not exist)"


def special(mode: int) -> str | None:
    """Return what a file is by its mode where it is neither a file nor a folder (nor a link): "a pipe", ..."""
    return _SPECIAL.get(stat.S_IFMT(mode))


def check_readable(path: Path, error: type[SideAgentsError] = SideAgentsError) -> None:
    """Raise `error` with one line unless `path` is a file, and one that fits into memory.

    To be asked before a file is opened by anything else than `read_bytes`: a pipe would hang, a device never end.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise error(missing_message(path)) from None
    except (OSError, ValueError) as problem:  # a name with NUL in it is a ValueError
        raise error(f"{path}: cannot be read ({getattr(problem, 'strerror', None) or problem})") from None
    if stat.S_ISDIR(found.st_mode):
        raise error(f"{path}: is a folder, a file is needed")
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{path}: is {special(found.st_mode) or 'no file'}, a file is needed")
    if found.st_size > memory_bytes():
        raise error(
            f"{path}: holds {found.st_size / 1e9:.1f} GB, the machine has {memory_bytes() / 1e9:.1f} GB of memory"
        )


def read_bytes(path: Path, error: type[SideAgentsError] = SideAgentsError) -> bytes:
    """Return the bytes of a file; raises `error` with one line when it is missing, no file or cannot be read."""
    check_readable(path, error)
    try:
        return path.read_bytes()
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from None


def read_text(path: Path, error: type[SideAgentsError] = SideAgentsError) -> str:
    """Return the UTF-8 text of `path`; raises `error` with one line."""
    try:
        return read_bytes(path, error).decode()
    except UnicodeDecodeError as problem:
        raise error(f"{path}: is no UTF-8 text (byte {problem.start})") from None


def read_json(path: Path, error: type[SideAgentsError] = SideAgentsError) -> Any:
    """Return the value in a JSON file; raises `error` with one line naming the file, and line and column of a fault."""
    text = read_text(path, error)
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        where = f"line {problem.lineno}, column {problem.colno}"
        raise error(f"{path}: is no valid JSON ({problem.msg}, {where})") from None
    except (RecursionError, ValueError) as problem:  # nested too deep, or an integer of thousands of digits
        raise error(f"{path}: is no valid JSON ({problem})") from None
