"""Where torch computes: the word of a configuration, what there is here, where a network is."""

from __future__ import annotations

import functools
import os
import platform
import re
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

DEVICES = r"^(auto|cpu|cuda(:\d+)?)$"  # what a configuration may say
_BFLOAT16 = ("avx512_bf16", "amx_bf16")  # flags of processors that compute in it


def has_device(device: str) -> bool:
    """Return whether torch can compute on `cpu`, `cuda` or `cuda:N` here; `auto` is always found."""
    if not device.startswith("cuda"):
        return True
    return torch.cuda.is_available() and int(device.partition(":")[2] or 0) < torch.cuda.device_count()


def device_here(device: str) -> torch.device:
    """Return the device of a configuration for what runs anywhere: the CPU, with a line said, where it is not here."""
    if not has_device(device):
        print(f"torch finds no {device} here: computing on the CPU", flush=True)
        return torch.device("cpu")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def missing_device(device: str) -> str:
    """Return one line for a device that is not here, empty when it is."""
    return "" if has_device(device) else f"device: torch finds no {device} here (device: auto takes what there is)"


def device_name() -> str:
    """Return what `auto` computes on here: `cpu`, or the name of a GPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


@functools.cache
def processor_name() -> str:
    """Return the processor's name, its cores, and the units for vectors and bfloat16 that torch may use.

    Such as `AMD EPYC (2 cores, AVX2)`; `ATEN_CPU_CAPABILITY` counts, since torch is held to it.
    """
    name, flags = platform.processor() or platform.machine(), ""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        models, units = re.search(r"^model name\s*: (.+)$", text, re.M), re.search(r"^flags\s*: (.+)$", text, re.M)
        name, flags = models[1].strip() if models else name, units[1] if units else flags
    found = [torch.backends.cpu.get_cpu_capability(), *(word for word in _BFLOAT16 if word in flags.split())]
    return f"{name} ({os.cpu_count()} cores, {', '.join(found)})"


def synchronize(device: torch.device) -> None:
    """Wait for all that was asked of a device: a GPU's kernels run on behind the call that starts them."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_of(module: nn.Module) -> torch.device:
    """Return where a network computes: a frozen base says so itself, another one by its weights."""
    own = getattr(module, "device", None)
    return own if isinstance(own, torch.device) else next(module.parameters(), torch.zeros(0)).device
