"""Side-tuning and its relatives: a frozen base, a small trained side network, a learned alpha."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from sideagents.adapt import Adapted  # the package `adapt` can be called: it stands for the function of its name
from sideagents.bases import BASES, list_bases, load_base, register_base, save_base
from sideagents.core.alpha import ALPHAS, make_alpha
from sideagents.core.base import FrozenBase
from sideagents.core.counting import multiply_adds
from sideagents.core.merge import MERGES, make_merge
from sideagents.core.methods import METHODS, build_perception
from sideagents.core.side import SIDES, make_side
from sideagents.core.sidetuned import SideTuned
from sideagents.core.trainable import TrainableBase, trainable_copy
from sideagents.errors import BaseError, CheckpointError, ConfigError, SideAgentsError

if TYPE_CHECKING:
    from sideagents.adapt import adapt

__version__ = version("sideagents")

__all__ = [
    "ALPHAS",
    "BASES",
    "MERGES",
    "METHODS",
    "SIDES",
    "Adapted",
    "BaseError",
    "CheckpointError",
    "ConfigError",
    "FrozenBase",
    "SideAgentsError",
    "SideTuned",
    "TrainableBase",
    "adapt",
    "build_perception",
    "list_bases",
    "load_base",
    "make_alpha",
    "make_merge",
    "make_side",
    "multiply_adds",
    "register_base",
    "save_base",
    "trainable_copy",
]
