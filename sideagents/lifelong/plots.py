"""Pictures of a sequence of tasks: accuracies or losses after each task as a matrix, and each task's curve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sideagents.run.figures import new_figure, save_figure


def plot_sequence(result: Mapping[str, Any], path: Path) -> Path:
    """Draw the result of `lifelong` and return the picture's path."""
    names = list(result["tasks"])
    measure = result["measure"]
    unit, label = (100.0, "accuracy, %") if measure == "accuracy" else (1.0, "loss")
    matrix = np.array([[np.nan if v is None else unit * v for v in row] for row in result[measure]], float)
    figure = new_figure(10.0, 4.2)
    left, right = figure.subplots(1, 2)
    shown = left.imshow(matrix, cmap="viridis", vmin=np.nanmin(matrix), vmax=np.nanmax(matrix))
    figure.colorbar(shown, ax=left, label=label)
    left.set_xticks(range(len(names)), names, rotation=45, ha="right")
    left.set_yticks(range(len(names)), names)
    left.set_xlabel("task")
    left.set_ylabel("after training on")
    for task, name in enumerate(names):
        steps = np.arange(task, len(names))
        right.plot(steps, matrix[task:, task], "o-", markersize=3, linewidth=1.2, label=name)
    right.set_xticks(range(len(names)), names, rotation=45, ha="right")
    right.set_xlabel("after training on")
    right.set_ylabel(label)
    right.grid(alpha=0.3)
    right.legend(fontsize="x-small", ncols=2, title="task", title_fontsize="x-small")
    mean = result[f"mean_{measure}"]
    at_the_end = f"{100 * mean:.1f} %" if measure == "accuracy" else f"mean loss {mean:.3f}"
    figure.suptitle(f"{result['method']}: {at_the_end} at the end")
    return save_figure(figure, path)
