"""Seeds, and the state of every global random generator as data."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy (legacy: stable-baselines3 draws from it) and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def capture_rng() -> dict[str, Any]:
    """Return the state of the global generators as a tree for `checkpoint.pack_state`."""
    version, words, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    state: dict[str, Any] = {
        "python": {"version": version, "words": np.array(words, dtype=np.uint64), "gauss": gauss},
        "numpy": legacy,
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Put the global generators back as `capture_rng` found them; GPU states are used as far as there are GPUs."""
    python = state["python"]
    random.setstate((python["version"], tuple(int(word) for word in python["words"]), python["gauss"]))
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    for index, device_state in enumerate(state.get("cuda", [])[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(device_state, index)


@contextmanager
def untouched_rng() -> Iterator[None]:
    """Leave the global generators as they were, whatever the block draws."""
    state = capture_rng()
    try:
        yield
    finally:
        restore_rng(state)
