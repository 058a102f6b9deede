"""What the tests ask before they import a package that is not always installed."""

from __future__ import annotations

from importlib.util import find_spec

from sideagents.bases.timm_base import import_torchvision


def transformers_ready() -> bool:
    """Tell whether transformers is installed, and load the torchvision that its import would fail on otherwise."""
    if find_spec("transformers") is None:
        return False
    if find_spec("torchvision") is not None:
        import_torchvision()  # as it is where it was built for another torch
    return True
