"""Modules of the user's own that register names (bases, sides, merges, methods): imported on demand, and recorded."""

from __future__ import annotations

import traceback
from importlib import import_module

from sideagents.errors import SideAgentsError

_imported: list[str] = []


def import_own(name: str) -> None:
    """Import a module; runs that this process makes record its name, and worker processes import it too.

    Raises `SideAgentsError` when it is not found or fails.
    """
    absent = (
        f"--import {name}: no such module; it is named without .py, and must be installed or lie in a folder of "
        "PYTHONPATH (PYTHONPATH=. for the present one)"
    )
    if not all(part.isidentifier() for part in name.split(".")):
        raise SideAgentsError(absent)
    try:
        import_module(name)
    except Exception as error:
        own = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
        raise SideAgentsError(absent if own else _failed(name, error)) from error
    if name not in _imported:
        _imported.append(name)


def imported() -> list[str]:
    """Return the names that `import_own` was given, in their order."""
    return list(_imported)


def import_words() -> list[str]:
    """Return them as words of a command line."""
    return [word for name in _imported for word in ("--import", name)]


def _failed(name: str, error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"--import {name}: {type(error).__name__}: {error} ({frames[-1].filename}, line {frames[-1].lineno})"
