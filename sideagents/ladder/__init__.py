"""Ladder Side-Tuning: large frozen transformers, adapted by a narrow network on a ladder of their activations."""

from sideagents.ladder.model import LadderModel

__all__ = ["LadderModel"]
