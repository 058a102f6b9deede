"""Incremental CIFAR-100 by side-tuning and its rivals, cell by cell (side-tuning paper, Table 2 and section 4.2).

methods   sidetune (alpha merge), sidetune_mlp (the authors' demonstration), features, independent, finetune, ewc, psp,
          pnn: ten tasks, 157 steps each, judged on the test set
first     the same methods with each task trained first, which rigidity is measured against; only what depends on a
          task's turn is run: psp (finetune and ewc are `independent` there, the others do not depend on it)
ewc       EWC's strength, judged on 50 training images of each class
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sideagents.errors import SideAgentsError
from sideagents.lifelong.config import LifelongConfig
from sideagents.lifelong.metrics import average_rank, rigidity
from sideagents.lifelong.run import lifelong, require_data
from sideagents.run.cells import Cell, add_cell_options, newest_rows, run_cells, select
from sideagents.run.config import config_hash, load_config
from sideagents.run.stats import bootstrap_interval
from sideagents_policies.checks import read_lifelong
from sideagents_policies.paths import config_path
from sideagents_policies.tables import markdown_table

METHODS = ("sidetune", "sidetune_mlp", "features", "independent", "finetune", "ewc", "psp", "pnn")
STRENGTHS = (1e2, 1e3, 1e4, 1e5)
_FIRST = {"finetune": "independent", "ewc": "independent", "psp": "psp"}  # what a task trained first is, by method
_MINUTES = {"sidetune": 3, "sidetune_mlp": 3, "features": 2, "pnn": 6, "ewc": 18}
_MINUTES_OTHERS = 12  # those that train the base
TABLES = ("ewc", "methods", "first")

Key = Mapping[str, str | int | float]
Row = Mapping[str, Any]


def keys_of(table: str, seeds: Sequence[int]) -> list[dict[str, str | int | float]]:
    """Return the keys of a table's cells."""
    if table == "ewc":
        return [{"table": table, "method": "ewc", "strength": strength, "seed": 1} for strength in STRENGTHS]
    methods = METHODS if table == "methods" else ("psp",)
    return [{"table": table, "method": method, "seed": seed} for method in methods for seed in seeds]


def words_of(key: Key, results: Path) -> tuple[str, list[str]]:
    """Return configuration and overrides of one cell; EWC's strength is the best of the table `ewc`."""
    method = str(key["method"])
    words = [f"seed={key['seed']}", f"name=icifar_{key['table']}_{method}"]
    if key["table"] == "ewc":
        return "lifelong/icifar", [*words, "method=ewc", f"ewc.strength={key['strength']}", "held_out=50"]
    if method == "sidetune_mlp":
        return "lifelong/icifar_demo", words
    if method == "ewc":
        words.append(f"ewc.strength={best_strength(results)}")
    return "lifelong/icifar", [*words, f"method={method}"]


def settings_of(key: Key, results: Path) -> str:
    """Return the digest of a cell's configuration as written: where the data lies on this machine is not part of it."""
    name, words = words_of(key, results)
    return config_hash(load_config(LifelongConfig, config_path(name), words))


def best_strength(results: Path) -> float:
    """Return the strength with the best mean accuracy on held-out images; raises before all of them are measured."""
    rows = {row["cell"]["strength"]: row["mean_accuracy"] for row in newest_rows(results / "icifar_ewc.jsonl")}
    if set(rows) != set(STRENGTHS):
        raise SideAgentsError(f"EWC's strength is not chosen yet: run the table ewc first ({len(rows)} cells are done)")
    return float(max(rows, key=lambda strength: rows[strength]))


def work(cell: Cell, results: Path) -> dict[str, Any]:
    """Run one cell; return its row."""
    config = read_lifelong(*words_of(cell.key, results))
    require_data(config)
    if cell.key["table"] == "first":
        alone = [lifelong(config.model_copy(update={"order": (task,)}))[1] for task in range(config.tasks)]
        return {"loss": [one["loss"][0][0] for one in alone], "accuracy": [one["accuracy"][0][0] for one in alone]}
    _, result = lifelong(config)
    kept = ("mean_accuracy", "per_task", "forgetting", "accuracy", "loss", "alpha", "weights_per_task")
    return {key: result[key] for key in kept}


def cells_of(table: str, seeds: Sequence[int], results: Path) -> list[Cell]:
    """Return a table's cells with their settings and estimates; those of EWC wait for its strength."""
    cells = []
    for key in keys_of(table, seeds):
        try:
            settings = settings_of(key, results)
        except SideAgentsError as error:
            if key["method"] != "ewc" or table != "methods":
                raise
            print(f"ewc waits: {error}")
            continue
        minutes = _MINUTES.get(str(key["method"]), _MINUTES_OTHERS)
        cells.append(Cell(key, settings, 60.0 * minutes))
    return cells


def table_of(results: Path) -> str:
    """Return the comparison of methods as Markdown: means over seeds with 95 % intervals over seeds and tasks."""
    rows = newest_rows(results / "icifar_methods.jsonl")
    first = _trained_first(rows, newest_rows(results / "icifar_first.jsonl"))
    by_method = {name: [row for row in rows if row["cell"]["method"] == name] for name in METHODS}
    by_method = {name: found for name, found in by_method.items() if found}
    errors = {name: np.mean([1 - np.array(row["per_task"]) for row in found], 0) for name, found in by_method.items()}
    ranks = average_rank(errors, higher_is_better=False) if errors else {}
    header = ["method", "seeds", "accuracy, %", "forgetting, points", "rigidity", "average rank", "weights per task"]
    lines = []
    for name, found in by_method.items():
        mean, low, high = bootstrap_interval([row["per_task"] for row in found])
        measured = [(row, first.get((name, row["cell"]["seed"]))) for row in found]
        rigid = [float(np.mean(rigidity(_floats(row["loss"]), losses))) for row, losses in measured if losses]
        lines.append(
            [
                name,
                str(len(found)),
                f"{100 * mean:.2f} [{100 * low:.2f}, {100 * high:.2f}]",
                f"{100 * float(np.mean([row['forgetting'] for row in found])):.2f}",
                f"{np.mean(rigid):.3f}" if rigid else "-",
                f"{ranks[name]:.2f}",
                f"{found[0]['weights_per_task'][-1]:,}",
            ]
        )
    return markdown_table(header, lines) if lines else ""


def _trained_first(rows: Sequence[Row], alone: Sequence[Row]) -> dict[tuple[str, int], list[float]]:
    """Return by method and seed the losses of tasks that are trained first."""
    own = {(row["cell"]["method"], row["cell"]["seed"]): np.diagonal(_floats(row["loss"])).tolist() for row in rows}
    apart = {(row["cell"]["method"], row["cell"]["seed"]): row["loss"] for row in alone}
    found = {}
    for name, seed in own:
        source = _FIRST.get(name, name)
        losses = apart.get((source, seed)) if source == "psp" else own.get((source, seed))
        if losses is not None:
            found[name, seed] = losses
    return found


def _floats(matrix: Sequence[Sequence[float | None]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([[np.nan if value is None else value for value in row] for row in matrix], np.float64)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing of the tables, or print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "tables", nargs="*", default=["ewc", "methods", "first"], metavar="TABLE", help=", ".join(TABLES)
    )
    add_cell_options(parser, "method=pnn")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    args = parser.parse_args(argv)
    for table in args.tables:
        if table not in TABLES:
            parser.error(f"unknown table {table!r} (choose from {', '.join(TABLES)})")
    if not args.show:
        every = [key for table in args.tables for key in keys_of(table, args.seeds)]
        wanted = [cell.key for cell in select([Cell(key, "", 0.0) for key in every], args.only)]
        end = time.monotonic() + 60 * args.minutes
        for table in args.tables:
            cells = [cell for cell in cells_of(table, args.seeds, args.results) if cell.key in wanted]
            path = args.results / f"icifar_{table}.jsonl"
            run_cells(path, cells, lambda cell: work(cell, args.results), limit_s=end - time.monotonic())
    print(table_of(args.results) or "no cell of the comparison is done yet")
    return 0
