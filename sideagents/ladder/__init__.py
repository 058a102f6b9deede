"""Ladder Side-Tuning: a frozen transformer, adapted by a narrow network on a ladder of its activations."""

from sideagents.ladder.distilling import distil
from sideagents.ladder.model import LadderModel
from sideagents.ladder.pruning import fisher_importance

__all__ = ["LadderModel", "distil", "fisher_importance"]
