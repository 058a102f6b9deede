"""Files that something has happened to."""

from __future__ import annotations

from pathlib import Path


def cut(path: Path, size: int = 200) -> None:
    path.write_bytes(path.read_bytes()[:size])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
