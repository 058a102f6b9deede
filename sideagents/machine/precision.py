"""The type that networks compute in: asked for, or what this processor or GPU does fast, which one short timing tells.

Processors without bfloat16 units emulate them, several times slower than float32; those with them are up to twice as
fast. Names and flags of processors do not tell which: virtual machines hide both, and libraries change.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch.nn import functional

from sideagents.machine.devices import has_device, processor_name, synchronize
from sideagents.storage.cache import cache_root
from sideagents.storage.files import write_json

if TYPE_CHECKING:
    from pydantic import BaseModel, JsonValue

Precision = Literal["auto", "float32", "bfloat16"]
ConfigT = TypeVar("ConfigT", bound="BaseModel")

_REPEATS = 5
_WORTH_IT = 0.9  # bfloat16 is taken where it needs less than this share of float32's time
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")  # of the user's, to what units libraries use

# What `bf16` was in configurations, whose digests stand in rows and checkpoints: `auto` was called true.
WAS_BF16: dict[str, JsonValue] = {
    "was": {"key": "bf16", "values": {"auto": True, "bfloat16": True, "float32": False}},
}


def resolved(precision: str, device: str | torch.device = "cpu") -> Literal["float32", "bfloat16"]:
    """Return the type that `auto` stands for on a device (`auto`, `cpu`, `cuda`, `cuda:N`), any other word as it is.

    The first question on a machine takes a short timing, whose result is kept in the cache folder.
    """
    if precision != "auto":
        return "bfloat16" if precision == "bfloat16" else "float32"
    return _fast(_kind(str(device)))


def autocast(precision: str, device: str | torch.device = "cpu") -> torch.autocast:
    """Return the context in which networks compute in this type: bfloat16 by autocast, or just float32."""
    kind = str(device).partition(":")[0]
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=resolved(precision, device) == "bfloat16")


def base_dtype(precision: str, device: str | torch.device = "cpu") -> Literal["bfloat16"] | None:
    """Return `dtype` of `load_base` for a frozen base that computes in this type."""
    return "bfloat16" if resolved(precision, device) == "bfloat16" else None


def with_precision(config: ConfigT) -> ConfigT:
    """Return a configuration with keys `precision` and `device` whose `precision` is no longer `auto`."""
    asked: Any = config
    return config.model_copy(update={"precision": resolved(asked.precision, getattr(config, "device", "cpu"))})


def sets_precision(overrides: Sequence[str]) -> bool:
    """Return whether one of the words `key=value` of a command says what to compute in."""
    return any(override.partition("=")[0] in ("precision", "bf16") for override in overrides)


def told(config: BaseModel) -> str:
    """Return a line on what a configuration's networks compute in, and on which processor or GPU."""
    asked: Any = config
    device = _kind(str(getattr(config, "device", "cpu")))
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor_name()
    return f"precision: {resolved(asked.precision, device)} on {name}"


def timed(device: torch.device) -> dict[str, float]:
    """Return the seconds that a small convolution, forward and backward, takes on a device in each of the two types."""
    images = torch.linspace(-1, 1, 4 * 32 * 64 * 64, device=device).reshape(4, 32, 64, 64)
    weight = torch.linspace(-0.1, 0.1, 32 * 32 * 9, device=device).reshape(32, 32, 3, 3).requires_grad_()
    found: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for repeat in range(_REPEATS + 1):
        for precision, seconds in found.items():
            begin = time.perf_counter()
            with torch.enable_grad(), autocast(precision, device):
                functional.conv2d(images, weight, padding=1).float().square().mean().backward()  # type: ignore[no-untyped-call]
            synchronize(device)
            if repeat:  # the first one makes kernels
                seconds.append(time.perf_counter() - begin)
    return {precision: min(seconds) for precision, seconds in found.items()}


def _kind(device: str) -> str:
    if device == "auto" or not has_device(device):
        return "cuda" if device == "auto" and torch.cuda.is_available() else "cpu"
    return device


@functools.cache
def _fast(device: str) -> Literal["float32", "bfloat16"]:
    if device.startswith("cuda"):
        about = {"device": torch.cuda.get_device_name(device)}
    else:
        about = {"device": processor_name(), **{name: os.environ.get(name, "") for name in _LIMITS}}
    about["torch"] = torch.__version__
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    file = cache_root() / "precision" / f"{digest}.json"
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        if file.is_file() and (kept := _chosen(json.loads(file.read_text())["seconds"])):
            return kept
    seconds = timed(torch.device(device))
    with suppress(OSError, RuntimeError):  # where nothing can be kept, the next process asks again
        write_json(file, {**about, "seconds": seconds})
    return _chosen(seconds)


def _chosen(seconds: Mapping[str, float]) -> Literal["float32", "bfloat16"]:
    return "bfloat16" if float(seconds["bfloat16"]) < _WORTH_IT * float(seconds["float32"]) else "float32"
