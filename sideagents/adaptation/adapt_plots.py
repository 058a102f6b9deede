"""Pictures of adaptation: a run's curve, bases by relevance, layers of TAPS (Wallingford et al. 2022, figures 3-5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sideagents.adaptation.adapted import Adapted
from sideagents.adaptation.taps import gates
from sideagents.errors import SideAgentsError
from sideagents.run.figures import new_figure, save_figure

_READS = ("qkv", "q", "k", "v", "query", "key", "value", "in_proj")  # as attention calls its first layer
_THIRDS = ("early third", "middle third", "late third")


def own_layers(adapted: Adapted) -> dict[str, dict[str, bool]]:
    """Return, for each task, whether each gated layer is its own; raises `SideAgentsError` for another method."""
    found = {
        name: {layer.removeprefix("encoder."): gate.active for layer, gate in gates(adapted.task(name).net).items()}
        for name in adapted.tasks
    }
    if not found or not all(found.values()):
        raise SideAgentsError("a picture of own layers needs tasks adapted by taps")
    return found


def kind_of_layer(name: str, module: nn.Module) -> str:
    """Return what a gated layer is: a convolution of some size, a part of attention, an MLP's layer, or linear."""
    *owners, last = name.split(".")
    if isinstance(module, nn.Conv2d):
        return f"convolution {'x'.join(map(str, module.kernel_size))}"
    if isinstance(module, nn.MultiheadAttention) or last in _READS:
        return "query, key, value"
    if any("attn" in owner or "attention" in owner for owner in owners):
        return "attention projection"
    return "MLP" if "mlp" in owners or last.startswith("fc") else "linear"


def shares_of_own(adapted: Adapted) -> dict[str, dict[str, float]]:
    """Return, for each task, the share in [0, 1] of its own layers: `all`, of each kind, and of each third in depth.

    Raises `SideAgentsError` for another method than TAPS.
    """
    found = {}
    for task, own in own_layers(adapted).items():
        groups: dict[str, list[bool]] = {"all": list(own.values())}
        for layer, active in own.items():
            kind = kind_of_layer(layer, adapted.base.encoder.get_submodule(layer))
            groups.setdefault(kind, []).append(active)
        for index, active in enumerate(own.values()):
            groups.setdefault(_THIRDS[index * len(_THIRDS) // len(own)], []).append(active)
        found[task] = {group: sum(members) / len(members) for group, members in groups.items()}
    return found


def plot_own_layers(adapted: Adapted, path: Path) -> Path:
    """Draw layers along one axis, tasks along the other and the kinds of layers below; return the picture's path."""
    table = own_layers(adapted)
    layers = list(dict.fromkeys(layer for own in table.values() for layer in own))
    cells = np.array([[own.get(layer, False) for layer in layers] for own in table.values()], float)
    kinds = [kind_of_layer(layer, adapted.base.encoder.get_submodule(layer)) for layer in layers]
    known = list(dict.fromkeys(kinds))
    figure = new_figure(max(5.0, 0.16 * len(layers) + 2.0), 0.32 * (len(table) + 1) + 2.6)
    axis, below = figure.subplots(2, 1, sharex=True, height_ratios=[len(table), 1])
    axis.imshow(cells, cmap="Blues", vmin=0.0, vmax=1.3, aspect="auto")
    shares = [f"{name} ({100 * row.mean():.0f} %)" for name, row in zip(table, cells, strict=True)]
    axis.set_yticks(range(len(table)), shares)
    axis.set_title("layers of a task's own")
    colours = [f"C{known.index(kind) % 10}" for kind in kinds]
    below.bar(range(len(layers)), 1.0, width=1.0, color=colours)
    below.set_yticks([0.5], ["kind"])
    below.set_ylim(0.0, 1.0)
    below.set_xticks(range(len(layers)), layers, rotation=90, fontsize=5)
    for index, kind in enumerate(known):
        below.bar([0], [0.0], color=f"C{index % 10}", label=kind)
    figure.legend(loc="outside lower center", ncols=len(known), fontsize="x-small")
    return save_figure(figure, path)


def plot_shares(adapted: Adapted, path: Path) -> Path:
    """Draw what share of each kind of layers, and of each third in depth, became a task's own; return the path."""
    table = shares_of_own(adapted)
    groups = list(dict.fromkeys(group for shares in table.values() for group in shares))
    figure = new_figure(max(5.0, 0.25 * len(groups) * (len(table) + 1) + 1.0), 3.4)
    axis = figure.subplots()
    width = 0.8 / len(table)
    for index, (task, shares) in enumerate(table.items()):
        places = np.arange(len(groups)) + width * (index - (len(table) - 1) / 2)
        axis.bar(places, [100 * shares.get(group, 0.0) for group in groups], width, label=task)
    axis.set_xticks(range(len(groups)), groups, rotation=30, ha="right", fontsize="small")
    axis.set_ylabel("layers of its own, %")
    axis.set_ylim(0.0, 100.0)
    axis.legend(fontsize="x-small")
    return save_figure(figure, path)


def plot_epochs(result: Mapping[str, Any], path: Path) -> Path:
    """Draw what `adapt_run` was measured by after each epoch, and return the picture's path."""
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
