"""Reading what a stranger may have made: regular files only, and never more bytes or pixels than stated."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sideagents_envs.errors import EnvsError

MEGABYTE = 2**20
# Pillow tells a format from the content and starts Ghostscript for some: a texture may be of these alone.
_FORMATS = ("PNG", "JPEG", "WEBP")


def read_regular(path: Path, what: str, most: int, error: type[EnvsError]) -> bytes:
    """Return the bytes of a file; `what` names in an error what is needed, such as "an episode file".

    Raises `error` when it is missing, a folder, a pipe or a device (which could wait or go on for ever), has more than
    `most` bytes, or cannot be read.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise error(f"{path}: is a folder; {what} is needed")
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{path}: is a pipe or a device; {what} is needed")
        if status.st_size > most:
            raise error(f"{path}: has {_megabytes(status.st_size)}; {what} has at most {_megabytes(most)}")
        with path.open("rb") as file:
            return file.read(most)
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path}: no such file; {what} is needed") from None
    except error:
        raise
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from None
    except ValueError:  # a name with a zero byte, or that cannot be written in the file system's encoding
        raise error(f"{str(path)!r}: cannot be the name of a file; {what} is needed") from None


def unpacked(path: Path, data: bytes, most: int, error: type[EnvsError]) -> bytes:
    """Return what gzip has packed into `data`, and anything else as it is.

    Raises `error` when it is damaged or more than `most` bytes.
    """
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            text = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as problem:
        raise error(f"{path}: cannot be read, the file is cut off or damaged ({problem})") from None
    if len(text) > most:
        raise error(f"{path}: holds more than {_megabytes(most)} when unpacked")
    return text


def _megabytes(count: int) -> str:
    return f"{count / MEGABYTE:,.0f} MB"


def decoded(data: bytes, most: int) -> NDArray[np.uint8]:
    """Return a PNG, JPEG or WebP as uint8 RGB (h, w, 3).

    Raises ValueError when it is none, is damaged, or has more than `most` pixels, which is known before any is made.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
                if opened.width * opened.height > most:
                    raise ValueError(
                        f"{opened.width} x {opened.height} pixels, but {most:,} are left of what all images of a "
                        "building may have; scale them down"
                    )
                pixels: NDArray[np.uint8] = np.array(opened.convert("RGB"))
                return pixels
    except UnidentifiedImageError:
        raise ValueError(f"it is none of {', '.join(_FORMATS)}") from None
    except (
        OSError,
        SyntaxError,
        EOFError,
        struct.error,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as problem:
        raise ValueError(str(problem)) from None


def shortened(value: Any, length: int = 60) -> str:
    """Return a value of a stranger's file for an error's text: its repr, cut where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        text = type(value).__name__
    return text if len(text) <= length else f"{text[:length]}..."
