"""The user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Return `SIDEAGENTS_CACHE`, else `~/.cache/sideagents`; nothing is made."""
    root = os.environ.get("SIDEAGENTS_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "sideagents"
