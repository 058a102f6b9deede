"""Experiments cell by cell: each finished cell is one JSON line, and a cell that stands there is not run again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sideagents.errors import SideAgentsError
from sideagents.machine.devices import device_name, processor_name
from sideagents.run.provenance import git_commit

Key = Mapping[str, str | int | float]


@dataclass(frozen=True)
class Cell:
    """One cell of a table: `key` names it, `config_hash` its settings, `estimate_s` how long it should take."""

    key: Key
    config_hash: str
    estimate_s: float


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a results file, none when it is absent; raises `SideAgentsError` with the broken line."""
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise SideAgentsError(f"{path}:{number}: not a line of JSON ({error.msg})") from None
    return rows


def newest_rows(path: Path) -> list[dict[str, Any]]:
    """Return the last row of each cell: one that was run again, with other settings, replaces what was before."""
    return list({json.dumps(row["cell"], sort_keys=True): row for row in read_rows(path)}.values())


def pending(path: Path, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that have no row with the same key and settings yet."""
    done = {(json.dumps(row["cell"], sort_keys=True), row["config_hash"]) for row in read_rows(path)}
    return [c for c in cells if (json.dumps(dict(c.key), sort_keys=True), c.config_hash) not in done]


def estimated(cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Return cells whose estimates follow from what rows of their table took; without a row they stay as they are.

    A cell takes what it took with other seeds (the median); one that has not run yet its estimate times the median of
    what those that ran took of theirs. Rows of this processor and device count alone where there are any.
    """
    timed = [row for row in rows if isinstance(row.get("seconds"), int | float)]
    machine = (device_name(), processor_name())
    timed = [row for row in timed if (row.get("device"), row.get("processor")) == machine] or timed
    took: dict[str, list[float]] = {}
    for row in timed:
        took.setdefault(_but_seed(row["cell"]), []).append(float(row["seconds"]))
    guesses = {_but_seed(cell.key): cell.estimate_s for cell in cells}
    shares = [median(took[name]) / guess for name, guess in guesses.items() if name in took and guess > 0]
    share = median(shares) if shares else 1.0
    return [
        replace(
            cell, estimate_s=median(took[name]) if (name := _but_seed(cell.key)) in took else share * cell.estimate_s
        )
        for cell in cells
    ]


def _but_seed(key: Key) -> str:
    return json.dumps({name: value for name, value in key.items() if name != "seed"}, sort_keys=True)


def select(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """Keep the cells that match every `key=value` of `only`; raises `SideAgentsError` when none does."""
    wanted = dict(item.partition("=")[::2] for item in only)
    kept = [c for c in cells if all(str(c.key.get(k)) == v for k, v in wanted.items())]
    if not kept:
        raise SideAgentsError(f"--only {' '.join(only)}: no cell matches; the first cell is {dict(cells[0].key)}")
    return kept


def run_cells(
    path: Path,
    cells: Sequence[Cell],
    work: Callable[[Cell], Mapping[str, Any]],
    say: Callable[[str], None] = print,
    limit_s: float | None = None,
) -> list[dict[str, Any]]:
    """Run what is missing, append one row for each finished cell, return all rows.

    Says first how many cells are missing and how long they should take, by the rows that are there. With `limit_s` no
    cell is started whose estimate would pass that many seconds.
    """
    todo = pending(path, estimated(cells, newest_rows(path)))
    total = sum(c.estimate_s for c in todo)
    say(f"{path.name}: {len(cells) - len(todo)} of {len(cells)} cells done, about {total / 60:.0f} minutes to go")
    started = time.monotonic()
    for cell in todo:
        if limit_s is not None and time.monotonic() - started + cell.estimate_s > limit_s:
            say(f"stopping before {dict(cell.key)}: it would pass the limit; run the command again to go on")
            break
        begin = time.monotonic()
        result = work(cell)
        row = {
            "cell": dict(cell.key),
            "config_hash": cell.config_hash,
            "commit": git_commit(),
            "seconds": round(time.monotonic() - begin, 1),
            "threads": torch.get_num_threads(),
            "device": device_name(),
            "processor": processor_name(),
            **result,
        }
        append_row(path, row)
        say(f"{dict(cell.key)} done in {row['seconds']:.0f} s")
    return read_rows(path)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line and flush it to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
