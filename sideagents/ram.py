"""What this machine has: its memory, or the share of it that a container gets."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

from sideagents.errors import ConfigError

# limits of control groups, version 2 and 1; "max" or an absurd number where there is none
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@functools.cache
def memory_bytes() -> int:
    """Return the bytes of memory that this process may use: the machine's, or less in a control group."""
    return min([_physical(), *(limit for path in _groups() if (limit := _limit(path)) is not None)])


def require_memory(size: int, what: str, remedy: str) -> None:
    """Raise `ConfigError` where `size` bytes are more than this machine has: before hours of work, not after."""
    if (line := memory_line(size, what, remedy)) is not None:
        raise ConfigError(line)


def require_disk(folder: Path, size: int, what: str, remedy: str) -> None:
    """Raise `ConfigError` where `size` bytes are more than is free where `folder` is; the folder is made.

    To be asked before a file is mapped into memory: a disk that is full then ends the process without a word.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (line := disk_line(folder, size, what, remedy)) is not None:
        raise ConfigError(line)


def disk_line(folder: Path, size: int, what: str, remedy: str) -> str | None:
    """Return the line that says that `size` bytes are more than is free where `folder` is or would be, or None."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if size <= free:
        return None
    return f"{folder}: {what} takes {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: {remedy}"


def memory_line(size: int, what: str, remedy: str) -> str | None:
    """Return the line that says that `size` bytes are more than this machine has, or None where they are not."""
    if size <= memory_bytes():
        return None
    return f"{what} takes {size / 1e9:.1f} GB, the machine has {memory_bytes() / 1e9:.1f} GB of memory: {remedy}"


def _physical() -> int:
    if not hasattr(os, "sysconf"):  # Windows: nothing is known, nothing is refused
        return 2**63 - 1
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _groups() -> list[Path]:
    """Return the files that may hold a limit: the root's, and those of this process's own group and all above it."""
    found = [Path(path) for path in _LIMITS]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, group = line.split(":", 2)
        root = Path("/sys/fs/cgroup") / ("memory" if "memory" in controllers.split(",") else "")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        if not controllers or "memory" in controllers.split(","):
            own = root / group.strip("/")
            found += [folder / name for folder in (own, *own.parents) if folder.is_relative_to(root)]
    return found


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
