"""Side-tuning and its relatives: a frozen base, a small trained side network, a learned alpha."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sideagents.adaptation import Adapted as Adapted
    from sideagents.adaptation import adapt as adapt
    from sideagents.bases import BASES as BASES
    from sideagents.bases import list_bases as list_bases
    from sideagents.bases import load_base as load_base
    from sideagents.bases import register_base as register_base
    from sideagents.bases import save_base as save_base
    from sideagents.core.alpha import ALPHAS as ALPHAS
    from sideagents.core.alpha import make_alpha as make_alpha
    from sideagents.core.base import FrozenBase as FrozenBase
    from sideagents.core.counting import multiply_adds as multiply_adds
    from sideagents.core.merge import MERGES as MERGES
    from sideagents.core.merge import make_merge as make_merge
    from sideagents.core.methods import METHODS as METHODS
    from sideagents.core.methods import build_perception as build_perception
    from sideagents.core.side import SIDES as SIDES
    from sideagents.core.side import make_side as make_side
    from sideagents.core.sidetuned import SideTuned as SideTuned
    from sideagents.core.trainable import TrainableBase as TrainableBase
    from sideagents.core.trainable import trainable_copy as trainable_copy
    from sideagents.errors import BaseError as BaseError
    from sideagents.errors import CheckpointError as CheckpointError
    from sideagents.errors import ConfigError as ConfigError
    from sideagents.errors import SideAgentsError as SideAgentsError

__version__ = version("sideagents")

# Loaded on first use: what needs no networks must not wait for torch.
_HOMES = {
    "ALPHAS": "core.alpha",
    "BASES": "bases",
    "MERGES": "core.merge",
    "METHODS": "core.methods",
    "SIDES": "core.side",
    "Adapted": "adaptation",
    "BaseError": "errors",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "FrozenBase": "core.base",
    "SideAgentsError": "errors",
    "SideTuned": "core.sidetuned",
    "TrainableBase": "core.trainable",
    "adapt": "adaptation",
    "build_perception": "core.methods",
    "list_bases": "bases",
    "load_base": "bases",
    "make_alpha": "core.alpha",
    "make_merge": "core.merge",
    "make_side": "core.side",
    "multiply_adds": "core.counting",
    "register_base": "bases",
    "save_base": "bases",
    "trainable_copy": "core.trainable",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
