"""Linear probe: how much of a label a linear readout finds in frozen features."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from sideagents.errors import SideAgentsError


def linear_probe(
    features_train: Tensor,
    labels_train: Tensor,
    features_val: Tensor,
    labels_val: Tensor,
    classes: int,
    l2: float = 1e-3,
    iterations: int = 100,
) -> float:
    """Return the accuracy in [0, 1] of multinomial logistic regression on the validation set.

    features (N, ...) are flattened and standardised by the training set's statistics; labels (N,) int64 in
    0..classes-1. The loss is mean cross-entropy + l2/2 |W|^2 (bias free), convex, minimised by L-BFGS from zero: the
    result depends on nothing random. Raises `SideAgentsError` for labels or shapes that do not fit.
    """
    train, val = features_train.flatten(1).float(), features_val.flatten(1).float()
    _check(train, labels_train, classes, "training")
    _check(val, labels_val, classes, "validation")
    if train.shape[1] != val.shape[1]:
        raise SideAgentsError(f"linear probe: {train.shape[1]} training features but {val.shape[1]} validation ones")
    mean, std = train.mean(0), train.std(0, correction=0)
    scale = torch.where(std > 1e-6, 1 / std, torch.zeros_like(std))  # a constant feature says nothing
    train, val = (train - mean) * scale, (val - mean) * scale
    weight = torch.zeros(classes, train.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = functional.linear(train, weight, bias)
        loss = functional.cross_entropy(logits, labels_train) + 0.5 * l2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        predicted = functional.linear(val, weight, bias).argmax(1)
    return cast(float, (predicted == labels_val).float().mean().item())


def _check(features: Tensor, labels: Tensor, classes: int, which: str) -> None:
    if len(features) != len(labels) or len(labels) == 0:
        raise SideAgentsError(f"linear probe: {len(features)} {which} samples but {len(labels)} labels")
    if not torch.isfinite(features).all():
        raise SideAgentsError(f"linear probe: the {which} features are not finite")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise SideAgentsError(f"linear probe: {which} labels must lie in 0..{classes - 1}")
