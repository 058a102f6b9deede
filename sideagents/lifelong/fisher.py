"""Diagonal Fisher information of a network's weights, in the three forms that EWC codes use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    if kind != "exact":
        with _evaluating(module, images):
            _require_classes(logits, images, labels)
        size = 1 if kind == "empirical" else batch_size

        def loss(index: Tensor) -> Tensor:
            return cross_entropy(_wide(logits(images[index])), _wanted(labels)[index])

        return squared_gradients(module, parameters, loss, len(images), size, images.device)
    totals = {name: _wide(torch.zeros_like(p)) for name, p in trained.items()}
    with _evaluating(module, images):
        _require_classes(logits, images, labels)
        for index in range(len(images) if trained else 0):
            for root in _roots(logits(images[index : index + 1])[0]):
                _add_squares(totals, root, trained)
    return _means(totals, parameters, len(images))


def squared_gradients(
    module: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    loss: Callable[[Tensor], Tensor],
    items: int,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Return the mean over mini-batches of the squared gradient of any loss: what stands in for the Fisher information.

    With a negative log-likelihood and `batch_size` 1 it is the empirical Fisher information; of an error of maps, which
    is a likelihood up to its scale, it is that up to a factor. loss: index (B,) int64 below `items` -> mean loss of
    these examples, computed by calling `module`, in eval mode and without autocast; all modes are restored. Shapes and
    types as in `fisher_information`.
    """
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    totals = {name: _wide(torch.zeros_like(p)) for name, p in trained.items()}
    chunks = torch.split(torch.arange(items, device=device), batch_size) if trained else ()
    with _evaluating(module, torch.empty(0, device=device)):
        for index in chunks:
            _add_squares(totals, loss(index), trained)
    return _means(totals, parameters, max(1, len(chunks)))


@contextmanager
def _evaluating(module: nn.Module, images: Tensor) -> Iterator[None]:
    with modes_kept(module), torch.autocast(images.device.type, enabled=False), torch.enable_grad():
        module.eval()
        yield


def _means(totals: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], count: int) -> dict[str, Tensor]:
    return {
        name: totals[name] / count if name in totals else _wide(torch.zeros_like(p)).detach()
        for name, p in parameters.items()
    }


def _roots(logits: Tensor) -> Tensor:
    """Return (K,) numbers of one sample whose squared gradients add up to its share of the Fisher."""
    logs = log_softmax(_wide(logits), dim=0)
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


def _require_classes(logits: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor | None) -> None:
    with torch.no_grad():
        found = logits(images[:1])
    if found.dim() != 2 or len(found) != 1:
        raise SideAgentsError(f"Fisher: logits must map one image to shape (1, classes), got {_size(found)}")
    low, high = (0, 0) if labels is None else (int(labels.min()), int(labels.max()))
    if low < 0 or high >= found.shape[1]:
        raise SideAgentsError(f"Fisher: labels are from 0 to {found.shape[1] - 1}, got {low} to {high}")


def _wanted(labels: Tensor | None) -> Tensor:
    assert labels is not None  # _check has seen to it
    return labels


def _wide(tensor: Tensor) -> Tensor:
    # In half precision a squared gradient is soon 0.
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _size(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
