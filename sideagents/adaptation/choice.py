"""Which task is meant where a call names none."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import checkpoint

from sideagents.errors import SideAgentsError

_NAMES = "_sideagents_tasks"


class Choice:
    """A name for each thread: the one it has set, else the one that was set last in any.

    A forward pass that `torch.utils.checkpoint` computes again in the backward pass means the task that it meant at
    first, whatever was set in between. Copies and pickles hold the name that counts where they are made.
    """

    def __init__(self, name: str | None = None) -> None:
        self._last, self._own = name, threading.local()

    def get(self) -> str | None:
        """Return the name, None where none was set.

        Raises `SideAgentsError` in a backward pass whose forward pass cannot be told.
        """
        name: str | None = getattr(self._own, "name", self._last)
        if torch.compiler.is_compiling():
            return name
        calls = list(_checkpointed_calls())
        for call, again in calls:
            known: list[str | None] = vars(call).get(_NAMES, {}).get(id(self), []) if again else []
            if known:
                known.append(known.pop(0))  # the next one of this call, and again from the first in another pass
                return known[-1]
        if name is not None and torch._C._current_graph_task_id() != -1:
            raise SideAgentsError(
                f"which task? a forward pass is computed again in the backward pass, and {name!r} may have been set "
                "since: name the task in the call"
            )
        for call, _ in calls:
            vars(call).setdefault(_NAMES, {}).setdefault(id(self), []).append(name)
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


def _checkpointed_calls() -> Iterator[tuple[Any, bool]]:
    """Yield the checkpointed calls that this one stands in, innermost first, and whether each is computed again.

    A call is an object that torch keeps from the forward to the backward pass; torch tells nobody which one it is in,
    so that it is looked up where its functions stand on the stack.
    """
    frame = sys._getframe(1)
    while (above := frame.f_back) is not None:
        frame = above
        if frame.f_code.co_filename != checkpoint.__file__:
            continue
        name, local = frame.f_code.co_name, frame.f_locals
        if name in ("forward", "backward") and "ctx" in local:  # use_reentrant=True
            yield local["ctx"], name == "backward"
        elif name == "unpack_hook" and "frame" in local:
            yield local["frame"], True
        elif name == "checkpoint" and getattr(local.get("gen"), "gi_frame", None) is not None:
            yield local["gen"].gi_frame.f_locals["new_frame"], False
