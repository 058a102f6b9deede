"""Diagonal Fisher information of a classifier's weights, in the three forms that EWC codes use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from sideagents.core.modes import modes_kept
from sideagents.errors import SideAgentsError, nearest

FisherKind = Literal["exact", "empirical", "batched"]


def fisher_information(
    module: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    logits: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor | None = None,
    kind: FisherKind = "exact",
    samples: int | None = None,
    generator: torch.Generator | None = None,
    *,
    batch_size: int = 128,
) -> dict[str, Tensor]:
    """Return the diagonal Fisher information of each parameter, shaped as it, detached, under the same name.

    With g(y) = d log p(y | x) / d theta, and always the mean over samples, not the sum:

    - `exact`: mean over x of sum over y of p(y | x) g(y)^2, all labels weighted by the model's own softmax;
    - `empirical`: mean over x of g(true label)^2;
    - `batched`: mean over mini-batches of (mean of g(true label) over the mini-batch)^2, as the side-tuning
      authors' code and Avalanche compute. Gradients cancel in it, so it is smaller, and no estimate of the Fisher.

    van de Ven 2025 (arXiv 2502.11756) compares them. Labels need not be seen for `exact`.

    Args:
        module: holds every parameter. It computes in eval mode, without autocast, and gets all modes back.
        parameters: by any name. One that needs no gradient, or that the logits do not depend on, gets zeros.
        logits: maps images (B, ...) to logits (B, classes) by calling `module`; its heads should be part of `module`,
            because the modes of other networks are left as they are.
        images: (N, ...), whatever `logits` takes.
        labels: (N,) of int64; only `exact` can do without.
        samples: draw at most so many, without replacement, by `generator`; None takes all of them in order.
        batch_size: of `batched`.

    Raises `SideAgentsError` for an unknown kind, missing labels, no samples, logits of another shape, and for
    parameters that are not the module's.
    Results are of the parameter's type, or float32 for half precision.
    """
    _check(kind, images, labels, samples, batch_size)
    _require_own(module, parameters)
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    images, labels = _draw(images, labels, samples, generator)
    totals = {name: _wide(torch.zeros_like(p)) for name, p in trained.items()}
    with modes_kept(module), torch.autocast(images.device.type, enabled=False), torch.enable_grad():
        module.eval()
        _require_classes(logits, images)
        if trained and kind == "batched":
            starts = range(0, len(images), batch_size)
            for start in starts:
                batch = slice(start, start + batch_size)
                _add_squares(totals, cross_entropy(_wide(logits(images[batch])), _wanted(labels)[batch]), trained)
            totals = {name: total / len(starts) for name, total in totals.items()}
        elif trained:
            truths = labels if kind == "empirical" else None
            for index in range(len(images)):
                truth = None if truths is None else truths[index]
                for root in _roots(logits(images[index : index + 1])[0], truth):
                    _add_squares(totals, root, trained)
            totals = {name: total / len(images) for name, total in totals.items()}
    return {
        name: totals[name] if name in totals else _wide(torch.zeros_like(p)).detach() for name, p in parameters.items()
    }


def _roots(logits: Tensor, label: Tensor | None) -> Tensor:
    """Return (K,) numbers of one sample whose squared gradients add up to its share of the Fisher."""
    logs = log_softmax(_wide(logits), dim=0)
    if label is not None:
        return logs.gather(0, label.reshape(1))
    # p g^2 = (sqrt(p) g)^2, and p is a weight here, not something to differentiate
    return logs.detach().exp().sqrt() * logs


def _add_squares(totals: dict[str, Tensor], scalar: Tensor, trained: Mapping[str, nn.Parameter]) -> None:
    if not scalar.requires_grad:  # nothing that can be trained has reached the logits
        return
    gradients = torch.autograd.grad(scalar, list(trained.values()), retain_graph=True, allow_unused=True)
    for name, gradient in zip(trained, gradients, strict=True):
        if gradient is not None:
            totals[name] += _wide(gradient).square()


def _require_own(module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    own = {id(p) for p in module.parameters()}
    for name, parameter in parameters.items():
        if id(parameter) not in own:
            raise SideAgentsError(f"Fisher: {name!r} is no parameter of the module; give the network that holds it")


def _check(kind: str, images: Tensor, labels: Tensor | None, samples: int | None, batch_size: int) -> None:
    known = get_args(FisherKind)
    if kind not in known:
        raise SideAgentsError(f"unknown Fisher {kind!r}{nearest(kind, known)} (known: {', '.join(known)})")
    if labels is None and kind != "exact":
        raise SideAgentsError(f"Fisher {kind!r} needs the true labels; only 'exact' does without")
    if labels is not None and labels.shape != images.shape[:1]:
        raise SideAgentsError(
            f"Fisher: {len(images)} images need labels of shape ({len(images)},), got {_size(labels)}"
        )
    if len(images) == 0 or batch_size < 1 or (samples is not None and samples < 1):
        raise SideAgentsError(
            f"Fisher needs samples and batch_size of at least 1, got {len(images)} images, "
            f"samples={samples}, batch_size={batch_size}"
        )


def _draw(
    images: Tensor, labels: Tensor | None, samples: int | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor | None]:
    if samples is None:
        return images, labels
    device = generator.device if generator is not None else torch.device("cpu")
    chosen = torch.randperm(len(images), generator=generator, device=device)[:samples].to(images.device)
    return images[chosen], None if labels is None else labels[chosen]


def _require_classes(logits: Callable[[Tensor], Tensor], images: Tensor) -> None:
    with torch.no_grad():
        found = logits(images[:1])
    if found.dim() != 2 or len(found) != 1:
        raise SideAgentsError(f"Fisher: logits must map one image to shape (1, classes), got {_size(found)}")


def _wanted(labels: Tensor | None) -> Tensor:
    assert labels is not None  # _check has seen to it
    return labels


def _wide(tensor: Tensor) -> Tensor:
    # In half precision a squared gradient is soon 0.
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _size(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
