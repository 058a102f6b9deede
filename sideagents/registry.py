"""Names for methods, sides, merges and bases: one line registers, a wrong or repeated name is refused."""

from __future__ import annotations

from importlib import import_module
from typing import Generic, TypeVar, cast

from sideagents.errors import SideAgentsError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A table from name to object; a target may be given lazily as `"module:attribute"`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._targets: dict[str, T | str] = {}

    def register(self, name: str, target: T | str) -> None:
        """Add `name`; raises `SideAgentsError` when it is taken."""
        if name in self._targets:
            raise SideAgentsError(f"{self.kind} {name!r} is registered already")
        self._targets[name] = target

    def get(self, name: str) -> T:
        """Return the object of that name; raises `SideAgentsError` with the known names."""
        if not isinstance(name, str) or name not in self._targets:
            known = ", ".join(self.names())
            raise SideAgentsError(f"unknown {self.kind} {name!r}{nearest(str(name), self.names())} (known: {known})")
        target = self._targets[name]
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            target = cast(T, getattr(import_module(module), attribute))
            self._targets[name] = target
        return target

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._targets)
