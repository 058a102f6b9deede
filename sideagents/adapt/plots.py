"""Pictures of TAPS: which layers became a task's own (Wallingford et al. 2022, figures 3 to 5)."""

from __future__ import annotations

from pathlib import Path

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
