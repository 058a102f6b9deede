"""Frozen encoders by name: from the package, local files, timm, or the user's own code."""

from sideagents.bases.loading import BASES, SHIPPED, list_bases, load_base, register_base
from sideagents.bases.saved import read_card, save_base

__all__ = ["BASES", "SHIPPED", "list_bases", "load_base", "read_card", "register_base", "save_base"]
