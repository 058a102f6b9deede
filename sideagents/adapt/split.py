"""Any network as a frozen base: its classifier goes, its features stay."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from sideagents.bases import load_base
from sideagents.core.base import FrozenBase
from sideagents.errors import BaseError, nearest

_CLASSIFIERS = ("fc", "head", "heads", "classifier", "linear", "last_linear")  # as networks call theirs


def as_base(
    model: nn.Module | str, input_size: tuple[int, int] | None = None, classifier: str | None = None
) -> FrozenBase:
    """Return a model without its classifier, frozen; bases, and names for `load_base`, are taken as they are.

    input_size: (height, width) of the model's images, by default what timm's configuration says, or 224 x 224.
    classifier: dotted name of the layer that each task replaces, by default the last Linear of a part called `fc`,
    `head`, `heads`, `classifier` or `linear`; a model without one gives features already. The model reads its inputs as
    they are given, normalised as it was trained. Its parameters are shared with the base and stop requiring gradients.
    Raises `BaseError`.
    """
    if isinstance(model, str):
        return load_base(model) if input_size is None else load_base(model, input_size=input_size)
    if isinstance(model, FrozenBase):
        if classifier is not None or input_size is not None:
            raise BaseError(f"base {model.name!r} has its own size and no classifier: leave both out")
        return model
    name = classifier_of(model) if classifier is None else classifier
    body = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    if name:
        _drop(body, name)
    return FrozenBase(body, type(model).__name__, input_size or _size_of(model), mean=None)


def classifier_of(model: nn.Module) -> str:
    """Return the dotted name of a network's classifier, empty when it has none."""
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    named = [name for name in linear if any(word in name.split(".") for word in _CLASSIFIERS)]
    return named[-1] if named else ""


def _drop(body: nn.Module, name: str) -> None:
    known = [each for each, part in body.named_modules() if isinstance(part, nn.Linear)]
    if name not in dict(body.named_modules()) or not name:
        raise BaseError(f"{type(body).__name__} has no layer {name!r} to replace{nearest(name, known)}")
    body.set_submodule(name, nn.Identity())


def _size_of(model: nn.Module) -> tuple[int, int]:
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    size = config.get("input_size", (3, 224, 224)) if hasattr(config, "get") else (3, 224, 224)
    return int(size[-2]), int(size[-1])
