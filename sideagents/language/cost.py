"""What a training step of a language model costs: memory at its peak, counted by live tensors, and time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sideagents.machine.devices import synchronize
from sideagents.machine.precision import autocast
from sideagents.train.memory import peak_bytes

_WARM = 1  # steps before the one that is told: it makes the optimizer's state


def training_cost(model: nn.Module, inputs: Mapping[str, Tensor], precision: str = "float32") -> dict[str, Any]:
    """Take two steps (forward, backward, AdamW) and return what they cost; the model's weights move.

    `peak_bytes_total`, `peak_bytes_above_weights`, `weight_bytes`, `state_bytes` (gradients and AdamW's), what is left,
    `activation_bytes`; `seconds_per_step`, of the second one; and the number of `trainable` weights.
    inputs: what the model takes, with targets. precision: of autocast.
    """
    trained = [p for p in model.train().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    device = trained[0].device
    seconds: list[float] = []

    def steps() -> None:
        for _ in range(_WARM + 1):
            synchronize(device)
            begin = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            with autocast(precision, device):
                loss = model(**inputs).loss
            loss.backward()
            optimizer.step()
            synchronize(device)
            seconds.append(time.perf_counter() - begin)

    weights = sum(tensor.numel() * tensor.element_size() for tensor in {id(t): t for t in model.parameters()}.values())
    above = peak_bytes(steps, [*model.parameters(), *model.buffers(), *inputs.values()])
    state = sum(p.numel() * p.element_size() * 3 for p in trained)  # a gradient and two moments
    return {
        "peak_bytes_total": weights + above,
        "peak_bytes_above_weights": above,
        "weight_bytes": weights,
        "state_bytes": state,
        "activation_bytes": above - state,
        "seconds_per_step": seconds[-1],
        "trainable": sum(p.numel() for p in trained),
    }
