"""Nested state as JSON plus tensors, and back, with exact types; nothing in it can run code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sideagents.errors import CheckpointError

# What safetensors can hold; anything else (objects, complex128) is refused when written.
_DTYPES = frozenset(
    {"bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"}
    | {"float16", "float32", "float64", "complex64"}
)

_WIDEST_TEXT = 4096  # bytes


def pack_state(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return `(json_tree, tensors)` of a nested tree; arrays and tensors are named by their path in it.

    Leaves: None, bool, int of any size (PCG64's state has 128 bits), float (nan and infinity too), str, numpy arrays
    and scalars, torch tensors; inner nodes: dict, list, tuple. Raises `TypeError` naming the path of anything else.
    """
    tensors: dict[str, Tensor] = {}
    return _pack(tree, "", tensors), tensors


def unpack_state(json_tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the tree that `pack_state` took apart; raises `CheckpointError` when the two parts do not fit."""
    try:
        return _unpack(json_tree, tensors)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the state does not fit its tensors ({type(error).__name__}: {error})") from None


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _pack(entry, _join(path, key), tensors) for key, entry in value.items()}
        pairs = [(_pack(key, path, tensors), _pack(entry, _join(path, key), tensors)) for key, entry in value.items()]
        return {"$dict": [list(pair) for pair in pairs]}
    if isinstance(value, list | tuple):
        entries = [_pack(entry, _join(path, index), tensors) for index, entry in enumerate(value)]
        return entries if type(value) is list else {"$tuple": entries}
    if isinstance(value, Tensor):
        return {"$torch": _add(value.detach().to("cpu", copy=True).contiguous(), path, tensors)}
    if isinstance(value, np.ndarray | np.generic):
        return _pack_array(value, path, tensors)
    raise TypeError(f"state at {path or 'its root'!r}: a {type(value).__name__} cannot be saved")


def _pack_array(value: np.ndarray[Any, Any] | np.generic, path: str, tensors: dict[str, Tensor]) -> Any:
    array = np.array(value, order="C")
    kind = "$array" if isinstance(value, np.ndarray) else "$scalar"
    if array.dtype.kind == "U":
        return {"$text": array.tolist(), "dtype": array.dtype.str, "scalar": kind == "$scalar"}
    if array.dtype.name not in _DTYPES:
        raise TypeError(f"state at {path or 'its root'!r}: an array of {array.dtype} cannot be saved")
    return {kind: _add(torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False)), path, tensors)}


def _add(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    name, repeat = path or "value", 1
    while name in tensors:  # {"a/b": x, "a": {"b": y}}
        repeat += 1
        name = f"{path}#{repeat}"
    tensors[name] = tensor
    return name


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    kind = next(iter(value), "")
    if not kind.startswith("$"):
        return {key: _unpack(entry, tensors) for key, entry in value.items()}
    content = value[kind]
    if kind == "$dict":
        return {_unpack(key, tensors): _unpack(entry, tensors) for key, entry in content}
    if kind == "$tuple":
        return tuple(_unpack(entry, tensors) for entry in content)
    if kind == "$float":
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]
    if kind == "$text":
        text = np.array(content, dtype=np.str_)
        kind_ = np.dtype(value["dtype"])
        if kind_.kind != "U" or not 0 < kind_.itemsize <= max(text.itemsize, _WIDEST_TEXT):
            raise ValueError(f"texts of {text.itemsize} bytes declared as {kind_}")
        text = text.astype(kind_)
        return text[()] if value["scalar"] else text
    if kind == "$torch":
        return tensors[content]
    array = tensors[content].numpy()
    return {"$array": array, "$scalar": array[()]}[kind]


def _join(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)
