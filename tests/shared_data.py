"""Real data, for the tests that look at some: below SIDEAGENTS_DATA, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from sideagents.storage.files import data_folder


def shared_data(name: str) -> Path:
    """A file or folder of the data; the test is skipped where it is absent."""
    root = data_folder()
    if root is None or not (root / name).exists():
        pytest.skip(f"needs {name} below SIDEAGENTS_DATA")
    return root / name
