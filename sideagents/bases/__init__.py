"""Bases: frozen encoders by name, from the package, from local files, from timm, or from the user's own code."""

from sideagents.bases.files import read_card, save_base
from sideagents.bases.loading import SHIPPED, list_bases, load_base

__all__ = ["SHIPPED", "list_bases", "load_base", "read_card", "save_base"]
