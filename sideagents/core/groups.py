"""Optimizer groups of whatever holds an alpha: alpha has a learning rate of its own and never decays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class HasAlphas(Protocol):
    """A module of which some parameters weigh the base, as all of an `Alpha` do."""

    def alphas(self) -> Iterable[nn.Parameter]:
        """Return those parameters."""


def _is_vector(parameter: nn.Parameter) -> bool:
    return sum(size > 1 for size in parameter.shape) < 2  # IA3's scales are vectors of shape (1, C, 1, 1)


def parameter_groups(
    module: nn.Module,
    lr: float | None = None,
    alpha_lr: float | None = None,
    weight_decay: float | None = None,
    *,
    decay_vectors: bool = True,
) -> list[dict[str, Any]]:
    """Return the optimizer groups of the trainable parameters in `module`; each parameter is in one, none is empty.

    `weights` has `lr` and `weight_decay`; `alpha`, what modules name by `HasAlphas`, has `alpha_lr` (by
    default `lr`) and weight decay 0. Without `decay_vectors` norms and biases are in a third group, `vectors`, that
    does not decay. What is None is left to the optimizer.
    """
    alphas = {id(p) for part in module.modules() if isinstance(part, HasAlphas) for p in part.alphas()}
    members: dict[str, list[nn.Parameter]] = {"weights": [], "vectors": [], "alpha": []}
    for parameter in module.parameters():
        if parameter.requires_grad:
            alone = "alpha" if id(parameter) in alphas else "vectors" if _is_vector(parameter) else "weights"
            members["weights" if alone == "vectors" and decay_vectors else alone].append(parameter)
    rates = {"weights": lr, "vectors": lr, "alpha": lr if alpha_lr is None else alpha_lr}
    decays = {"weights": weight_decay, "vectors": 0.0, "alpha": 0.0}
    groups: list[dict[str, Any]] = []
    for name, parameters in members.items():
        if parameters:
            settings = {"lr": rates[name], "weight_decay": decays[name]}
            own = {key: value for key, value in settings.items() if value is not None}
            groups.append({"name": name, "params": parameters, **own})
    return groups
