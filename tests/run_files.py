"""What a run has left in its folder, in the forms in which two runs are compared."""

from __future__ import annotations

from pathlib import Path

from sideagents.run.folder import RunFolder
from sideagents.run.scalars import read_scalars


def latest(run: Path) -> Path:
    """Return the newest checkpoint, which must be there."""
    found = RunFolder.open(run).latest()
    assert found is not None
    return found


def weights(run: Path) -> bytes:
    return (latest(run) / "model.safetensors").read_bytes()


def rows_of(run: Path) -> list[dict[str, str]]:
    return read_scalars(run / "progress.csv")


def told(run: Path) -> list[dict[str, str]]:
    """Return the rows of progress.csv without times."""
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows_of(run)]
