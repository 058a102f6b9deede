"""Learning curves of runs, averaged over seeds with bootstrap intervals."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sideagents.config.typed import differences, load_config
from sideagents.errors import SideAgentsError
from sideagents.run.figures import new_figure, save_figure
from sideagents.run.scalars import read_scalars
from sideagents.run.stats import bootstrap_interval
from sideagents_policies.config import AgentConfig

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
METRICS = {
    "rollout/success": "success",
    "rollout/spl": "SPL",
    "rollout/return": "return",
    "train/alpha": "alpha (weight of the base)",
}

_SAME_EXPERIMENT = ("seed", "runs", "workers", "threads", "device")  # keys in which runs to average may differ


def read_curves(run: Path) -> dict[str, Curve]:
    """Return metric -> (frames, values) of a run's progress.csv; raises `SideAgentsError` when there is none.

    Frames are those trained on, in cloning too, where they come more than once.
    """
    if not (run / "progress.csv").is_file():
        raise SideAgentsError(f"{run}: no progress.csv in it; is it a run folder that train or clone wrote?")
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in read_scalars(run / "progress.csv"):
        for metric in METRICS:
            if row.get(metric):
                frames = _number(run, row, "frames" if row.get("frames") else "step")
                points[metric].append((frames, _number(run, row, metric)))
    return {metric: (np.array([x for x, _ in p]), np.array([y for _, y in p])) for metric, p in points.items()}


def _number(run: Path, row: dict[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        where = f"{run / 'progress.csv'}: step {row['step']}"
        raise SideAgentsError(f"{where}: {name} is {row[name][:40]!r}, not a number")
    return value


def labels_of(runs: Sequence[Path]) -> list[str]:
    """Return each folder's name without its number, which runs of several seeds share.

    Where runs of one name differ in more than their seed, what differs from the first is added: they are not averaged.
    """
    labels: list[str] = []
    first: dict[str, AgentConfig] = {}
    for run in runs:
        name = re.sub(r"_\d+$", "", run.resolve().name)
        settings = run / "config.yaml"
        changed: dict[str, tuple[Any, Any]] = {}
        if settings.is_file():
            config = load_config(AgentConfig, settings)
            changed = differences(first.setdefault(name, config), config)
        words = [f"{key}={new}" for key, (_, new) in changed.items() if key not in _SAME_EXPERIMENT]
        labels.append(" ".join([name, *words]))
    return labels


def average(curves: Sequence[Curve], points: int = 200) -> tuple[NDArray[np.float64], ...]:
    """Interpolate curves of several seeds on common frames; return (frames, mean, low, high).

    With a single seed the interval has no width.
    """
    start = max(x[0] for x, _ in curves)
    end = min(x[-1] for x, _ in curves)
    grid = np.linspace(start, max(end, start), points)
    values = np.stack([np.interp(grid, x, y) for x, y in curves])
    if len(curves) == 1:
        return grid, values[0], values[0], values[0]
    stats = np.array([bootstrap_interval(values[:, i]) for i in range(points)])
    return grid, stats[:, 0], stats[:, 1], stats[:, 2]


def plot_runs(runs: Sequence[Path], out: Path) -> Path:
    """Draw success, SPL, return and alpha against frames; one line for each experiment, a band over its seeds."""
    groups: dict[str, list[dict[str, Curve]]] = defaultdict(list)
    for run, label in zip(runs, labels_of(runs), strict=True):
        groups[label].append(read_curves(run))
    shown = [m for m in METRICS if any(m in curves for group in groups.values() for curves in group)]
    if not shown:
        raise SideAgentsError(f"{runs[0]}: progress.csv has no curve yet ({', '.join(METRICS)})")
    figure = new_figure(4.2 * len(shown), 3.4)
    for axis, metric in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        for label, group in groups.items():
            curves = [curves[metric] for curves in group if metric in curves]
            if not curves:
                continue
            frames, mean, low, high = average(curves)
            name = f"{label} ({len(curves)} seeds)" if len(curves) > 1 else label
            alone = "o" if frames[0] == frames[-1] else ""  # a line of one point would not be seen
            (line,) = axis.plot(frames / 1e3, mean, alone, label=name, linewidth=1.5)
            if len(curves) > 1:
                axis.fill_between(frames / 1e3, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axis.set_xlabel("frames trained on (thousands)")
        axis.set_title(METRICS[metric])
        axis.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    return save_figure(figure, out)
