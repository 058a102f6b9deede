"""Pictures of a sequence of tasks: accuracies after each task as a matrix, and each task's curve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sideagents.run.figures import new_figure, save_figure


def plot_sequence(result: Mapping[str, Any], path: Path) -> Path:
    """Draw the result of `lifelong` and return the picture's path."""
    names = list(result["tasks"])
    matrix = np.array([[np.nan if v is None else 100 * v for v in row] for row in result["accuracy"]], float)
    figure = new_figure(10.0, 4.2)
    left, right = figure.subplots(1, 2)
    shown = left.imshow(matrix, cmap="viridis", vmin=np.nanmin(matrix), vmax=np.nanmax(matrix))
    figure.colorbar(shown, ax=left, label="accuracy, %")
    left.set_xticks(range(len(names)), names, rotation=45, ha="right")
    left.set_yticks(range(len(names)), names)
    left.set_xlabel("task")
    left.set_ylabel("after training on")
    for task, name in enumerate(names):
        steps = np.arange(task, len(names))
        right.plot(steps, matrix[task:, task], "o-", markersize=3, linewidth=1.2, label=name)
    right.set_xticks(range(len(names)), names, rotation=45, ha="right")
    right.set_xlabel("after training on")
    right.set_ylabel("accuracy, %")
    right.grid(alpha=0.3)
    right.legend(fontsize="x-small", ncols=2, title="task", title_fontsize="x-small")
    figure.suptitle(f"{result['method']}: {100 * result['mean_accuracy']:.1f} % at the end")
    return save_figure(figure, path)
