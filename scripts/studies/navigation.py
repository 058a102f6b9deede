"""The paper's navigation tables at a small fixed budget, cell by cell (side-tuning paper, Tables 3c, 3d and Figure 8).

bc      behaviour cloning from 490 demonstrations: five methods x bases curvature and denoising, and a blind agent
ppo     PPO from fresh heads, the same ten agents
demos   behaviour cloning from 49 and 4,900 demonstrations, base denoising, four methods; those from 490 are bc's
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sideagents.bases import load_base
from sideagents.config.typed import config_hash
from sideagents.errors import SideAgentsError
from sideagents_envs.buildings import GENERATOR_VERSION
from sideagents_envs.versions import LISTS_VERSION
from sideagents_policies.agent.checks import read_config
from sideagents_policies.agent.runs import load_agent
from sideagents_policies.config import AgentConfig
from sideagents_policies.demos.collect import collect
from sideagents_policies.evaluate.evaluation import evaluate_run
from sideagents_policies.evaluate.tables import cell as shown
from sideagents_policies.evaluate.tables import markdown_table, marked, with_note
from sideagents_policies.train.cloning import clone
from sideagents_policies.train.reinforcement import train
from sideagents_policies.train.session import under_launcher
from studies.cells import Cell, newest_rows
from studies.study import Options, Study, by_table, run

CONFIG = "pointnav/comparison"
METHODS = ("sidetune", "features", "finetune", "scratch", "stagewise")
BASES = ("curvature", "denoising")
BLIND = "blind"  # goal and map only
SIZES = (49, 4900)
STEPS = 1024  # optimizer steps of every cloning cell, whatever the number of demonstrations
_FRAMES_PER_DEMO = 60.0  # about; only turns STEPS into epochs
_ESTIMATE_S = {"bc": 240.0, "ppo": 600.0, "demos": 300.0}
_METRICS = ("success", "spl", "nav_reward")


def keys_of(table: str, seeds: Sequence[int]) -> list[dict[str, str | int | float]]:
    """Return the keys of a table's cells."""
    if table == "demos":
        cells = [("denoising", m, n) for n in SIZES for m in METHODS if m != "stagewise"]
    else:
        cells = [(b, m, 490) for b in BASES for m in METHODS]
        cells += [(BASES[0], BLIND, 490)] if table == "bc" else []
    return [{"table": table, "base": b, "method": m, "demos": n, "seed": s} for s in seeds for b, m, n in cells]


def config_of(key: Mapping[str, str | int | float]) -> AgentConfig:
    """Return the configuration of one cell."""
    demos = int(key["demos"])
    config = read_config(CONFIG)
    batch = config.clone.batch_size * config.workers
    epochs = round(STEPS * batch / (demos * _FRAMES_PER_DEMO), 3)
    return read_config(
        CONFIG,
        [
            f"name=comparison_{key['table']}",
            f"model.base={key['base']}",
            *(["model.use_rgb=false"] if key["method"] == BLIND else [f"model.method={key['method']}"]),
            f"seed={key['seed']}",
            f"demos.trajectories={demos}",
            f"clone.epochs={epochs}",
        ],
    )


def settings_of(key: Mapping[str, str | int | float]) -> str:
    """Return the digest of all that a cell's result rests on: configuration, weights of the base, buildings, lists."""
    weights = load_base(str(key["base"])).fingerprint
    parts = (config_hash(config_of(key)), weights, str(GENERATOR_VERSION), LISTS_VERSION)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def work(cell: Cell) -> dict[str, Any]:
    """Train and evaluate one cell; return its row."""
    config = config_of(cell.key)
    if cell.key["table"] == "ppo":
        run = train(config)
    else:
        # one set of demonstrations for each size and seed serves all methods and bases
        folder = Path(config.runs) / f"comparison_demos_{cell.key['demos']}_{config.seed}"
        run = clone(config, demos=collect(config, folder))
    result = evaluate_run(run)
    alpha = float(getattr(load_agent(run).policy.features_extractor, "alpha_value", lambda: math.nan)())
    return {
        "precision": config.precision,
        "episodes": result["episodes"],
        **{name: result[name] for name in ("buildings", "buildings_played", "lists")},
        "metrics": result["metrics"],
        "alpha": None if math.isnan(alpha) else round(alpha, 4),
    }


def rows_of(table: str, results: Path) -> list[dict[str, Any]]:
    """Return the finished rows of a table, in its order; the table of demonstrations shows some cells of bc too."""
    rows = newest_rows(results / f"navigation_{table}.jsonl")
    if table == "demos":
        others = newest_rows(results / "navigation_bc.jsonl")
        rows += [r for r in others if r["cell"]["base"] == "denoising" and r["cell"]["method"] != "stagewise"]
    return sorted(rows, key=_order)


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    key = row["cell"]
    return (key["base"], (*METHODS, BLIND).index(key["method"]), key["demos"], key["seed"])


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as Markdown, in their order; those of other held-out lists than today's are marked."""
    header = ["base", "method", "demos", "seed", "success", "SPL", "Nav. Rew.", "alpha", "minutes"]
    lines = []
    for row in rows:
        key, alpha = row["cell"], row["alpha"]
        demos = "-" if key["table"] == "ppo" else str(key["demos"])
        stats = [shown(metric, row["metrics"][metric]) for metric in _METRICS]
        shown_alpha = "-" if alpha is None else f"{alpha:.2f}"
        lines.append(
            [
                key["base"],
                marked(key["method"], row),
                demos,
                str(key["seed"]),
                *stats,
                shown_alpha,
                f"{row['seconds'] / 60:.1f}",
            ]
        )
    return with_note(markdown_table(header, lines), rows)


def _shown(table: str, results: Path) -> str:
    rows = rows_of(table, results)
    return f"{table}\n{table_of(rows)}" if rows else ""


def _require_one_process(_: Options) -> None:
    if under_launcher():
        raise SideAgentsError("every cell starts its own processes: run it without torchrun")


STUDY = Study(
    doc=__doc__,
    example="method=sidetune",
    tables=tuple(_ESTIMATE_S),
    seeds=(1,),
    keys=keys_of,
    cells=lambda table, keys, _: [Cell(key, settings_of(key), _ESTIMATE_S[table]) for key in keys],
    file="navigation_{}.jsonl".format,
    work=lambda _, cell, __: work(cell),
    show=by_table(_shown),
    ready=_require_one_process,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing of the tables, or print them."""
    return run(STUDY, argv)
