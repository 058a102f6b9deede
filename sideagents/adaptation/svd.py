"""Joint compression of parallel adapters over tasks (Rebuffi et al. 2018, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from sideagents.adaptation.adapted import Adapted
from sideagents.adaptation.residual import AdaptedConv, LowRankAdapter, adapted_convs
from sideagents.errors import SideAgentsError


@torch.no_grad()
def compress_adapters(
    adapted: Adapted, tasks: Sequence[str] | None = None, rank: int | None = None
) -> dict[str, float]:
    """Compress the adapters of several tasks in place; return the residual of each layer, the sum of squares cut off.

    The adapters of a layer, side by side (C_out, sum of C_in), are cut to `rank` singular values, by default half of
    C_out; a layer where that saves nothing stays as it is. Fine-tune afterwards: only the tasks' gammas (and norms and
    readouts) learn. Raises `SideAgentsError` for tasks without parallel adapters at the same places.
    """
    names = tuple(tasks) if tasks is not None else adapted.tasks
    layers = [adapted_convs(adapted.task(name).net) for name in names]
    if len(names) < 2 or any(layer.keys() != layers[0].keys() or not layer for layer in layers):
        raise SideAgentsError("compress_adapters: needs two or more tasks with residual adapters at the same places")
    residuals: dict[str, float] = {}
    for place in layers[0]:
        convs = [layer[place] for layer in layers]
        if any(not _plain(conv) for conv in convs):
            raise SideAgentsError(f"compress_adapters: {place}: takes plain parallel adapters without groups")
        adapters = [conv.adapter.weight[:, :, 0, 0] for conv in convs]
        outputs, inputs = adapters[0].shape
        kept = outputs // 2 if rank is None else rank
        if kept < 1 or outputs * kept + len(convs) * inputs * kept >= len(convs) * inputs * outputs:
            continue
        left, values, right = torch.linalg.svd(torch.cat(adapters, dim=1), full_matrices=False)
        beta = nn.Parameter(left[:, :kept] * values[:kept], requires_grad=False)
        residuals[place] = float(values[kept:].square().sum())
        for conv, gamma in zip(convs, right[:kept].split(inputs, dim=1), strict=True):
            conv.adapter = cast(Any, LowRankAdapter(gamma, beta))
    return residuals


def _plain(conv: AdaptedConv) -> bool:
    return conv.kind == "parallel" and isinstance(conv.adapter, nn.Conv2d) and conv.conv.groups == 1
