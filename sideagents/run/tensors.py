"""Files of named tensors: safetensors, whole or absent, read without running anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from sideagents.errors import CheckpointError, SideAgentsError
from sideagents.run.files import read_bytes, write_bytes


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors, whole or not at all; tensors that share memory are written out each."""
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(plain, dict(metadata) if metadata else None))


def load_tensors(path: Path, error: type[SideAgentsError] = CheckpointError) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU; raises `error` with one line for anything else."""
    data = read_bytes(path, error)
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as problem:
        kinds = {b"PK\x03\x04": "a zip archive, such as torch.save writes", b"\x80": "a pickle"}
        kind = next((text for magic, text in kinds.items() if data.startswith(magic)), f"cut or damaged: {problem}")
        raise error(f"{path}: is no safetensors file ({kind}); it was not opened") from None
