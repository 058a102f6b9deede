"""A study: the tables of a paper as data, and the one command that runs what is missing of them or shows them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from studies.cells import Cell, Key, run_cells, select

Options = argparse.Namespace  # of the command: `results`, `seeds`, `only`, `minutes`, and what a study adds
Draw = Callable[[Options, Path], Path]


def _nothing(_: Any) -> None:
    """Add no option; or need nothing that could be missing."""


@dataclass(frozen=True)
class Study:
    """What a command `reproduce_*.py` runs, and what it prints.

    doc: for `--help`; example: of a KEY=VALUE of `--only`. tables: names, in the order in which they are run. seeds:
    by default. keys: those of a table's cells for some seeds. cells: keys with their settings and estimates, but for
    those that wait for what is not measured yet. file: the name of a table's rows. work: runs a cell of a table and
    returns its row. show: text of some tables, "" without a row. pictures: help and what draws them, by option.
    options: adds the study's own; ready: raises `SideAgentsError`, before anything is run, where something is missing.
    """

    doc: str | None
    example: str
    tables: Sequence[str]
    seeds: Sequence[int]
    keys: Callable[[str, Sequence[int]], Sequence[Key]]
    cells: Callable[[str, Sequence[Key], Options], Sequence[Cell]]
    file: Callable[[str], str]
    work: Callable[[str, Cell, Options], Mapping[str, Any]]
    show: Callable[[Sequence[str], Path], str]
    pictures: Mapping[str, tuple[str, Draw]] = field(default_factory=dict)
    options: Callable[[argparse.ArgumentParser], None] = _nothing
    ready: Callable[[Options], None] = _nothing


def by_table(shown: Callable[[str, Path], str]) -> Callable[[Sequence[str], Path], str]:
    """Return a study's `show` that puts the texts of single tables, those that have a row, below each other."""

    def show(tables: Sequence[str], results: Path) -> str:
        return "\n\n".join(filter(None, (shown(table, results) for table in tables)))

    return show


def run(study: Study, argv: Sequence[str] | None = None) -> int:
    """Run what is missing of a study's tables, or print them; returns the exit code.

    Raises `SideAgentsError` where `--only` fits none of the cells, and for what a study lacks.
    """
    parser = argparse.ArgumentParser(description=study.doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(study.tables)
    parser.add_argument("tables", nargs="*", default=names, metavar="TABLE", help=f"{', '.join(names)} (all)")
    parser.add_argument("--only", nargs="+", default=[], metavar="KEY=VALUE", help=f"cells to run: {study.example}")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(study.seeds))
    parser.add_argument("--minutes", type=float, default=90.0, help="start no cell that would end later (default 90)")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="folder of the rows")
    parser.add_argument("--show", action="store_true", help="print what is measured and run nothing")
    for name, (meaning, _) in study.pictures.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=meaning)
    study.options(parser)
    options = parser.parse_args(argv)
    for table in options.tables:
        if table not in names:
            parser.error(f"unknown table {table!r} (choose from {', '.join(names)})")
    if not options.show:
        study.ready(options)
        run_tables(study, options)
    print(study.show(options.tables, options.results) or "no cell is done yet")
    for name, (_, draw) in study.pictures.items():
        if (path := getattr(options, name)) is not None:
            print(f"wrote {draw(options, path)}")
    return 0


def run_tables(study: Study, options: Options) -> None:
    """Run what is missing of `options.tables` one after another, within `options.minutes` for all of them.

    Cells are made table by table: those of a later one may depend on what an earlier one found. Raises
    `SideAgentsError` when `options.only` fits none of all keys.
    """
    every = [Cell(key, "", 0.0) for table in options.tables for key in study.keys(table, options.seeds)]
    wanted = [cell.key for cell in select(every, options.only)]
    end = time.monotonic() + 60 * options.minutes
    for table in options.tables:
        keys = [key for key in study.keys(table, options.seeds) if key in wanted]
        path = options.results / study.file(table)
        work = partial(_work, study, table, options)
        run_cells(path, study.cells(table, keys, options), work, limit_s=end - time.monotonic())


def _work(study: Study, table: str, options: Options, cell: Cell) -> Mapping[str, Any]:
    return study.work(table, cell, options)
