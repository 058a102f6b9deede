"""Which task is meant where a call names none."""

from __future__ import annotations

import threading
from typing import Any


class Choice:
    """A name for each thread: the one it has set, else the one that was set last in any.

    Copies and pickles hold the name that counts where they are made.
    """

    def __init__(self, name: str | None = None) -> None:
        self._last, self._own = name, threading.local()

    def get(self) -> str | None:
        """Return the name, None where none was set."""
        name: str | None = getattr(self._own, "name", self._last)
        return name

    def set(self, name: str) -> None:
        """Choose a name in this thread, and in those that choose none."""
        self._last = self._own.name = name

    def forget(self, name: str) -> None:
        """Take back a name that is there no more."""
        if self._last == name:
            self._last = None
        if getattr(self._own, "name", None) == name:
            del self._own.name

    def __reduce__(self) -> tuple[Any, ...]:
        return Choice, (self.get(),)
