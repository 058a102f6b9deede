"""Where a result came from: the command, the versions of everything, the commit, modules of the user's."""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sideagents.config.imports import imported
from sideagents.machine.devices import processor_name

_PACKAGES = ("sideagents", "torch", "numpy", "stable-baselines3", "gymnasium", "safetensors", "numba", "embreex")
_ROWS = "docs/results"


def command_line(argv: Sequence[str] | None = None) -> str:
    """Return the command that runs now, shell-quoted, as it can be typed again (installed programs by their name)."""
    program, *arguments = sys.argv if argv is None else argv
    path = Path(program)
    if path.name == "__main__.py":
        start = ["python", "-m", path.parent.name]
    elif path.suffix == ".py":
        inside = path.is_absolute() and path.is_relative_to(Path.cwd())
        start = ["python", str(path.relative_to(Path.cwd()) if inside else path)]
    else:
        start = [path.name if shutil.which(path.name) or path.name == "sideagents" else program]
    return shlex.join([*start, *arguments])


def versions() -> dict[str, Any]:
    """Return the versions of Python, this toolkit and its libraries, the machine, the git commit and `--import`s."""
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    found["processor"] = processor_name()
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    found["git_commit"] = git_commit()
    found["imports"] = imported()
    return found


def git_commit() -> str | None:
    """Return the commit of the source tree this package runs from (`-dirty` when it was changed), or None.

    Rows that are added to docs/results change nothing that computes the next ones.
    """
    here = Path(__file__).resolve().parent
    if _git(here, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # installed, perhaps below a repository of someone else
    commit = _git(here, "rev-parse", "HEAD")
    changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", ":/", f":(top,exclude){_ROWS}")
    return f"{commit}-dirty" if commit and changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
