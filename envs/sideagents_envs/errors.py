"""Errors of the environments: each carries what was wrong, where, and the remedy, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EnvsError(ValueError):
    """A user's mistake that concerns buildings, episodes or the simulator."""


class SceneError(EnvsError):
    """A building cannot be read or used; the message names the file."""


class EpisodeError(EnvsError):
    """An episode or episode file cannot be used; the message names the file or the episode."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Return `", did you mean 'x'?"` for the closest option, or an empty string."""
    match = difflib.get_close_matches(name, list(options), n=1)
    return f", did you mean {match[0]!r}?" if match else ""
