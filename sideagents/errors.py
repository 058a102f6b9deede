"""Errors of the toolkit: each carries what was wrong, where, and the remedy, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SideAgentsError(ValueError):
    """A user's mistake; the command line prints its one line and exits with 2."""


class ConfigError(SideAgentsError):
    """A configuration is wrong; the message holds the key path."""


class CheckpointError(SideAgentsError):
    """A checkpoint cannot be read, or belongs to another model."""


class BaseError(SideAgentsError):
    """A base cannot be found, read, or fed with the given images."""


class DivergedError(SideAgentsError):
    """Training has diverged: the loss or a weight is no finite number; nothing of it was saved."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Return `", did you mean 'x'?"` for the closest option, or an empty string."""
    match = difflib.get_close_matches(name, list(options), n=1)
    return f", did you mean {match[0]!r}?" if match else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type when it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
