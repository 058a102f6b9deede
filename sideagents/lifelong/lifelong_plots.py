"""Pictures of a sequence of tasks: accuracies or losses after each task as a matrix, and each task's curve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sideagents.lifelong.metrics import forgetting, rigidity
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


def plot_methods(
    losses: Mapping[str, npt.NDArray[np.float64]], trained_first: Mapping[str, npt.ArrayLike], path: Path
) -> Path:
    """Draw methods beside each other and return the picture's path.

    losses: by method (tasks, tasks), steps x tasks, nan where a task is not seen yet. Left: the mean loss of the tasks
    seen so far, over the sequence. Middle: log(m[T, i] / m[i, i]) of each task, how much was forgotten. Right: rigidity
    of each task, for the methods in `trained_first`.
    """
    figure = new_figure(12.0, 3.8)
    left, middle, right = figure.subplots(1, 3)
    for number, (name, matrix) in enumerate(losses.items()):
        tasks, style = np.arange(1, len(matrix) + 1), {"color": f"C{number}", "markersize": 3, "linewidth": 1.2}
        left.plot(tasks, np.nanmean(matrix, axis=1), "o-", label=name, **style)
        middle.plot(tasks, forgetting(np.log(matrix), higher_is_better=False), "o-", **style)
        if name in trained_first:
            right.plot(tasks, rigidity(matrix, trained_first[name]), "o-", **style)
    for axis, label in ((left, "mean loss of the tasks seen"), (middle, "forgetting, log-ratio"), (right, "rigidity")):
        axis.set_xlabel("task")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    left.set_xlabel("tasks trained")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(losses), fontsize="small")
    return save_figure(figure, path)
