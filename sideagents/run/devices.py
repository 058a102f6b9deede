"""Where torch computes: the word of a configuration, what there is here, where a network is."""

from __future__ import annotations

import torch
from torch import nn

DEVICES = r"^(auto|cpu|cuda(:\d+)?)$"  # what a configuration may say


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


def synchronize(device: torch.device) -> None:
    """Wait for all that was asked of a device: a GPU's kernels run on behind the call that starts them."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_of(module: nn.Module) -> torch.device:
    """Return where a network computes: a frozen base says so itself, another one by its weights."""
    own = getattr(module, "device", None)
    return own if isinstance(own, torch.device) else next(module.parameters(), torch.zeros(0)).device
