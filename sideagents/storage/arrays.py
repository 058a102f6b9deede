"""Arrays and packed texts from files that may lie: what a header declares is held against what the file has."""

from __future__ import annotations

import gzip
import io
import lzma
import math
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sideagents.errors import SideAgentsError
from sideagents.ram import memory_bytes
from sideagents.storage.files import check_readable, read_bytes

TEXT_BYTES = 2**29  # the most that a packed text may hold
_CHUNK = 2**20
_NPY: Any = np.lib.format  # whose functions are not typed
_DAMAGED = (
    OSError, TypeError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    NotImplementedError, RuntimeError, OverflowError, MemoryError,
)  # fmt: skip  # NotImplementedError, RuntimeError: a kind of packing that is unknown, or with a password


def read_npz(path: Path, names: Collection[str] | None = None, what: str = "an .npz of arrays",
             error: type[SideAgentsError] = SideAgentsError) -> dict[str, NDArray[Any]]:  # fmt: skip
    """Return the arrays of an .npz by name, all of them or those in `names`; nothing in it is unpickled.

    Raises `error` with one line for a file that is missing, cut off, lacks one of them, or declares more than it holds
    or than half of the machine's memory.
    """
    check_readable(path, error)
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            known = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            chosen = {name: known[name] for name in (known if names is None else names)}
            room = memory_bytes() // 2
            for name, info in chosen.items():
                with archive.open(info) as member:
                    room -= _declared(member, info.file_size, name)
            if room < 0:
                raise ValueError(f"its arrays take more than {memory_bytes() / 2e9:.1f} GB")
            return {name: _array(archive, info) for name, info in chosen.items()}
    except _DAMAGED as problem:
        raise error(f"{path}: is cut off or is not {what} ({_said(problem)})") from None


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as member:
        return np.asarray(_NPY.read_array(member, allow_pickle=False))


def read_npy(path: Path, error: type[SideAgentsError] = SideAgentsError) -> NDArray[Any]:
    """Return the array in an .npy; raises `error` as `read_npz` does."""
    data = io.BytesIO(read_bytes(path, error))
    try:
        _declared(data, len(data.getbuffer()), "its array")
        data.seek(0)
        return np.asarray(_NPY.read_array(data, allow_pickle=False))
    except _DAMAGED as problem:
        raise error(f"{path}: is cut off or no array ({_said(problem)})") from None


def _declared(file: IO[bytes], size: int, name: str) -> int:
    """Return the bytes that the header of an .npy of `size` bytes declares; raises ValueError unless it has them."""
    version = _NPY.read_magic(file)
    read = _NPY.read_array_header_1_0 if version == (1, 0) else _NPY.read_array_header_2_0
    shape, _, dtype = read(file)
    bytes_ = int(math.prod(shape) * dtype.itemsize)
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects, which are not read")
    if min(shape, default=0) < 0 or file.tell() + bytes_ != size:
        raise ValueError(f"{name} declares {dtype} {shape}, {bytes_} bytes; there are {size - file.tell()}")
    return bytes_


def read_packed(path: Path, packing: Literal["gzip", "xz"], error: type[SideAgentsError] = SideAgentsError) -> bytes:
    """Return what a file packed by gzip or xz holds; raises `error` with one line, also beyond `TEXT_BYTES`."""
    data, parts, left = io.BytesIO(read_bytes(path, error)), [], TEXT_BYTES
    try:
        with gzip.GzipFile(fileobj=data) if packing == "gzip" else lzma.LZMAFile(data) as file:
            while part := file.read(_CHUNK):
                parts.append(part)
                left -= len(part)
                if left < 0:
                    raise error(f"{path}: holds more than {TEXT_BYTES // 2**20} MB of text, unpacked")
    except SideAgentsError:
        raise
    except _DAMAGED as problem:
        raise error(f"{path}: is cut off or not packed by {packing} ({_said(problem)})") from None
    return b"".join(parts)


def _said(problem: BaseException) -> str:
    if isinstance(problem, KeyError):
        return f"there is no array {problem}"
    return " ".join(str(problem).split()) or type(problem).__name__
