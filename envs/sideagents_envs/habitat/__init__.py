"""Habitat: our simulator inside habitat-lab, habitat-sim where it is installed, the same PointNav on both.

Nothing here imports habitat-lab until it is used; without it every use answers with the line that installs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sideagents_envs.habitat.importing import register
    from sideagents_envs.habitat.pointnav import HabitatPointNavEnv

__all__ = ["HabitatPointNavEnv", "register"]

_LAZY = {
    "HabitatPointNavEnv": "sideagents_envs.habitat.pointnav",
    "register": "sideagents_envs.habitat.importing",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
