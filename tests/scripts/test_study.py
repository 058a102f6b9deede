"""One command for every study: tables share their time, cells are chosen over all of them, pictures are options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from sideagents.errors import SideAgentsError
from studies.cells import Cell, Key, read_rows
from studies.study import Options, Study, run

KEYS = {"search": ("a", "b"), "final": ("a", "slow")}


def study(made: list[str], seen: list[tuple[str, str]]) -> Study:
    def cells(table: str, keys: Sequence[Key], _: Options) -> list[Cell]:
        made.append(f"{table} after {len(seen)}")
        return [Cell(key, "abc", 70.0 if key["method"] == "slow" else 0.0) for key in keys]

    def work(table: str, cell: Cell, _: Options) -> dict[str, float]:
        seen.append((table, str(cell.key["method"])))
        return {"score": 0.5}

    def draw(_: Options, path: Path) -> Path:
        path.write_text("picture")
        return path

    def ready(options: Options) -> None:
        if options.seeds == [7]:
            raise SideAgentsError("seed 7 is missing")

    return Study(
        doc="A study.",
        example="method=b",
        tables=tuple(KEYS),
        seeds=(1,),
        keys=lambda table, seeds: [{"table": table, "method": m, "seed": s} for s in seeds for m in KEYS[table]],
        cells=cells,
        file="of_{}.jsonl".format,
        work=work,
        show=lambda tables, results: " ".join(str(len(read_rows(results / f"of_{table}.jsonl"))) for table in tables),
        pictures={"plot": ("draw it", draw)},
        ready=ready,
    )


def test_tables_share_their_time_and_later_ones_are_made_when_their_turn_comes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    seen: list[tuple[str, str]] = []
    assert run(study(made, seen), ["--minutes", "1", "--results", str(tmp_path)]) == 0
    assert made == ["search after 0", "final after 2"]
    assert seen == [("search", "a"), ("search", "b"), ("final", "a")]  # the slow one would pass the minute
    assert capsys.readouterr().out.splitlines()[-1] == "2 1"


def test_cells_are_chosen_over_all_tables(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    where = ["--results", str(tmp_path)]
    assert run(study([], seen), [*where, "--only", "method=b"]) == 0
    assert seen == [("search", "b")]
    with pytest.raises(SideAgentsError, match="--only method=c: no cell matches"):
        run(study([], seen), [*where, "--only", "method=c"])


def test_what_is_missing_stops_a_run_and_not_the_tables(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    with pytest.raises(SideAgentsError, match="seed 7 is missing"):
        run(study([], seen), ["--seeds", "7", "--results", str(tmp_path)])
    assert run(study([], seen), ["--seeds", "7", "--show", "--results", str(tmp_path)]) == 0
    assert seen == []


def test_pictures_and_unknown_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "picture.png"
    assert run(study([], []), ["--show", "--results", str(tmp_path), "--plot", str(picture)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {picture}"
    assert picture.read_text() == "picture"
    with pytest.raises(SystemExit):
        run(study([], []), ["serch"])
    assert "unknown table 'serch' (choose from search, final)" in capsys.readouterr().err
