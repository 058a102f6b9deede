"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): the original Python pickles, or CIFAR-100 as lossless mosaics."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from sideagents.data.images import LabelledImages
from sideagents.data.mosaics import CIFAR_MARK, Split, check_split, load_mosaics
from sideagents.errors import SideAgentsError, first_line
from sideagents.storage.files import missing_message, read_bytes

_SIDE = 32
_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclass(frozen=True)
class _Pickles:
    """The files of one CIFAR and the keys in them."""

    folder: str
    splits: dict[Split, tuple[str, ...]]
    meta: str
    labels: str
    names: str

    def find(self, root: Path) -> Path | None:
        """Return the folder, `root` or the one the archive makes in it, that has any of the files."""
        files = (self.meta, *(name for split in self.splits.values() for name in split))
        for folder in (root, root / self.folder):
            if any((folder / name).is_file() for name in files):
                return folder
        return None


_LAYOUTS = (
    _Pickles("cifar-100-python", {"train": ("train",), "test": ("test",)}, "meta", "fine_labels", "fine_label_names"),
    _Pickles(
        "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        "batches.meta",
        "labels",
        "label_names",
    ),
)


def load_cifar(root: Path, split: Split) -> LabelledImages:
    """Read one split of CIFAR-10 or CIFAR-100 (fine labels), whichever `root` holds, in the order of its files.

    images: uint8 (50000 or 10000, 3, 32, 32). Pickles are read without running code. Raises `SideAgentsError` with
    one line when nothing fits, and when a file is missing, damaged or asks for anything but lists and arrays.
    """
    check_split(split)
    if not root.is_dir():
        raise SideAgentsError(f"{missing_message(root)}; CIFAR is at {_SOURCE} (the Python versions)")
    for layout in _LAYOUTS:
        folder = layout.find(root)
        if folder is not None:
            return _read_layout(folder, layout, split)
    if (root / CIFAR_MARK).is_file():
        return load_mosaics(root, split)
    files = "; ".join(f"{', '.join(layout.splits[split])} and {layout.meta}" for layout in _LAYOUTS)
    raise SideAgentsError(
        f"{root}: holds no CIFAR (needed: {files}; or {CIFAR_MARK} and mosaics); unpack a Python version of {_SOURCE}"
    )


def _read_layout(folder: Path, layout: _Pickles, split: Split) -> LabelledImages:
    meta = folder / layout.meta
    classes = tuple(str(_text(name)) for name in _column(_read_pickle(meta), meta, layout.names, (str, bytes)))
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for name in layout.splits[split]:
        path = folder / name
        table = _read_pickle(path)
        found = _column(table, path, layout.labels, (int,))
        shape, data = (len(found), 3 * _SIDE * _SIDE), table.get("data")
        if not isinstance(data, _Array) or data.pixels.shape != shape:
            got = data.pixels.shape if isinstance(data, _Array) else type(data).__name__
            raise SideAgentsError(f"{path}: data must be an array of bytes {shape}, got {got}")
        if found and not 0 <= min(found) <= max(found) < len(classes):
            raise SideAgentsError(f"{path}: labels {min(found)}..{max(found)} do not fit {len(classes)} classes")
        images.append(data.pixels)
        labels += found
    stacked = torch.from_numpy(np.ascontiguousarray(np.concatenate(images))).view(-1, 3, _SIDE, _SIDE)
    return LabelledImages(stacked, torch.tensor(labels, dtype=torch.int64), classes)


def _column(table: dict[object, Any], path: Path, key: str, kinds: tuple[type, ...]) -> list[Any]:
    """Return the list that a pickled table has under `key`."""
    found = table.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, kinds) for entry in found):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise SideAgentsError(f"{path}: has no list of {names} under {key!r} (is it of another CIFAR?)")
    return found


class _Dtype:
    """Stands for numpy's dtype in a pickle; only bytes are known."""

    def __init__(self, kind: object, *_: object) -> None:
        if _text(kind) != "u1":
            raise pickle.UnpicklingError(f"has an array of {_text(kind)!r}, where only bytes (u1) belong")

    def __setstate__(self, state: object) -> None:
        """Byte order, fields and alignment: bytes have none."""


class _Array:
    """Stands for numpy's array in a pickle, and for the function that makes an empty one."""

    pixels: NDArray[np.uint8] = np.empty(0, np.uint8)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_column, data = state
        if not isinstance(kind, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("has an array of something else than bytes")
        self.pixels = np.frombuffer(data, np.uint8).reshape(shape, order="F" if by_column else "C")


class _Unpickler(pickle.Unpickler):
    """Builds dicts, lists, numbers, text and arrays of bytes, and nothing else.

    Not even numpy's own classes: with a state made by an enemy they read memory that is not theirs.
    """

    known: ClassVar[dict[tuple[str, str], type]] = {
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): _Array,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,  # the name since numpy 2
    }

    def find_class(self, module_name: str, global_name: str) -> type:
        """Return the stand-in of a class; raises `UnpicklingError` for any that CIFAR does not have."""
        try:
            return self.known[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"asks for {module_name}.{global_name}, which no CIFAR holds") from None


def _read_pickle(path: Path) -> dict[object, Any]:
    """Return the table in a pickle, keys as text, without running code; raises `SideAgentsError` with one line."""
    data = read_bytes(path)
    try:
        table = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # damaged or hostile bytes can fail in any way
        raise SideAgentsError(f"{path}: is no CIFAR pickle ({first_line(error)})") from None
    if not isinstance(table, dict):
        raise SideAgentsError(f"{path}: is no CIFAR pickle (it holds a {type(table).__name__}, not a dict)")
    return {_text(key): value for key, value in table.items()}


def _text(value: object) -> object:
    """Return Python 2's text as text: with its encoding left open it arrives as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value
