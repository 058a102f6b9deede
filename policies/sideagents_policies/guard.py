"""From errors to exit codes: one clear line for a user's mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")  # of torch's RuntimeError


class UsageError(ValueError):
    """The command line itself is wrong."""


def guarded(command: Callable[[], int]) -> int:
    """Return the exit code of a command, with a user's mistake, Ctrl-C and a closed pipe turned into theirs."""
    try:
        return command()
    except SystemExit as request:  # --help of argparse
        return request.code if isinstance(request.code, int) else 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe has left; nothing more to say, not even when Python flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if _out_of_memory(error):
            error = UsageError(f"this does not fit into memory: {one_line(error) or 'nothing more is known'}")
        elif not _users_mistake(error):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


def one_line(error: BaseException) -> str:
    """Return an exception's message without line breaks; of an `OSError`, what went wrong and with which file."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _out_of_memory(error: Exception) -> bool:
    """Say whether the machine or the GPU had no memory left, as numpy, Python or torch says it."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)
    )


def _users_mistake(error: Exception) -> bool:
    if isinstance(error, (UsageError, OSError)):
        return True
    from sideagents.errors import SideAgentsError
    from sideagents_envs.errors import EnvsError

    return isinstance(error, (SideAgentsError, EnvsError))
