"""Scalars over training: a CSV table whose header grows and which survives kill and resume, and TensorBoard."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

from sideagents.errors import SideAgentsError
from sideagents.storage.files import naming_file, read_text, write_text

Value = float | int | str


class ScalarTable:
    """A CSV file with one row per step: `step` first, then every name in the order of its first appearance."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names = ["step"]
        if path.exists():
            rows = read_scalars(path)
            self._names = list(rows[0]) if rows else ["step"]
            self._rewrite(rows)  # without the half row that a killed writer may have left

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Append one row; names not seen before become new columns, names left out stay empty."""
        new = [name for name in values if name not in self._names]
        row = {"step": str(step)} | {name: _text(value) for name, value in values.items()}
        if new or not self.path.exists():
            self._names += new
            self._rewrite([*(read_scalars(self.path) if self.path.exists() else []), row])
            return
        with naming_file(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(self._lines([row]))

    def truncate(self, step: int) -> None:
        """Remove the rows after `step`: a resumed run writes them again."""
        if self.path.exists():
            self._rewrite([row for row in read_scalars(self.path) if int(row["step"]) <= step])

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        header = self._lines([{name: name for name in self._names}])
        write_text(self.path, header + self._lines(rows))

    def _lines(self, rows: list[dict[str, str]]) -> str:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerows([row.get(name, "") for name in self._names] for row in rows)
        return buffer.getvalue()


def read_scalars(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table as text (empty where a name has no value); a half-written last row is left out.

    Raises `SideAgentsError` when the file is missing or no such table.
    """
    text = read_text(path)
    whole = text[: text.rfind("\n") + 1]
    no_table = f"{path}: is no table of scalars"
    try:
        reader = csv.reader(io.StringIO(whole), strict=True)
        names = next(reader, ["step"])
        rows = [dict(zip(names, row, strict=False)) for row in reader]
    except csv.Error as error:  # a field of more than 2^17 characters, a NUL, an open quote
        raise SideAgentsError(f"{no_table} ({error})") from None
    if names[:1] != ["step"] or len(set(names)) < len(names):
        raise SideAgentsError(f"{no_table} (its first column must be `step`, and no name stand twice)")
    for row in rows:
        if not re.fullmatch(r"-?[0-9]{1,18}", row.get("step", "")):
            raise SideAgentsError(f"{no_table} (steps must be whole numbers, not {row.get('step', '')[:40]!r})")
    return rows


def _text(value: Value) -> str:
    return repr(float(value)) if isinstance(value, float) else str(value)
