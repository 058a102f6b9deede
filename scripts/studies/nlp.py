"""A small pre-trained encoder on tasks of language, by Ladder Side-Tuning, side-tuning and other methods, cell by cell.

search  learning rates on a tenth of the training data; the dev set stays unread
glue    CoLA, MRPC, RTE, SST-2 (5,000 rows) and STS-B at the best rate; the epoch is chosen on the same tenth, the dev
        set read once (Ladder Side-Tuning paper, Table 1)
memory  what a training step of each method holds on the CPU, 32 texts of 128 tokens, with torch's fused attention as
        transformers has it by default (training uses the plain one, which is faster there: the same sums), in `curves`
        too
paired  the difference to LoRA on the same dev rows, by bootstrap; only what stands in `glue`
curves  score against memory on one task: reductions and dropped layers of the side beside ranks of LoRA (figures 5, 6),
        at the rates that `search` chose for r = 8 and rank 32
designs other sides of Ladder Side-Tuning on the same tenth of three tasks, one rate for all; the dev set stays unread
squad   SQuAD 2.0, 25 articles to train on and 10 to test on (side-tuning paper, section 4.3)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sideagents.config.typed import config_hash
from sideagents.errors import SideAgentsError
from sideagents.jobs.nlp import measured, nlp
from sideagents.language.glue import TASKS, read_glue, score
from sideagents.language.nlp_config import NlpConfig
from sideagents.run.figures import new_figure, save_figure
from sideagents.run.folder import RunFolder
from sideagents.storage.files import find_data
from sideagents_policies.evaluate.tables import markdown_table
from sideagents_policies.jobs import read_job, ready_job
from sideagents_policies.paths import load_named
from studies.cells import Cell, newest_rows
from studies.nlp_grid import (
    BASELINE,
    CURVE,
    CURVES,
    DESIGNS,
    FUSED,
    GATES,
    GLUE,
    JUDGED,
    METHODS,
    OFTEN,
    RATES,
    SQUAD,
)
from studies.study import Study, by_table, run

_MINUTES = {"RTE": 1.3, "MRPC": 1.5, "CoLA": 1.3, "STS-B": 1.5, "SST-2": 1.0}  # of an epoch of full fine-tuning
_SHARE = {"features": 0.1, "lora": 0.8, "bitfit": 0.7, "adapters": 0.8, "sidetune": 1.0}  # of that; a ladder's is 0.4
_EACH = {"paired": 0.2, "memory": 0.2, "designs": 1.7}  # of any cell of these tables
TABLES = ("search", "glue", "memory", "paired", "curves", "designs", "squad")
_UNREAD = ("search", "designs")  # leave the dev set unread
_COSTS = ("trainable", "percent", "peak_bytes_total", "peak_bytes_above_weights", "seconds_per_step")
_KEPT = ("precision", "score", "metrics", "held_out", "epoch", "shares", "answers", "train_seconds", "cached", *_COSTS)

Key = Mapping[str, str | int | float]
Row = Mapping[str, Any]


def keys_of(table: str, seeds: Sequence[int]) -> list[dict[str, str | int | float]]:
    """Return the keys of a table's cells, those of one seed first."""
    if table == "search":
        return [
            {"table": table, "task": task, "method": method, "rate": rate, "seed": 1}
            for task in GLUE
            for method in METHODS
            for rate in RATES[method]
        ]
    if table == "curves":
        return [{"table": table, "task": CURVE, "method": method, "seed": 1} for method in CURVES]
    if table == "designs":
        return [{"table": table, "task": task, "method": name, "seed": 1} for name in DESIGNS for task in JUDGED]
    if table == "memory":
        return [{"table": table, "task": GLUE[0], "method": method, "seed": 1} for method in METHODS]
    if table == "squad":
        return [{"table": table, "task": "squad", "method": method, "seed": 1} for method in SQUAD]
    return [
        {"table": table, "task": task, "method": method, "seed": seed}
        for seed in seeds
        for task in GLUE
        for method in METHODS
        if (seed == 1 or method in OFTEN) and not (table == "paired" and method == BASELINE)
    ]


def words_of(key: Key, results: Path) -> tuple[str, list[str]]:
    """Return configuration and overrides of one cell; raises `SideAgentsError` before its rate has been chosen."""
    table, task, method = str(key["table"]), str(key["task"]), str(key["method"])
    if table == "squad":
        return "nlp/squad", [f"seed={key['seed']}", f"name=nlp_squad_{method}", *SQUAD[method]]
    words = [f"seed={key['seed']}", f"task={task}", "rows=5000" if task == "SST-2" else "rows=0"]
    if table == "memory":
        return "nlp/glue", [*words, f"name=nlp_memory_{method}", FUSED, "device=cpu", *METHODS[method]]
    name = "".join(letter if letter.isalnum() else "-" for letter in method)
    if table == "designs":
        words += [f"name=nlp_{task}_{name}", "learning_rate=1e-3", GATES]
        return "nlp/glue", [*words, f"options={{{DESIGNS[method]}}}"]
    if table == "curves":
        rate = best_rate(task, "lst_random" if method.startswith("lst") else "lora", results)
        return "nlp/glue", [*words, f"name=nlp_curve_{name}", f"learning_rate={rate}", *CURVES[method]]
    rate = float(key["rate"]) if table == "search" else best_rate(task, method, results)
    return "nlp/glue", [*words, f"name=nlp_{task}_{method}_{rate:g}", f"learning_rate={rate}", *METHODS[method]]


def best_rate(task: str, method: str, results: Path) -> float:
    """Return the learning rate with the best held-out score; raises before all of them are measured."""
    keys = [key for key in keys_of("search", [1]) if (key["task"], key["method"]) == (task, method)]
    current = {settings_of(key, results) for key in keys}
    found = [row for row in newest_rows(results / "nlp_search.jsonl") if row["config_hash"] in current]
    rows = {float(row["cell"]["rate"]): max(row["held_out"]) for row in found}
    if len(rows) < len(keys):
        raise SideAgentsError(f"the rate of {method} on {task} is not chosen yet: run the table search first")
    return max(rows, key=lambda rate: rows[rate])


def settings_of(key: Key, results: Path) -> str:
    """Return the digest of a cell's configuration as written; of `paired` that of the rows it compares."""
    if key["table"] == "paired":
        rows = [settings_of({**key, "table": "glue", "method": name}, results) for name in (key["method"], BASELINE)]
        return hashlib.sha256(" ".join(rows).encode()).hexdigest()
    config, words = words_of(key, results)
    return config_hash(load_named(NlpConfig, config, words))


def work(cell: Cell, results: Path) -> dict[str, Any]:
    """Run one cell; return its row. A run that its search has trained already is evaluated and not trained again."""
    if cell.key["table"] == "paired":
        return _paired(cell.key, results)
    config: NlpConfig = ready_job("nlp", *words_of(cell.key, results))
    if cell.key["table"] == "memory":
        return measured(config)
    _, result = nlp(config, resume=_trained(config), test=cell.key["table"] not in _UNREAD)
    if cell.key["table"] == "curves":
        name, words = words_of(cell.key, results)
        result |= measured(read_job("nlp", name, [*words, FUSED, "device=cpu"]))
    return {name: result[name] for name in _KEPT if name in result}


def _trained(config: NlpConfig) -> bool:
    """Return whether there is a run to go on with, of these very settings."""
    try:
        RunFolder.create(Path(config.runs), config.name, "", resume=True).require_config(config)
    except SideAgentsError:
        return False
    return True


def _paired(key: Key, results: Path) -> dict[str, Any]:
    """Compare a method's predictions with the baseline's, on the same resampled rows of the dev set."""
    rows = {row["cell"]["method"]: row for row in _rows(results, "glue") if _same(row["cell"], key)}
    task = str(key["task"])
    truths = np.asarray(read_glue(Path(find_data("glue")), task, "dev").labels, np.float64)
    own, other = (np.asarray(rows[name]["answers"], np.float64) for name in (str(key["method"]), BASELINE))
    metric = TASKS[task].metric
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(1000):
        index = generator.integers(len(truths), size=len(truths))
        values = (score(metric(answers[index], truths[index])) for answers in (own, other))
        drawn.append(next(values) - next(values))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "difference": rows[str(key["method"])]["score"] - rows[BASELINE]["score"],
        "low": float(low),
        "high": float(high),
    }


def _same(cell: Key, key: Key) -> bool:
    return all(cell[name] == key[name] for name in ("task", "seed"))


def _rows(results: Path, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table that were made with today's settings."""
    return [row for row in newest_rows(results / f"nlp_{table}.jsonl") if _current(row, results)]


def _current(row: Row, results: Path) -> bool:
    try:
        return bool(settings_of(row["cell"], results) == row["config_hash"])
    except (SideAgentsError, KeyError):  # of a method or a rate that is no longer there
        return False


def cells_of(table: str, keys: Sequence[Key], results: Path) -> list[Cell]:
    """Return cells with their settings and estimates; those whose rate or rows are not there yet wait."""
    cells, waiting = [], 0
    done = {(row["cell"]["task"], row["cell"]["method"], row["cell"]["seed"]) for row in _rows(results, "glue")}
    for key in keys:
        if table == "paired" and not {(key["task"], m, key["seed"]) for m in (key["method"], BASELINE)} <= done:
            waiting += 1
            continue
        try:
            cells.append(Cell(key, settings_of(key, results), 60 * _minutes(key)))
        except SideAgentsError:
            waiting += 1
    if waiting:
        print(f"{table}: {waiting} cells wait for others")
    return cells


def _minutes(key: Key) -> float:
    table, method = key["table"], str(key["method"])
    if table in _EACH:
        return _EACH[str(table)]
    if table == "squad":
        return 8.0 if method == "features" else 35.0
    share = 1.0 if method in ("full", "sidetune") else 0.4 if method.startswith("lst") else _SHARE[method.split()[0]]
    trained = table == "glue" and key["seed"] == 1  # by the search, where its runs are still here
    return 0.5 if trained else 5 * share * _MINUTES[str(key["task"])]


def glue_table(results: Path) -> str:
    """Return scores by method and task, means over seeds, with memory and the difference to the baseline."""
    rows, paired = _rows(results, "glue"), _rows(results, "paired")
    lines = []
    memory = {row["cell"]["method"]: row["peak_bytes_total"] / 1e6 for row in _rows(results, "memory")}
    for method in METHODS:
        found = [row for row in rows if row["cell"]["method"] == method]
        if not found:
            continue
        by_task = {task: [100 * row["score"] for row in found if row["cell"]["task"] == task] for task in GLUE}
        whole = all(by_task.values())
        mean = f"{np.mean([np.mean(values) for values in by_task.values()]):.1f}" if whole else "-"
        own = [row for row in paired if row["cell"]["method"] == method]
        apart = {task: [row for row in own if row["cell"]["task"] == task] for task in GLUE}
        lines.append(
            [
                method,
                *(_spread(values) for values in by_task.values()),
                mean,
                _difference(apart) if all(apart.values()) else "-",
                f"{found[0]['trainable']:,}",
                f"{memory[method]:,.0f}" if method in memory else "-",
                f"{memory[method] / memory[BASELINE]:.2f}" if {method, BASELINE} <= set(memory) else "-",
            ]
        )
    head = ["method", *GLUE, "mean", f"less {BASELINE}", "trained", "a step's memory, MB", f"of {BASELINE}'s"]
    return markdown_table(head, lines) if lines else ""


def _difference(rows: Mapping[str, Sequence[Row]]) -> str:
    """Return the mean difference over tasks, means over seeds, and its half-width from those of the tasks.

    Tasks are independent; seeds are not, they predict the same dev rows: they make a half-width no smaller.
    """
    apart = [np.mean([row["difference"] for row in found]) for found in rows.values()]
    halves = [np.mean([(row["high"] - row["low"]) / 2 for row in found]) for found in rows.values()]
    half = float(np.sqrt(np.sum(np.square(halves)))) / len(halves)
    return f"{100 * float(np.mean(apart)):+.1f} ± {100 * half:.1f}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


def curves_table(results: Path) -> str:
    """Return score against memory for each point of the curves."""
    rows = {row["cell"]["method"]: row for row in _rows(results, "curves")}
    lines = [
        [
            name,
            f"{rows[name]['trainable']:,}",
            f"{rows[name]['peak_bytes_total'] / 1e6:,.0f}",
            f"{100 * rows[name]['score']:.1f}",
        ]
        for name in CURVES
        if name in rows
    ]
    return markdown_table([f"method, on {CURVE}", "trained", "a step's memory, MB", "score"], lines) if lines else ""


def designs_table(results: Path) -> str:
    """Return held-out scores of the sides, at their best epochs, below the baseline's at its better rate."""
    rows = {(row["cell"]["method"], row["cell"]["task"]): row for row in _rows(results, "designs")}
    searched = [row for row in _rows(results, "search") if row["cell"]["method"] == BASELINE]
    for row in sorted(searched, key=lambda row: float(max(row["held_out"]))):
        rows[BASELINE, row["cell"]["task"]] = row
    lines = []
    for name in (BASELINE, *DESIGNS):
        found = [rows[name, task] for task in JUDGED if (name, task) in rows]
        if len(found) == len(JUDGED):
            scores = [100 * max(row["held_out"]) for row in found]
            lines.append([name, *(f"{x:.1f}" for x in scores), f"{np.mean(scores):.1f}", f"{found[0]['trainable']:,}"])
    return markdown_table(["side, on held-out rows", *JUDGED, "mean", "trained"], lines) if len(lines) > 1 else ""


def squad_table(results: Path) -> str:
    """Return exact match and F1 of SQuAD by method."""
    rows = {row["cell"]["method"]: row for row in _rows(results, "squad")}
    names = ("exact", "f1", "exact_answerable", "f1_answerable", "exact_unanswerable")
    lines = [
        [name, *(f"{100 * rows[name]['metrics'][key]:.1f}" for key in names), f"{rows[name]['trainable']:,}"]
        for name in SQUAD
        if name in rows
    ]
    head = ["method", "exact", "F1", "exact, answerable", "F1, answerable", "exact, unanswerable", "trained"]
    return markdown_table(head, lines) if lines else ""


SHOWN: dict[str, Callable[[Path], str]] = {
    "glue": glue_table,
    "curves": curves_table,
    "designs": designs_table,
    "squad": squad_table,
}


def plot(results: Path, path: Path) -> Path:
    """Draw score against memory; raises `SideAgentsError` where nothing of the curves is measured."""
    rows = {row["cell"]["method"]: row for row in _rows(results, "curves")}
    if not rows:
        raise SideAgentsError(f"{results}/nlp_curves.jsonl: nothing of the curves is measured yet")
    figure = new_figure(6.4, 4.2)
    axis = figure.subplots()
    kinds = {"reduction": "lst r=", "layers dropped": "layers", "LoRA": "lora"}
    for label, word in kinds.items():
        names = [n for n in CURVES if n in rows and word in n and ("layers" in n) == (word == "layers")]
        points = [(rows[n]["peak_bytes_total"] / 1e6, 100 * rows[n]["score"]) for n in names]
        if points:
            axis.plot(*zip(*points, strict=True), "o-", label=label)
            for name, point in zip(names, points, strict=True):
                short = name.split("=")[-1].removesuffix(" layers").split(", ")[-1]
                axis.annotate(short, point, textcoords="offset points", xytext=(4, 4), fontsize="small")
    axis.set_xlabel("memory of a training step, MB")
    axis.set_ylabel(f"score on {CURVE}")
    axis.legend()
    axis.grid(alpha=0.3)
    return save_figure(figure, path)


def _shown(table: str, results: Path) -> str:
    return SHOWN[table](results) if table in SHOWN else ""


STUDY = Study(
    doc=__doc__,
    example="task=RTE",
    tables=TABLES,
    seeds=(1, 2, 3),
    keys=keys_of,
    cells=lambda table, keys, options: cells_of(table, keys, options.results),
    file="nlp_{}.jsonl".format,
    work=lambda _, cell, options: work(cell, options.results),
    show=by_table(_shown),
    pictures={"plot": ("draw score against memory", lambda options, path: plot(options.results, path))},
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing of the tables, or print them."""
    return run(STUDY, argv)
