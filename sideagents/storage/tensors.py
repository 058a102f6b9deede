"""Files of named tensors: safetensors, whole or absent, read without running anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from sideagents.errors import CheckpointError, SideAgentsError
from sideagents.storage.files import read_bytes, write_bytes


class Digest(Protocol):
    """What `hashlib` makes, or anything that takes bytes one after another."""

    def update(self, data: bytes, /) -> None:
        """Take in bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far, in hex."""


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor's numbers in order, whatever its type, device and strides."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def digest_tensors(digest: Digest, tensors: Mapping[str, Tensor]) -> str:
    """Take name, dtype, shape and bytes of each tensor into a digest, in the order of their names; return it in hex.

    Of a tensor on the meta device there are no bytes.
    """
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if not tensor.is_meta:
            digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold nan or infinity."""
    return [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor.detach()).all())]


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
