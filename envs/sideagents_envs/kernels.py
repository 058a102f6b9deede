"""The decorator of all compiled functions of the simulator, and the line that says when they are being compiled.

Compiling takes numba's own Python most of the time, and it does so anew for every kind of argument: a constant integer
is a kind of its own, a 32-bit integer another. Kernels therefore hand on `wide(...)` integers, copy numbers instead of
slices (whose error texts are compiled too), and leave the inlining of small functions to LLVM.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core import event

Function = TypeVar("Function", bound=Callable[..., Any])

TOLD = "SIDEAGENTS_TOLD_OF_COMPILING"  # set for processes that need not say it


def kernel(function: Function) -> Function:
    """Compile a function when it is first called, and keep the result in the cache folder.

    Dividing by zero gives infinity or nan, as numpy does, instead of an exception.
    """
    return cast(Function, numba.njit(cache=True, error_model="numpy")(function))


@kernel
def wide(number: Any) -> int:
    """Return an integer of an array as one of 64 bits, the only kind that kernels are compiled for."""
    return int(np.int64(number))


class _Announcer(event.Listener):
    """Says on standard error that our kernels are being compiled: when it happens, not when it might.

    One of the processes that work together says it, once: the first of those that train, not those that it starts.
    """

    def on_start(self, event: Any) -> None:
        """Hear of a function that was not found in the cache and is compiled now."""
        function = event.data["dispatcher"].py_func
        if not (function.__module__ or "").startswith(f"{__package__}.") or TOLD in os.environ:
            return
        os.environ[TOLD] = "1"  # which child processes inherit
        if os.environ.get("RANK", "0") == "0":
            print("compiling the simulator (once on this machine, up to a minute)", file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None:
        """Do nothing: how long it took does not matter."""


_listen: Any = event.register  # untyped
_listen("numba:compile", _Announcer())
