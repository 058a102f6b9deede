"""A small checkpoint on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sideagents.run.checkpoint import save_checkpoint


def make_checkpoint(folder: Path, step: int = 7, **options: Any) -> Path:
    tensors = {"side.weight": torch.arange(6.0).reshape(2, 3), "alpha": torch.tensor(0.0)}
    return save_checkpoint(
        folder, step, tensors, {"rng": np.arange(3)}, base="curvature", fingerprint="ab12", **options
    )
