"""One ResNet-26, many domains: what each method reaches and what it stores (residual adapters and TAPS papers).

The base is trained on CIFAR-100's first fifty classes (`sideagents adapt vision/resnet26_cifar`) and adapted to the
other fifty, with all and with 50 images of each class, to traffic signs (GTSRB), handwritten characters (Omniglot) and
digits (MNIST). svd compresses the parallel adapters of all domains together and fine-tunes the tasks' own halves.
"""

from __future__ import annotations

import hashlib
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sideagents.adaptation.adapt_config import AdaptConfig
from sideagents.adaptation.adapt_plots import plot_own_layers
from sideagents.adaptation.adapted import Adapted, adapt
from sideagents.adaptation.svd import compress_adapters
from sideagents.bases import load_base
from sideagents.config.typed import config_hash
from sideagents.errors import SideAgentsError
from sideagents.jobs.adapt import adapt_run, read_data
from sideagents.machine.seeding import seed_everything
from sideagents.run.figures import new_figure, save_figure
from sideagents.train.loop import fit
from sideagents.train.supervised import example_loss, totals
from sideagents_policies.evaluate.tables import markdown_table
from sideagents_policies.jobs import ready_job
from sideagents_policies.paths import load_named
from studies.cells import Cell, newest_rows
from studies.study import Options, Study, run

CONFIG = "vision/adapters_cifar"
BASE = Path("runs/resnet26_cifar_1/base.safetensors")
_SIGNS = ["reader=mosaics", "first_class=0", "classes=0", "augment=none"]  # mirrored, many are another sign
DOMAINS: dict[str, list[str]] = {
    "cifar": [],
    "cifar_few": ["per_class=50"],
    "gtsrb": ["data=gtsrb32", *_SIGNS],
    "omniglot": ["data=omniglot_small", *_SIGNS],
    "mnist": ["data=mnist10k", *_SIGNS],
}
# of lifelong/icifar_best, where it was chosen on held-out images
_SIDE = ("optimizer=adamw", "learning_rate=3e-3", "weight_decay=1e-2", "warmup=0.1", "max_grad_norm=1.0")
_NORM = "norm_groups=8"
METHODS: dict[str, list[str]] = {
    "finetune": ["method=finetune"],
    "features": ["method=features", _NORM],
    "parallel": ["method=residual_adapters"],
    "series": ["method=residual_adapters", "options.kind=series"],
    "taps_0.05": ["method=taps", "options.lam=0.05", "penalty_warmup=2"],
    "taps_0.25": ["method=taps", "options.lam=0.25", "penalty_warmup=2"],
    "taps_0.5": ["method=taps", "options.lam=0.5", "penalty_warmup=2"],
    "taps_1": ["method=taps", "options.lam=1.0", "penalty_warmup=2"],
    "sidetune": ["method=sidetune", "options.side=feedback", *_SIDE, _NORM],
    "sidetune_copy": ["method=sidetune", "options.side=copy", _NORM],
    "lora": ["method=lora"],
}
SVD = "svd"  # after `parallel` in every domain
OFTEN = ("finetune", "parallel", "taps_0.5")  # run with three seeds
_MINUTES = {"cifar": 18.0, "cifar_few": 2.5, "gtsrb": 9.0, "omniglot": 4.5, "mnist": 5.5}
_SVD_EPOCHS, _SVD_RATE = 3, 0.1  # of fine-tuning after the compression, beside `parallel`'s own
_DRAWN = "taps_0.5"

Key = Mapping[str, str | int | float]
Row = Mapping[str, Any]


def keys_of(seeds: Sequence[int] = (1, 2, 3)) -> list[dict[str, str | int | float]]:
    """Return the keys of all cells: those of one seed first."""
    names = [*METHODS, SVD]
    found: list[dict[str, str | int | float]] = []
    for seed in seeds:
        for domain in DOMAINS:
            found += [{"domain": domain, "method": m, "seed": seed} for m in names if seed == 1 or m in OFTEN]
    return sorted(found, key=lambda key: (key["seed"], key["method"] == SVD))


def words_of(key: Key, base: Path) -> list[str]:
    """Return the overrides of a cell's configuration; that of svd is `parallel`'s."""
    method = "parallel" if key["method"] == SVD else str(key["method"])
    name = f"domains_{method}_{key['domain']}_{key['seed']}"
    return [f"name={name}", f"seed={key['seed']}", f"base={base}", *DOMAINS[str(key["domain"])], *METHODS[method]]


def settings_of(key: Key, base: Path) -> str:
    """Return the digest of a cell's configuration as written and of the base's weights."""
    config = load_named(AdaptConfig, CONFIG, [*words_of(key, base), "base=resnet26"])
    parts = [config_hash(config), str(key["method"]), load_base(str(base)).fingerprint]
    if key["method"] == SVD:
        parts.append(f"{_SVD_EPOCHS} epochs at {_SVD_RATE} of the rate")
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def work(cell: Cell, base: Path) -> dict[str, Any]:
    """Run one cell; return its row."""
    config = ready_job("adapt", CONFIG, words_of(cell.key, base))
    result = _compressed(cell.key, config, base) if cell.key["method"] == SVD else adapt_run(config)[1]
    costs = ("trainable", "stored", "multiple", "activation_bytes", "peak_bytes")
    kept = ("precision", "accuracy", "images", "judged", "classes", *costs)
    return {name: result[name] for name in kept}


def _compressed(key: Key, config: AdaptConfig, base: Path) -> dict[str, Any]:
    """Load every domain's parallel adapters, compress them together, and fine-tune one domain's own half."""
    seed_everything(config.seed)
    adapted = _loaded("residual_adapters", "parallel", int(key["seed"]), Path(config.runs), base)
    compress_adapters(adapted)
    task = str(key["domain"])
    train, test = read_data(config)
    gentler = config.model_copy(update={"learning_rate": config.learning_rate * _SVD_RATE})

    def predict(images: Tensor, index: Tensor) -> Tensor:
        return cast(Tensor, adapted(images, task))

    def loss(index: Tensor, generator: torch.Generator) -> Tensor:
        return example_loss(predict, train, config.augment, index, generator)

    fit(adapted.task(task), loss, len(train), gentler, epochs=_SVD_EPOCHS, seed=config.seed, title=f"svd, {task}")
    accuracy = totals(predict, test, config.precision).accuracy
    own = adapted.costs(task, batch=32)
    about = {"images": len(train), "judged": len(test), "classes": train.outputs[0], "precision": config.precision}
    return {**own, **about, "accuracy": accuracy, **_shared(adapted, own)}


def _loaded(method: str, named: str, seed: int, runs: Path, base: Path) -> Adapted:
    """Return the tasks of every domain, as a method's newest runs left them; raises `SideAgentsError` without one."""
    adapted = adapt(load_base(str(base)), method)
    for domain in DOMAINS:
        name = f"domains_{named}_{domain}_{seed}"
        folders = sorted(runs.glob(f"{name}_*/task"), key=lambda path: path.stat().st_mtime)
        if not folders:
            raise SideAgentsError(f"{runs}/{name}_*: `{named}` is needed in every domain, run these cells here first")
        adapted.load_task(folders[-1], domain)
    return adapted


def _shared(adapted: Adapted, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a task stores when the shared halves are told once: an equal part of them each."""
    tensors = [adapted.adaptation.stored(adapted.task(name).net).values() for name in adapted.tasks]
    once = sum({id(t): t.numel() for found in tensors for t in found if t.is_floating_point()}.values())
    stored = once / len(adapted.tasks)
    return {"stored": round(stored), "multiple": 1.0 + stored / own["base"]}


def table_of(rows: Sequence[Row]) -> str:
    """Return accuracies by method and domain, in percent, and the multiple of the base for all domains together.

    Of one seed with its 95 % interval over the test images, of several with their standard deviation.
    """
    domains = list(DOMAINS)
    lines = []
    for method in (*METHODS, SVD):
        found = [row for row in rows if row["cell"]["method"] == method]
        if not found:
            continue
        cells = []
        for domain in domains:
            cells.append(_accuracy([row for row in found if row["cell"]["domain"] == domain]))
        lines.append([method, *cells, f"{_multiple(found):.2f}"])
    return markdown_table(["method", *domains, "times the base"], lines) if lines else ""


def _accuracy(rows: Sequence[Row]) -> str:
    if not rows:
        return "-"
    values = [100 * row["accuracy"] for row in rows]
    if len(values) > 1:
        return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    half = 1.96 * float(np.sqrt(values[0] * (100 - values[0]) / rows[0]["judged"]))
    return f"{values[0]:.2f} [{values[0] - half:.2f}, {values[0] + half:.2f}]"


def _multiple(rows: Sequence[Row]) -> float:
    """Return 1 + what the domains add on average, for as many domains as there are."""
    by_domain = {row["cell"]["domain"]: row["multiple"] - 1.0 for row in rows}
    return 1.0 + len(DOMAINS) * float(np.mean(list(by_domain.values())))


def plot(rows: Sequence[Row], path: Path) -> Path:
    """Draw mean accuracy against the multiple of the base, a point for each method that is measured in every domain.

    Raises `SideAgentsError` where there is none.
    """
    points = {}
    for method in (*METHODS, SVD):
        found = [row for row in rows if row["cell"]["method"] == method]
        by_domain = {d: [row["accuracy"] for row in found if row["cell"]["domain"] == d] for d in DOMAINS}
        if all(by_domain.values()):
            points[method] = _multiple(found), 100 * float(np.mean([np.mean(values) for values in by_domain.values()]))
    if not points:
        raise SideAgentsError("no method is measured in every domain yet")
    figure = new_figure(6.6, 4.0)
    axis = figure.subplots()
    for number, (method, point) in enumerate(points.items()):
        axis.plot(*point, "o" if number < 10 else "s", label=method)  # ten colours
    axis.set_xlabel("weights for all domains, times the base")
    axis.set_ylabel("mean accuracy over domains, %")
    axis.legend(loc="lower right", fontsize="small", ncols=2)
    axis.grid(alpha=0.3)
    return save_figure(figure, path)


def _cells(_: str, keys: Sequence[Key], options: Options) -> list[Cell]:
    return [Cell(key, settings_of(key, options.base), 60 * _MINUTES[str(key["domain"])]) for key in keys]


def _layers(options: Options, path: Path) -> Path:
    """Draw each domain's own layers, of the runs that are here."""
    runs = Path(load_named(AdaptConfig, CONFIG, []).runs)
    return plot_own_layers(_loaded("taps", _DRAWN, 1, runs, options.base), path)


def _add_base(parser: ArgumentParser) -> None:
    parser.add_argument("--base", type=Path, default=BASE, help=f"the base's weights (default {BASE})")


def _require_base(options: Options) -> None:
    if not options.base.is_file():
        raise SideAgentsError(f"{options.base}: no such base; `sideagents adapt vision/resnet26_cifar` trains it")


STUDY = Study(
    doc=__doc__,
    example="domain=gtsrb",
    tables=("domains",),
    seeds=(1, 2, 3),
    keys=lambda _, seeds: keys_of(seeds),
    cells=_cells,
    file=lambda _: "domains.jsonl",
    work=lambda _, cell, options: work(cell, options.base),
    show=lambda _, results: table_of(newest_rows(results / "domains.jsonl")),
    pictures={
        "plot": (
            "draw the trade-off of accuracy and weights",
            lambda options, path: plot(newest_rows(options.results / "domains.jsonl"), path),
        ),
        "layers": (f"draw each domain's own layers by {_DRAWN}", _layers),
    },
    options=_add_base,
    ready=_require_base,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cells that are missing, or print the table and draw the trade-off."""
    return run(STUDY, argv)
