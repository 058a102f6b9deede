"""Counting weights and multiply-adds of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sideagents.core.modes import modes_kept


def multiply_adds(module: nn.Module, input_shape: Sequence[int]) -> int:
    """Count the multiply-adds of one forward pass over convolutions and linear layers.

    input_shape: of one sample, without the batch, such as (3, 64, 64). Normalisation, activation and pooling are not
    counted, as is usual.
    """
    total = 0

    def count(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += layer.in_features * output.numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            # Every input position meets the whole kernel once; padding is counted with it.
            total += layer.weight.numel() * math.prod(inputs[0].shape[-2:])
        elif isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            total += layer.weight[0].numel() * output.numel()

    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
    hooks = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, layers)]
    parameter = next(module.parameters(), torch.zeros(0))
    try:
        with modes_kept(module), torch.no_grad():
            module.eval()(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def weights_of(module: nn.Module | None, trainable_only: bool = False) -> int:
    """Count the weights of a module, or only those that require a gradient."""
    if module is None:
        return 0
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)
