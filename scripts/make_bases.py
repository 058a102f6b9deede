"""Rebuild the bases that ship with the project: render, pretrain, probe. What `make bases` runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sideagents.bases
from sideagents.bases import list_bases, load_base
from sideagents.config.typed import config_hash
from sideagents.jobs.pretrain import PretrainConfig, pretrain
from sideagents.train.probe import linear_probe
from sideagents_envs.buildings import GENERATOR_VERSION
from sideagents_envs.cache import cache_dir
from sideagents_envs.config import ScenesConfig
from sideagents_envs.episodes.bundled import dataset_name, scenes_root
from sideagents_envs.render.taskonomy import TASKS, render_taskonomy
from sideagents_envs.versions import LISTS_VERSION
from sideagents_policies.agent.checks import default_config
from sideagents_policies.evaluate.tables import markdown_table
from sideagents_policies.guard import guarded
from sideagents_policies.views.environments import build_venv
from studies.cells import Cell, read_rows, run_cells

VIEWS = {"train": 480, "val": 100}
# Few pixels are curved and each of them far from the mean, so that curvature learns slowly.
SETTINGS: dict[str, dict[str, Any]] = {"curvature": {"epochs": 24, "batch_size": 32}}
CONTROLS = ("pixels", "random")
PROBED = {"train": 12_000, "val": 4_000}
_ENVS = 16
_APART = 4  # steps between probed states of one environment: neighbours look alike


def rendered(split: str) -> Path:
    """Render the views of a split into the cache, once; return the folder."""
    folder = cache_dir() / f"taskonomy-v{GENERATOR_VERSION}" / f"{split}-{VIEWS[split]}"
    return render_taskonomy(scenes_root(ScenesConfig(), split), folder, views_per_building=VIEWS[split])


def config_of(task: str, runs: str) -> PretrainConfig:
    """Return how a shipped base is pretrained: on the training buildings, held out: those of val."""
    return PretrainConfig(
        task=task,
        data=str(rendered("train")),
        held_out=str(rendered("val")),
        out=str(Path(sideagents.bases.__file__).parent / "weights"),
        runs=runs,
        threads=1,
        **{"epochs": 4, **SETTINGS.get(task, {})},
    )


def states(split: str, count: int, overrides: Sequence[str] = ()) -> tuple[Tensor, Tensor, Tensor]:
    """Return `count` images (N, 3, H, W) uint8 on the expert's way, its next actions (N,), goal readings (N, 3).

    A quarter of the steps are random, so that the expert is seen to correct mistakes.
    """
    config = default_config([f"vec.n_envs={_ENVS}", "scenes.episodes_per_building=1", *overrides])
    venv: Any = build_venv(config, split, _ENVS, perceive=False, images=True)
    rng = np.random.default_rng(0)
    images, actions, goals = [], [], []
    observations = venv.reset()
    try:
        for step in range(_APART * -(-count // _ENVS)):
            expert = venv.unwrapped.expert_actions()
            if step % _APART == 0:
                images.append(observations["rgb"])
                actions.append(expert)
                goals.append(observations["goal"])
            random = rng.integers(0, 3, _ENVS)
            observations, _, _, _ = venv.step(np.where(rng.random(_ENVS) < 0.25, random, expert))
    finally:
        venv.close()
    pixels = torch.from_numpy(np.concatenate(images)[:count]).permute(0, 3, 1, 2)
    return pixels, torch.from_numpy(np.concatenate(actions)[:count]), torch.from_numpy(np.concatenate(goals)[:count])


def _features(base: str, images: Tensor, goals: Tensor) -> Tensor:
    """Return the code beside the goal and the code's channels weighted by the goal's direction (N, D)."""
    frozen = load_base(base)
    codes = torch.cat([frozen(images[i : i + 256]).flatten(1) for i in range(0, len(images), 256)])
    return torch.cat([goals, codes, codes * goals[:, 2:3]], dim=1)


def probe(path: Path) -> str:
    """Measure how well each code tells the expert's next action, append a row for each, return them as a table.

    The probe is linear in the code, the goal, and their product: which way to turn around an obstacle depends on the
    side on which the goal lies. `goal` alone is the floor.
    """
    data: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def work(cell: Cell) -> dict[str, float | str]:
        if not data:
            data.update({split: states(split, count) for split, count in PROBED.items()})
        (x, y, g), (xv, yv, gv) = data["train"], data["val"]
        name = str(cell.key["code"])
        train, val = (g, gv) if name == "goal" else (_features(name, x, g), _features(name, xv, gv))
        return {
            "accuracy": round(linear_probe(train, y, val, yv, 3, l2=1e-2), 4),
            "train": len(y),
            "val": len(yv),
            "buildings": dataset_name(ScenesConfig()),
            "lists": LISTS_VERSION,
        }

    fingerprints = {name: load_base(name).fingerprint[:12] for name in (*CONTROLS, *TASKS)}
    hashes = {name: f"{weights} {LISTS_VERSION}" for name, weights in {"goal": "goal", **fingerprints}.items()}
    run_cells(path, [Cell({"code": name}, hashes[name], 20.0) for name in hashes], work)
    rows = [row for row in read_rows(path) if hashes.get(row["cell"]["code"]) == row["config_hash"]]
    return markdown_table(
        ["code", "accuracy of the expert's next action"], [[r["cell"]["code"], f"{r['accuracy']:.3f}"] for r in rows]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Pretrain the named bases (all by default), then probe all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), metavar="TASK", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--resume", action="store_true", help="go on with runs of these tasks that were interrupted")
    parser.add_argument("--runs", default="runs", help="folder of the pretraining runs")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="folder of the probe's rows")
    parser.add_argument("--probe-only", action="store_true", help="leave the weights as they are")
    args = parser.parse_args(argv)
    for task in args.tasks if not args.probe_only else []:
        config = config_of(task, args.runs)
        begun = args.resume and any(Path(args.runs).glob(f"pretrain-{task}_*/checkpoints/step_*"))
        print(f"{pretrain(config, resume=begun)} (settings {config_hash(config)[:12]})")
    missing = [str(row["name"]) for row in list_bases() if row["name"] in TASKS and not row["available"]]
    if missing:
        print(f"the probe waits for {', '.join(missing)}")
    else:
        print(probe(args.results / "bases_probe.jsonl"))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
