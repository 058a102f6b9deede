"""Codes of a frozen base, computed once per image and kept in a memory-mapped file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sideagents.core.base import FrozenBase
from sideagents.ram import require_disk
from sideagents.run.progress import Progress
from sideagents.storage.cache import cache_root
from sideagents.storage.files import write_json

_BATCH = 256


def cached_codes(base: FrozenBase, images: Tensor, folder: Path | None = None) -> Tensor:
    """Return the base's codes (N, *base.out_shape) float32 of uint8 images (N, C, H, W).

    They are kept in FOLDER (the user's cache by default), named by the fingerprint of the base, which includes its
    normalisation, by the type it computes in, and by the images' bytes; what is there already is read, memory-mapped,
    and not computed again.
    """
    folder = cache_folder() if folder is None else folder
    digest = hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()
    how = "" if base.dtype is None else f"_{str(base.dtype).removeprefix('torch.')}"
    path = folder / f"{base.fingerprint[:32]}{how}_{digest[:32]}.codes"
    shape = (len(images), *base.out_shape)
    size = 4 * int(np.prod(shape))
    if not path.is_file() or path.stat().st_size != size:
        require_disk(folder, size, f"codes of {len(images)} images", "`cache` names another place")
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            _compute(base, images, temporary, shape)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        write_json(path.with_suffix(".json"), {"base": base.name, "shape": list(shape)})
    return torch.from_numpy(np.memmap(path, np.float32, "c", shape=shape))


def _compute(base: FrozenBase, images: Tensor, path: Path, shape: tuple[int, ...]) -> None:
    codes = np.memmap(path, np.float32, "w+", shape=shape)
    with Progress(len(images), f"encoding by {base.name}", unit="image") as shown:
        for first in range(0, len(images), _BATCH):
            batch = images[first : first + _BATCH]
            codes[first : first + _BATCH] = base(batch.to(base.device)).cpu().numpy()
            shown.update(len(batch))
    codes.flush()


def cache_folder() -> Path:
    """Return the folder for codes, in the user's cache."""
    return cache_root() / "codes"
