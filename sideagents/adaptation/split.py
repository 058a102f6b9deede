"""Any network as a frozen base: its classifier goes, its features stay."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from sideagents.bases import load_base
from sideagents.core.base import FrozenBase
from sideagents.errors import BaseError, nearest

_CLASSIFIERS = ("fc", "head", "heads", "classifier", "linear", "last_linear")  # as networks call theirs
_OUTERMOST = ("out", "output", "logits")  # and, where it is no part of a part


def as_base(
    model: nn.Module | str, input_size: tuple[int, int] | None = None, classifier: str | None = None
) -> FrozenBase:
    """Return a model without its classifier, frozen; bases, and names for `load_base`, are taken as they are.

    input_size: (height, width) of the model's images, by default what timm's configuration says, or 224 x 224.
    classifier: dotted name of the layer that each task replaces, "" for none, by default those that timm names, else
    the last linear layer or convolution if its name says so (`fc`, `head`, `heads`, `classifier`, `linear`, `out`,
    `output`, `logits`); a model without one gives features already. The model reads its inputs as they are given,
    normalised as it was trained. Its parameters are shared with the base and stop requiring gradients.
    Raises `BaseError`.
    """
    if isinstance(model, str):
        return load_base(model) if input_size is None else load_base(model, input_size=input_size)
    if isinstance(model, FrozenBase):
        if classifier is not None or input_size is not None:
            raise BaseError(f"base {model.name!r} has its own size and no classifier: leave both out")
        return model
    if not isinstance(model, nn.Module):
        raise BaseError(f"adapt takes a network, a base, or a name for load_base, got {type(model).__name__}")
    if input_size is not None and not (isinstance(input_size, Sequence) and len(input_size) == 2):
        raise BaseError(f"input_size is (height, width) of the images, got {input_size!r}")
    names = classifiers_of(model) if classifier is None else (classifier,) if classifier else ()
    body = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    for name in names:
        _drop(body, name)
    return FrozenBase(body, type(model).__name__, input_size or _size_of(model), mean=None)


def classifiers_of(model: nn.Module) -> tuple[str, ...]:
    """Return the dotted names of a network's classifiers: those that timm names, else the one found by its name.

    More than one, where heads are averaged (distilled transformers); none, where a model gives features already. Raises
    `BaseError` where a name says so of a layer that is not the last.
    """
    parts = dict(model.named_modules())
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    told = config.get("classifier") if hasattr(config, "get") else None
    told = (told,) if isinstance(told, str) else tuple(told or ())
    if told and all(name in parts for name in told):
        return tuple(name for name in told if not isinstance(parts[name], nn.Identity))
    layers = [name for name, part in parts.items() if isinstance(part, nn.Linear | nn.Conv2d) and name]
    named = [name for name in layers if not set(name.split(".")).isdisjoint(_CLASSIFIERS)]
    if named and named[-1] != layers[-1]:
        raise BaseError(
            f"{type(model).__name__} has a layer {named[-1]!r}, and {layers[-1]!r} after it: say which one tasks "
            'replace, by classifier=NAME, or "" for none'
        )
    return tuple(name for name in layers[-1:] if name in named or name.split(".")[0] in _OUTERMOST)


def _drop(body: nn.Module, name: str) -> None:
    known = [each for each, part in body.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    if name not in dict(body.named_modules()) or not name:
        raise BaseError(f"{type(body).__name__} has no layer {name!r} to replace{nearest(name, known)}")
    body.set_submodule(name, nn.Identity())


def _size_of(model: nn.Module) -> tuple[int, int]:
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    size = config.get("input_size", (3, 224, 224)) if hasattr(config, "get") else (3, 224, 224)
    return int(size[-2]), int(size[-1])
