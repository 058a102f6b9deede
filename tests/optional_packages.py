"""What the tests ask before they import a package that is not always installed."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from typing import Any

import pytest

from sideagents.bases.timm_base import import_torchvision
from sideagents.core.protocol import Methods


def transformers_ready() -> bool:
    """Tell whether transformers is installed, and load the torchvision that its import would fail on otherwise."""
    if find_spec("transformers") is None:
        return False
    if find_spec("torchvision") is not None:
        import_torchvision()  # as it is where it was built for another torch
    return True


def methods_of(registry: Methods[Any], skipped: Collection[str] = ()) -> list[Any]:
    """Return the names of a registry's methods as parameters; those of PEFT are skipped where it is not installed."""
    skip = pytest.mark.skipif(find_spec("peft") is None, reason="PEFT is not installed (the `nlp` extra)")
    names = [name for name in registry.names() if name not in skipped]
    return [pytest.param(name, marks=skip) if name in ("lora", "ia3") else name for name in names]
