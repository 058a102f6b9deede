"""Train and eval modes of a network's parts, kept over what changes them for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import nn


class HasParts(Protocol):
    """A network, or what looks like one."""

    def modules(self) -> Iterator[nn.Module]:
        """Yield all parts."""


@contextmanager
def modes_kept(module: HasParts) -> Iterator[None]:
    """Give every part of a network the mode back that it had, also after an error."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
