"""Pictures of adaptation: a run's curve, bases by relevance, layers of TAPS (Wallingford et al. 2022, figures 3-5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sideagents.adapt.adapted import Adapted
from sideagents.adapt.taps import gates
from sideagents.errors import SideAgentsError
from sideagents.run.figures import new_figure, save_figure


def own_layers(adapted: Adapted) -> dict[str, dict[str, bool]]:
    """Return, for each task, whether each gated layer is its own; raises `SideAgentsError` for another method."""
    found = {
        name: {layer.removeprefix("encoder."): gate.active for layer, gate in gates(adapted.task(name).net).items()}
        for name in adapted.tasks
    }
    if not found or not all(found.values()):
        raise SideAgentsError("a picture of own layers needs tasks adapted by taps")
    return found


def plot_own_layers(adapted: Adapted, path: Path) -> Path:
    """Draw the layers along one axis and the tasks along the other, and return the picture's path."""
    table = own_layers(adapted)
    layers = list(dict.fromkeys(layer for own in table.values() for layer in own))
    cells = np.array([[own.get(layer, False) for layer in layers] for own in table.values()], float)
    figure = new_figure(max(5.0, 0.16 * len(layers) + 2.0), 0.32 * len(table) + 2.2)
    axis = figure.subplots()
    axis.imshow(cells, cmap="Blues", vmin=0.0, vmax=1.3, aspect="auto")
    shares = [f"{name} ({100 * row.mean():.0f} %)" for name, row in zip(table, cells, strict=True)]
    axis.set_yticks(range(len(table)), shares)
    axis.set_xticks(range(len(layers)), layers, rotation=90, fontsize=5)
    axis.set_title("layers of a task's own")
    return save_figure(figure, path)


def plot_epochs(result: Mapping[str, Any], path: Path) -> Path:
    """Draw what `adapt_run` was judged by after each epoch, and return the picture's path."""
    unit, label = (100.0, "accuracy, %") if result["measure"] == "accuracy" else (1.0, "loss")
    figure = new_figure(5.0, 3.2)
    axis = figure.subplots()
    axis.plot(np.arange(1, len(result["epochs"]) + 1), unit * np.array(result["epochs"]), "o-", markersize=3)
    axis.set_xlabel("epoch")
    axis.set_ylabel(label)
    axis.set_title(str(result["method"]))
    axis.grid(alpha=0.3)
    return save_figure(figure, path)


def plot_relevance(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw the bases of `relevance` by their alpha, the most relevant on top, and return the picture's path."""
    figure = new_figure(5.0, 0.35 * len(rows) + 1.2)
    axis = figure.subplots()
    axis.barh([str(row["base"]) for row in rows][::-1], [float(row["alpha"]) for row in rows][::-1])
    axis.axvline(0.5, color="grey", linewidth=0.8)  # where training starts
    axis.set_xlim(0.0, 1.0)
    axis.set_xlabel("alpha, the weight of the base")
    return save_figure(figure, path)
