"""Cell-by-cell experiments: what is done is skipped, what changed is run again, estimates bound a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sideagents.errors import SideAgentsError
from studies import cells as module
from studies.cells import (
    Cell,
    append_row,
    estimated,
    newest_rows,
    pending,
    read_rows,
    run_cells,
    select,
)

CELLS = [Cell({"method": m, "seed": s}, "abc", 10.0) for m in ("side", "fine") for s in (1, 2)]


def test_runs_each_cell_once(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    seen: list[str] = []

    def work(cell: Cell) -> dict[str, float]:
        seen.append(str(cell.key["method"]))
        return {"score": 0.5}

    rows = run_cells(path, CELLS[:2], work, say=lambda _: None)
    assert [row["score"] for row in rows] == [0.5, 0.5]
    assert rows[0]["cell"] == {"method": "side", "seed": 1}
    assert {"config_hash", "commit", "seconds", "threads", "device"} <= rows[0].keys()
    run_cells(path, CELLS, work, say=lambda _: None)
    assert seen == ["side", "side", "fine", "fine"]


def test_other_settings_are_another_cell(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    run_cells(path, CELLS, lambda _: {}, say=lambda _: None)
    assert pending(path, CELLS) == []
    changed = Cell(CELLS[0].key, "other", 1.0)
    assert pending(path, [changed]) == [changed]


def test_a_crash_keeps_the_finished_cells(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"

    def work(cell: Cell) -> dict[str, int]:
        if cell.key["seed"] == 2:
            raise RuntimeError("power cut")
        return {}

    with pytest.raises(RuntimeError, match="power cut"):
        run_cells(path, CELLS, work, say=lambda _: None)
    assert [row["cell"]["seed"] for row in read_rows(path)] == [1]


def test_limit_and_estimate(tmp_path: Path) -> None:
    said: list[str] = []
    rows = run_cells(tmp_path / "t.jsonl", CELLS, lambda _: {}, say=said.append, limit_s=25.0)
    assert "about 1 minutes" in said[0]
    assert len(rows) == 4  # each took no time, so the sum never passed 25 s
    rows = run_cells(tmp_path / "u.jsonl", CELLS, lambda _: {}, say=said.append, limit_s=5.0)
    assert rows == []
    assert "stopping before" in said[-1]


def row(method: str, seconds: float, seed: int = 1, **machine: str) -> dict[str, Any]:
    here = {"device": "cpu", "processor": "this one"}
    return {"cell": {"method": method, "seed": seed}, "config_hash": "abc", "seconds": seconds, **here, **machine}


def test_estimates_follow_what_rows_of_the_table_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "device_name", lambda: "cpu")
    monkeypatch.setattr(module, "processor_name", lambda: "this one")

    def seconds(*rows: dict[str, Any]) -> list[float]:
        return [cell.estimate_s for cell in estimated([*CELLS, Cell({"method": "long", "seed": 1}, "abc", 40.0)], rows)]

    assert seconds() == [10.0, 10.0, 10.0, 10.0, 40.0]
    assert seconds(row("side", 3.0, seed=7)) == [3.0, 3.0, 3.0, 3.0, 12.0]  # what has not run: three tenths as well
    assert seconds(row("side", 3.0), row("fine", 5.0)) == [3.0, 3.0, 5.0, 5.0, 16.0]
    other = row("side", 100.0, processor="another")
    assert seconds(other) == [100.0, 100.0, 100.0, 100.0, 400.0]
    assert seconds(other, row("side", 3.0, seed=2)) == [3.0, 3.0, 3.0, 3.0, 12.0]
    assert seconds({"cell": CELLS[0].key, "config_hash": "abc"}) == seconds()  # rows of old may not say

    said: list[str] = []
    append_row(tmp_path / "t.jsonl", row("side", 60.0))
    run_cells(tmp_path / "t.jsonl", CELLS, lambda _: {}, say=said.append, limit_s=0.0)
    assert said[0] == "t.jsonl: 1 of 4 cells done, about 3 minutes to go"


def test_select(tmp_path: Path) -> None:
    assert [c.key["seed"] for c in select(CELLS, ["method=fine"])] == [1, 2]
    assert len(select(CELLS, ["method=fine", "seed=2"])) == 1
    with pytest.raises(SideAgentsError, match="no cell matches"):
        select(CELLS, ["method=nope"])


def test_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text(json.dumps({"cell": {}}) + "\n{broken\n")
    with pytest.raises(SideAgentsError, match=r"table\.jsonl:2: not a line of JSON"):
        read_rows(path)


def test_of_a_cell_that_ran_twice_the_last_row_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    for seed, digest in ((1, "old"), (2, "old"), (1, "new")):
        append_row(path, {"cell": {"seed": seed}, "config_hash": digest})
    assert [(row["cell"]["seed"], row["config_hash"]) for row in newest_rows(path)] == [(1, "new"), (2, "old")]
