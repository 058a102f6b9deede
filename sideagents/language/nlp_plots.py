"""Pictures of language models: what a training step holds in memory, method by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sideagents.run.figures import new_figure, save_figure

_PARTS = {"weight_bytes": "weights", "state_bytes": "gradients, AdamW", "activation_bytes": "activations"}


def plot_memory(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw a bar for each row of `benchmark_nlp`, its weights, state and activations in GB, and return the path."""
    figure = new_figure(7.0, 0.6 + 0.32 * len(rows))
    axis = figure.subplots()
    names = [str(row["method"]) for row in rows]
    left = [0.0] * len(rows)
    for key, label in _PARTS.items():
        values = [row[key] / 1e9 for row in rows]
        axis.barh(names, values, left=left, label=label)
        left = [start + value for start, value in zip(left, values, strict=True)]
    for name, total in zip(names, left, strict=True):
        axis.annotate(f"{total:.2f}", (total, name), textcoords="offset points", xytext=(4, -3), fontsize="small")
    axis.invert_yaxis()
    axis.set_xlim(0, 1.12 * max(left, default=1.0))
    axis.set_xlabel("GB at the peak of a training step")
    axis.legend(loc="lower right")
    return save_figure(figure, path)
