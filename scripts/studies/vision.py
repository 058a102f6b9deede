"""Transfer between targets of rendered images, and what the parts of side-tuning do, cell by cell.

transfer   bases curvature and segmentation, to normals and to the room's class, with 100 and with 2,000 images, by
           fine-tuning, fixed features, from scratch and side-tuning (side-tuning paper, Table 3a)
size       sides of several widths, on a large and on a small base (section 4.4, network size)
init       how the side starts (initialisation)
boosting   a stack of small sides beside one larger side, CIFAR-100's first ten classes on a ResNet-44 (not boosting)
updates    fine-tuning with clipped gradients and by RAdam (more than just stable updates)
alpha      alpha at the end against the loss, over six bases (relevance)
"""

from __future__ import annotations

import hashlib
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from sideagents.adaptation.adapt_config import AdaptConfig
from sideagents.bases import load_base
from sideagents.config.typed import config_hash
from sideagents.errors import SideAgentsError
from sideagents.jobs.adapt import adapt_run
from sideagents_policies.evaluate.tables import markdown_table
from sideagents_policies.jobs import ready_job
from sideagents_policies.paths import load_named
from studies.cells import Cell, newest_rows
from studies.study import Options, Study, by_table, run

MADE = {  # bases that do not ship: how to make them
    "segmentation": "sideagents pretrain task=segmentation data=simtaskonomy/train held_out=simtaskonomy/val epochs=40",
    "curvature_small": "sideagents pretrain task=curvature name=curvature_small width=16 "
    "data=simtaskonomy/train held_out=simtaskonomy/val epochs=40",
}
TARGETS = ("normals", "room")
METHODS = {
    "finetune": ["method=finetune", "options={}"],
    "features": ["method=features", "options={}"],
    "scratch": ["method=scratch", "options={}"],
    "sidetune": [],
}
FEW = ["images=100", "epochs=100"]
WIDTHS = (8, 16, 32, 64)
MANY = ["images=2000", "epochs=10"]
_AMOUNTS: dict[int, list[str]] = {100: FEW, 2000: MANY}
_STACK = (1, 2, 3, 4)
SMALL = 8  # width of a stack's sides

Key = Mapping[str, str | int | float]
Row = Mapping[str, Any]
Cells = dict[tuple[tuple[str, str | int], ...], list[str]]


def _cell(**key: str | int) -> tuple[tuple[str, str | int], ...]:
    return tuple(key.items())


def _conv(width: int) -> list[str]:
    return ["options.side=conv", f"options.side_options={{width: {width}}}"]


def _transfer() -> Cells:
    return {
        _cell(base=base, target=target, images=images, method=method): [
            f"base={base}",
            f"domain={target}",
            *more,
            *words,
        ]
        for images, more in _AMOUNTS.items()
        for base in ("curvature", "segmentation")
        for target in TARGETS
        for method, words in METHODS.items()
    }


def _sizes() -> Cells:
    return {
        _cell(base=base, side=f"conv {width}", target=target): [f"base={base}", f"domain={target}", *_conv(width)]
        for base in ("curvature", "curvature_small")
        for width in WIDTHS
        for target in TARGETS
    }


def _starts() -> Cells:
    starts = {
        "copy of the base": ["options={side: copy}"],
        "low_energy": [],
        "fresh weights": ["options.side_init=random"],
    }
    return {
        _cell(images=images, init=start, target=target): [f"domain={target}", *more, *words]
        for images, more in _AMOUNTS.items()
        for start, words in starts.items()
        for target in ("normals", "depth", "edges", "room")
    }


def _stacks() -> Cells:
    sides = {f"{count} x {SMALL}": SMALL for count in _STACK} | {"1 x 16": 16, "1 x 24": 24}
    return {_cell(sides=name): _conv(width) for name, width in sides.items()}


def _updates() -> Cells:
    kinds = {
        "adam, clipped at 1": ["optimizer=adam", "max_grad_norm=1.0"],
        "adam, clipped at 0.1": ["optimizer=adam", "max_grad_norm=0.1"],
        "adam": ["optimizer=adam"],
        "radam": [],
    }
    return {
        _cell(updates=name, target=target): [f"domain={target}", *words]
        for name, words in kinds.items()
        for target in TARGETS
    }


def _alphas() -> Cells:
    return {
        _cell(base=base, target=target): [f"base={base}", f"domain={target}"]
        for base in ("curvature", "denoising", "depth", "autoencoding", "edges", "random")
        for target in TARGETS
    }


TABLES: dict[str, Callable[[], Cells]] = {
    "transfer": _transfer,
    "size": _sizes,
    "init": _starts,
    "boosting": _stacks,
    "updates": _updates,
    "alpha": _alphas,
}


def words_of(table: str, key: Key, bases: Mapping[str, str]) -> list[str]:
    """Return the overrides of a cell, with the files of bases that do not ship."""
    own = {name: value for name, value in key.items() if name not in ("table", "seed")}
    words = next(words for cell, words in TABLES[table]().items() if dict(cell) == own)
    replaced = [f"base={bases[w[5:]]}" if w.startswith("base=") and w[5:] in bases else w for w in words]
    return [f"seed={key['seed']}", f"name=vision_{table}", *replaced]


def settings_of(table: str, key: Key, bases: Mapping[str, str]) -> str:
    """Return the digest of a cell's configuration as written and, for bases that do not ship, of their weights."""
    name = str(key.get("base", ""))
    config = load_named(AdaptConfig, f"vision/{table}", words_of(table, key, {}))
    parts = [config_hash(config)]
    if name in bases:
        parts.append(load_base(bases[name]).fingerprint)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def work(table: str, cell: Cell, bases: Mapping[str, str]) -> dict[str, Any]:
    """Run one cell; return its row."""
    config = ready_job("adapt", f"vision/{table}", words_of(table, cell.key, bases))
    count = int(str(cell.key["sides"]).split(" x ")[0]) if table == "boosting" else 1
    result = _boosted(config, count) if count > 1 else adapt_run(config)[1]
    kept = ("precision", "measure", "accuracy", "loss", "alpha", "images", "trainable")
    return {name: result[name] for name in kept}


_FLOORS: dict[str, tuple[Path, dict[str, Any]]] = {}  # run and result of each floor that this process has trained


def _boosted(config: AdaptConfig, count: int) -> dict[str, Any]:
    """Train one side after another, each on what is below it, frozen; a higher stack goes on with a lower one's."""
    trainable = 0
    result: dict[str, Any] = {}
    for floor in range(count):
        seed = int(np.random.SeedSequence([config.seed, floor]).generate_state(1)[0])
        own = config.model_copy(update={"seed": seed})
        key = config_hash(own)
        if key not in _FLOORS:
            _FLOORS[key] = adapt_run(own)
        run, result = _FLOORS[key]
        config = config.model_copy(update={"stack_on": str(run)})
        trainable += result["trainable"]
    return {**result, "trainable": trainable}


def table_of(table: str, rows: Sequence[Row]) -> str:
    """Return a table as Markdown: accuracy in percent, or loss, for each target (and number of images, and base).

    Means over seeds, with 95 % intervals where there are several seeds.
    """
    if not rows:
        return ""
    across = [name for name in ("base", "images", "target") if name in rows[0]["cell"] and table != "alpha"]
    if table in ("size", "alpha"):
        across = ["target"]
    down = [name for name in rows[0]["cell"] if name not in (*across, "table", "seed")]
    columns = list(dict.fromkeys(tuple(str(row["cell"][name]) for name in across) for row in rows))
    names = list(dict.fromkeys(tuple(str(row["cell"][name]) for name in down) for row in rows))
    lines = []
    for name in names:
        found = [row for row in rows if tuple(str(row["cell"][key]) for key in down) == name]
        by_column = {c: [r for r in found if tuple(str(r["cell"][key]) for key in across) == c] for c in columns}
        lines.append([*name, f"{found[0]['trainable']:,}", *(_value(by_column[c], table) for c in columns)])
    heads = [" ".join(column) or "accuracy, %" for column in columns]
    text = markdown_table([*down, "trained, without readout", *heads], lines)
    return text + (f"\n\n{_correlations(rows)}" if table == "alpha" else "")


def _value(rows: Sequence[Row], table: str) -> str:
    """Return the mean over seeds, with Student's 95 % interval of it where there are several."""
    if not rows:
        return "-"
    asked = rows[0]["measure"] == "accuracy"
    values = [100 * row["accuracy"] if asked else row["loss"] for row in rows]
    digits, unit = (1, " %") if asked else (4, "")
    spread = ""
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1)) * np.std(values, ddof=1) / np.sqrt(len(values))
        spread = f" [{np.mean(values) - half:.{digits}f}, {np.mean(values) + half:.{digits}f}]"
    value = f"{np.mean(values):.{digits}f}{unit}{spread}"
    return f"{value} (alpha {np.mean([row['alpha'] for row in rows]):.3f})" if table == "alpha" else value


def _correlations(rows: Sequence[Row]) -> str:
    """Return Spearman's correlation of alpha with the loss at the end, for each target."""
    lines = []
    for target in dict.fromkeys(str(row["cell"]["target"]) for row in rows):
        bases: dict[str, list[Row]] = {}
        for row in rows:
            if row["cell"]["target"] == target:
                bases.setdefault(str(row["cell"]["base"]), []).append(row)
        if len(bases) > 2:
            alphas, losses = (
                [np.mean([r[key] for r in found]) for found in bases.values()] for key in ("alpha", "loss")
            )
            result = stats.spearmanr(alphas, losses)
            words = f"rank correlation of alpha with the loss {result.statistic:.2f} (p = {result.pvalue:.3f})"
            lines.append(f"{target}: {words} over {len(bases)} bases")
    return "\n".join(lines)


def keys_of(table: str, seeds: Sequence[int]) -> list[dict[str, str | int]]:
    """Return the keys of a table's cells."""
    return [{"table": table, **dict(key), "seed": seed} for key in TABLES[table]() for seed in seeds]


def _bases(options: Options) -> dict[str, str]:
    return {name: str(getattr(options, name)) for name in MADE}


def _cells(table: str, keys: Sequence[Key], options: Options) -> list[Cell]:
    """Return cells with their settings; raises `SideAgentsError` for a base that is not made yet."""
    bases = _bases(options)
    for name in {str(key.get("base")) for key in keys} & set(MADE):
        if not Path(bases[name]).is_file():
            raise SideAgentsError(f"{bases[name]}: no such base; `{MADE[name]}` makes it")
    minutes = 2.0 * (len(_STACK) if table == "boosting" else 1)
    return [Cell(key, settings_of(table, key, bases), 60 * minutes) for key in keys]


def _add_bases(parser: ArgumentParser) -> None:
    for name, command in MADE.items():
        default = Path(f"runs/pretrain-{name}_1/{name}.safetensors")
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, default=default, metavar="FILE", help=command)


def _shown(table: str, results: Path) -> str:
    return table_of(table, newest_rows(results / f"vision_{table}.jsonl"))


STUDY = Study(
    doc=__doc__,
    example="target=room",
    tables=tuple(TABLES),
    seeds=(1,),
    keys=keys_of,
    cells=_cells,
    file="vision_{}.jsonl".format,
    work=lambda table, cell, options: work(table, cell, _bases(options)),
    show=by_table(_shown),
    options=_add_bases,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing of the tables, or print them."""
    return run(STUDY, argv)
