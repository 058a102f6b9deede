"""Sequences of tasks by side-tuning and others, cell by cell (side-tuning paper, section 4.2, Tables 2, 4 and 5).

icifar        CIFAR-100 in ten tasks beside a ResNet-44: sidetune (alpha merge), sidetune_mlp (the authors'
              demonstration), features, independent, finetune, ewc, psp, pnn; measured by accuracy on the test set
simtaskonomy  twelve targets of rendered images beside the curvature base, measured by loss on other buildings

Tables of each:
ewc           EWC's strength, chosen on images that are held out of training
methods       the comparison
first         each task trained first, which rigidity is measured against; only what depends on a task's turn is run:
              psp, and pnn where its columns read all earlier ones (finetune and ewc are `independent` there, the
              others do not depend on it)
choice        what that recipe was chosen among, on three tasks and images that are held out of training (icifar)
variants      of side-tuning: the recipe that reaches furthest with no more weights (icifar); merges, and the side
              without its base, the base alone being `features` (simtaskonomy)
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sideagents.config.typed import config_hash
from sideagents.errors import SideAgentsError
from sideagents.jobs.lifelong import lifelong
from sideagents.lifelong.lifelong_config import LifelongConfig
from sideagents.lifelong.lifelong_plots import plot_methods
from sideagents.lifelong.metrics import average_rank, forgetting, rigidity
from sideagents.run.stats import bootstrap_interval
from sideagents_policies.evaluate.tables import markdown_table
from sideagents_policies.jobs import ready_job
from sideagents_policies.paths import load_named
from studies.cells import Cell, newest_rows
from studies.study import Study, run

Key = Mapping[str, str | int | float]
Row = Mapping[str, Any]
Floats = npt.NDArray[np.float64]
_FIRST = {"finetune": "independent", "ewc": "independent"}  # what a task trained first is, by method
TABLES = ("ewc", "methods", "first", "choice", "variants")
_HELD = ["held_out=50", "order=[0, 4, 8]"]  # of every class; every fourth task


@dataclass(frozen=True)
class Comparison:
    """One sequence: its configuration, overrides by method and variant, EWC's strengths, a cell's minutes by method."""

    config: str
    methods: Mapping[str, Sequence[str]]
    strengths: Sequence[float]
    search: Sequence[str]  # overrides of the search for EWC's strength
    minutes: Mapping[str, float]
    variants: Mapping[str, Sequence[str]] = field(default_factory=dict)
    configs: Mapping[str, str] = field(default_factory=dict)  # of methods that have a configuration of their own
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)  # rows of further tables
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)  # recipes, overrides of `best`
    first: Sequence[str] = ("psp",)  # methods whose tasks are trained first in runs of their own


COMPARISONS = {
    "icifar": Comparison(
        "lifelong/icifar",
        {
            "sidetune": ["method=sidetune"],
            "sidetune_mlp": [],
            **{name: [f"method={name}"] for name in ("features", "independent", "finetune", "ewc", "psp", "pnn")},
        },
        (1e2, 1e3, 1e4, 1e5),
        ["held_out=50"],
        {"sidetune": 3, "sidetune_mlp": 3, "features": 2, "pnn": 6, "ewc": 18, "best": 50, "": 12},
        variants={"best": []},
        configs={"sidetune_mlp": "lifelong/icifar_demo", "best": "lifelong/icifar_best"},
        groups={"recipe": ("sidetune", "sidetune_mlp", "best")},
        choices={
            "side inside the base": [],
            "a third of the rate": ["learning_rate=1.0e-3"],
            "no augmentation": ["augment=none"],
            "side beside the base": ["side=fcn4"],
        },
    ),
    "simtaskonomy": Comparison(
        "lifelong/simtaskonomy",
        {
            **{name: [f"method={name}"] for name in ("sidetune", "features", "independent", "finetune", "ewc", "psp")},
            "pnn": ["method=pnn", "pnn.dense=true"],  # as in the paper's Taskonomy experiment
        },
        (1e4, 1e5, 1e6, 1e7, 1e8),
        ["held_out_data=null", "targets=[curvature, segmentation, depth, room]"],
        {"features": 2, "ewc": 6, "": 4},
        variants={
            "side": ["alpha=0.0"],
            **{name: [f"merge={name}"] for name in ("sum", "product", "mlp", "film", "concat")},
        },
        groups={
            "merge": ("sidetune", "sum", "product", "mlp", "film", "concat"),
            "base and side": ("sidetune", "features", "side"),
        },
        first=("psp", "pnn"),
    ),
}


def keys_of(name: str, table: str, seeds: Sequence[int]) -> list[dict[str, str | int | float]]:
    """Return the keys of a table's cells."""
    compared = COMPARISONS[name]
    if table == "ewc":
        return [{"table": table, "method": "ewc", "strength": strength, "seed": 1} for strength in compared.strengths]
    if table == "choice":
        return [{"table": table, "method": choice, "seed": 1} for choice in compared.choices]
    methods = {"methods": compared.methods, "first": compared.first, "variants": compared.variants}[table]
    return [{"table": table, "method": method, "seed": seed} for method in methods for seed in seeds]


def words_of(name: str, key: Key, results: Path) -> tuple[str, list[str]]:
    """Return configuration and overrides of one cell; EWC's strength is the best of the table `ewc`."""
    compared, method = COMPARISONS[name], str(key["method"])
    words = [f"seed={key['seed']}", f"name={name}_{key['table']}_{method.replace(' ', '-')}"]
    if key["table"] == "ewc":
        return compared.config, [*words, "method=ewc", f"ewc.strength={key['strength']}", *compared.search]
    if key["table"] == "choice":
        return compared.configs["best"], [*words, *_HELD, *compared.choices[method]]
    if key["table"] == "variants":
        return compared.configs.get(method, compared.config), [*words, *compared.variants[method]]
    if method == "ewc":
        words.append(f"ewc.strength={best_strength(name, results)}")
    return compared.configs.get(method, compared.config), [*words, *compared.methods[method]]


def settings_of(name: str, key: Key, results: Path) -> str:
    """Return the digest of a cell's configuration as written: where the data lies on this machine is not part of it."""
    config, words = words_of(name, key, results)
    return config_hash(load_named(LifelongConfig, config, words))


def best_strength(name: str, results: Path) -> float:
    """Return EWC's best strength on held-out images; raises before all of them are measured.

    Best: mean accuracy, or the average rank over tasks where they are measured by loss.
    """
    strengths = COMPARISONS[name].strengths
    current = {settings_of(name, key, results) for key in keys_of(name, "ewc", [1])}
    found = [row for row in newest_rows(results / f"{name}_ewc.jsonl") if row["config_hash"] in current]
    rows = {row["cell"]["strength"]: row for row in found}
    if set(rows) != set(strengths):
        raise SideAgentsError(f"EWC's strength is not chosen yet: run the table ewc first ({len(rows)} cells are done)")
    if all("mean_accuracy" in row for row in rows.values()):
        return float(max(strengths, key=lambda strength: float(rows[strength]["mean_accuracy"])))
    ranks = average_rank({str(s): _errors([rows[s]]) for s in strengths}, higher_is_better=False)
    return float(min(strengths, key=lambda strength: ranks[str(strength)]))


def work(name: str, cell: Cell, results: Path) -> dict[str, Any]:
    """Run one cell; return its row."""
    config = ready_job("lifelong", *words_of(name, cell.key, results))
    if cell.key["table"] == "first":
        alone = [lifelong(config.model_copy(update={"order": (task,)}))[1] for task in range(config.count)]
        scores = {key: [one[key][0][0] for one in alone] for key in ("loss", "accuracy")}
        return {"precision": alone[0]["precision"], **scores}
    _, result = lifelong(config)
    kept = ("precision", "tasks", "mean_accuracy", "mean_loss", "per_task", "forgetting", "accuracy", "loss", "alpha")
    return {key: result[key] for key in (*kept, "weights_per_task") if key in result}


def cells_of(name: str, keys: Sequence[Key], results: Path) -> list[Cell]:
    """Return cells of a table with their settings and estimates; those of EWC wait for its strength."""
    cells, minutes = [], COMPARISONS[name].minutes
    for key in keys:
        try:
            settings = settings_of(name, key, results)
        except SideAgentsError as error:
            if key["method"] != "ewc" or key["table"] != "methods":
                raise
            print(f"ewc waits: {error}")
            continue
        cells.append(Cell(key, settings, 60.0 * minutes.get(str(key["method"]), minutes[""])))
    return cells


def table_of(name: str, results: Path) -> str:
    """Return the comparison as Markdown: means over seeds, ranks over tasks, then the further tables."""
    rows = newest_rows(results / f"{name}_methods.jsonl")
    first = _trained_first(name, rows, newest_rows(results / f"{name}_first.jsonl"))
    by_method = _grouped(rows)
    tables = [_methods_table(by_method, first)] if by_method else []
    by_method |= _grouped(newest_rows(results / f"{name}_variants.jsonl"))
    for title, members in COMPARISONS[name].groups.items():
        found = {member: by_method[member] for member in members if member in by_method}
        if len(found) > 1:
            asked = all("mean_accuracy" in row for rows in found.values() for row in rows)
            tables.append(_methods_table(found, {}) if asked else _ranks_table(title, found))
    if chosen := newest_rows(results / f"{name}_choice.jsonl"):
        tables.append(_choice_table(chosen))
    return "\n\n".join(tables)


def plot(name: str, results: Path, path: Path) -> Path:
    """Draw all measured methods, each of their first seed; raises `SideAgentsError` where there is none."""
    rows = newest_rows(results / f"{name}_methods.jsonl")
    first = _trained_first(name, rows, newest_rows(results / f"{name}_first.jsonl"))
    if not rows:
        raise SideAgentsError(f"{results}/{name}_methods.jsonl: no method is measured yet")
    shown = {method: min(found, key=lambda row: row["cell"]["seed"]) for method, found in _grouped(rows).items()}
    alone = {m: first[m, row["cell"]["seed"]] for m, row in shown.items() if (m, row["cell"]["seed"]) in first}
    return plot_methods({method: _floats(row["loss"]) for method, row in shown.items()}, alone, path)


def _grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return rows by method, in the order in which they were first measured."""
    names = dict.fromkeys(str(row["cell"]["method"]) for row in rows)
    return {name: [row for row in rows if row["cell"]["method"] == name] for name in names}


def _errors(rows: Sequence[Row]) -> Floats:
    """Return the error of each task at the end, a mean over seeds: 1 - accuracy, or the loss."""
    if "mean_accuracy" in rows[0]:
        return np.asarray(np.mean([1 - np.array(row["per_task"]) for row in rows], 0), np.float64)
    return np.asarray(np.mean([row["per_task"] for row in rows], 0), np.float64)


def _methods_table(by_method: Mapping[str, Sequence[Row]], first: Mapping[tuple[str, int], list[float]]) -> str:
    ranks = average_rank({name: _errors(found) for name, found in by_method.items()}, higher_is_better=False)
    asked = all("mean_accuracy" in row for found in by_method.values() for row in found)
    judged = ["accuracy, %", "forgetting, points"] if asked else ["loss", "forgetting, log-ratio"]
    header = ["method", "seeds", *judged, "rigidity", "average rank", "weights per task", "alpha"]
    lines = []
    for name, found in by_method.items():
        measured = [(row, first.get((name, row["cell"]["seed"]))) for row in found]
        rigid = [float(np.mean(rigidity(_floats(row["loss"]), losses))) for row, losses in measured if losses]
        lines.append(
            [
                name,
                str(len(found)),
                *(_accuracy(found) if asked else _loss(found)),
                f"{np.mean(rigid):.3f}" if rigid else "-",
                f"{ranks[name]:.2f}",
                f"{np.mean(found[0]['weights_per_task']):,.0f}",
                _alphas(found),
            ]
        )
    return markdown_table(header, lines)


def _alphas(rows: Sequence[Row]) -> str:
    """Return the mean weight of the base, and the least and the greatest of all tasks."""
    found = [value for row in rows for value in row["alpha"] if value is not None]
    return f"{np.mean(found):.2f} ({min(found):.2f} to {max(found):.2f})" if found else "-"


def _accuracy(rows: Sequence[Row]) -> list[str]:
    mean, low, high = bootstrap_interval([row["per_task"] for row in rows])
    lost = 100 * float(np.mean([row["forgetting"] for row in rows]))
    return [f"{100 * mean:.2f} [{100 * low:.2f}, {100 * high:.2f}]", f"{lost:.2f}"]


def _loss(rows: Sequence[Row]) -> list[str]:
    """Return the mean loss, and the mean over tasks of log(m[T, i] / m[i, i]): tasks have losses of their own scale."""
    lost = [forgetting(np.log(_floats(row["loss"])), higher_is_better=False).mean() for row in rows]
    return [f"{np.mean([row['mean_loss'] for row in rows]):.4f}", f"{np.mean(lost):.3f}"]


def _ranks_table(title: str, by_method: Mapping[str, Sequence[Row]]) -> str:
    """Return average ranks among the members of a group, and the loss of each task."""
    ranks = average_rank({name: _errors(found) for name, found in by_method.items()}, higher_is_better=False)
    tasks = next(iter(by_method.values()))[0]["tasks"]
    lines = [
        [name, f"{ranks[name]:.2f}", *(f"{value:.4f}" for value in _errors(found))] for name, found in by_method.items()
    ]
    return markdown_table([title, "average rank", *tasks], lines)


def _choice_table(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        weights, seconds = float(np.mean(row["weights_per_task"])), float(row["seconds"])
        lines.append([row["cell"]["method"], _accuracy([row])[0], f"{weights:,.0f}", f"{seconds:,.0f}"])
    return markdown_table(["recipe, on held-out images", "accuracy, %", "weights per task", "seconds"], lines)


def _trained_first(name: str, rows: Sequence[Row], alone: Sequence[Row]) -> dict[tuple[str, int], list[float]]:
    """Return by method and seed the losses of tasks that are trained first."""
    own = {(row["cell"]["method"], row["cell"]["seed"]): np.diagonal(_floats(row["loss"])).tolist() for row in rows}
    apart = {(row["cell"]["method"], row["cell"]["seed"]): row["loss"] for row in alone}
    found = {}
    for method, seed in own:
        source = _FIRST.get(method, method)
        losses = (apart if source in COMPARISONS[name].first else own).get((source, seed))
        if losses is not None:
            found[method, seed] = losses
    return found


def _floats(matrix: Sequence[Sequence[float | None]]) -> Floats:
    return np.array([[np.nan if value is None else value for value in row] for row in matrix], np.float64)


def study_of(name: str) -> Study:
    """Return the study of a sequence."""
    return Study(
        doc=__doc__,
        example="method=pnn",
        tables=TABLES,
        seeds=(1, 2, 3),
        keys=lambda table, seeds: keys_of(name, table, seeds),
        cells=lambda _, keys, options: cells_of(name, keys, options.results),
        file=lambda table: f"{name}_{table}.jsonl",
        work=lambda _, cell, options: work(name, cell, options.results),
        show=lambda _, results: table_of(name, results),
        pictures={
            "plot": (
                "draw forgetting and rigidity over the sequence",
                lambda options, path: plot(name, options.results, path),
            )
        },
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing of a sequence's tables, or print the comparison."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("sequence", choices=tuple(COMPARISONS), help="each has options of its own: SEQUENCE --help")
    name, rest = parser.parse_args((words := list(sys.argv[1:] if argv is None else argv))[:1]).sequence, words[1:]
    return run(study_of(name), rest)
