"""One way in: `load_base(name)` for shipped bases, controls, published weights, timm models and own networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sideagents.bases.files import fit_weights, load_saved, read_card, read_tensors
from sideagents.bases.simple import pixel_base, random_base
from sideagents.bases.taskonomy import TASKS, taskonomy_base
from sideagents.core.base import FrozenBase
from sideagents.core.dotted import build, import_network, is_dotted
from sideagents.errors import BaseError, SideAgentsError, nearest

SHIPPED = ("curvature", "denoising", "depth", "normals", "autoencoding", "edges")
WEIGHTS_FOLDER = Path(__file__).parent / "weights"
_CONTROLS: dict[str, Callable[..., FrozenBase]] = {"random": random_base, "pixels": pixel_base}
_WAYS = "taskonomy:TASK with weights=FILE, timm:MODEL, a .safetensors file of `sideagents pretrain`, pkg.module:Class"


def load_base(name: str, weights: str | Path | None = None, **options: Any) -> FrozenBase:
    """Load a frozen base; nothing is ever downloaded.

    name:
        `curvature`, `denoising`, `depth`, `normals`, `autoencoding`, `edges`: shipped, (3, 64, 64) -> (8, 8, 8);
        `random` (option seed) and `pixels` (option grid): untrained controls;
        `taskonomy:TASK`: the published mid-level encoders, (3, 256, 256) -> (8, 16, 16), with `weights=FILE`;
        `timm:MODEL` (options stage, pretrained file in `weights`): features of a timm model;
        `package.module:Class`: any nn.Module that maps images to codes, `weights` optional;
        `FILE.safetensors`: a base made by `sideagents pretrain`.
    weights: a local file; for a shipped name it replaces the shipped one.
    options: `input_size`, `resize`, `dtype` of `FrozenBase` for every kind, and those of the kind.
    Raises `BaseError` with the nearest names, or with the reason why the weights cannot be used.
    """
    kind, _, model = name.partition(":")
    if isinstance(options.get("dtype"), str):
        options["dtype"] = _dtype(options["dtype"])
    if name in SHIPPED:
        path = WEIGHTS_FOLDER / f"{name}.safetensors" if weights is None else Path(weights)
        if not path.is_file():
            mend = "`make bases` trains the shipped ones, `sideagents pretrain` any of them"
            raise BaseError(f"base {name!r}: its weights {path} are not there; {mend}")
        return _build(name, load_saved, options, path=path, name=name)
    if name in _CONTROLS:
        if weights is not None:
            raise BaseError(f"base {name!r} has no weights to load, got weights={str(weights)!r}")
        return _build(name, _CONTROLS[name], options)
    if kind == "taskonomy":
        return _build(name, taskonomy_base, options, task=model, weights=weights)
    if kind == "timm":
        from sideagents.bases.timm_base import timm_base

        return _build(name, timm_base, options, model=model, weights=weights)
    if name.endswith(".safetensors"):
        if weights is not None:
            raise BaseError(f"base {name!r} is a weights file itself, so weights= has no place")
        return _build(name, load_saved, options, path=Path(name))
    if is_dotted(name):
        return _dotted_base(name, weights, options)
    known = (*SHIPPED, *_CONTROLS, "taskonomy:curvature", "timm:resnet18")
    raise BaseError(
        f"unknown base {name!r}{nearest(name, known)} (known: {', '.join((*SHIPPED, *_CONTROLS))}; {_WAYS})"
    )


def names_code(name: str) -> bool:
    """Tell whether `load_base(name)` would import a module that `name` chooses."""
    kinds = (*SHIPPED, *_CONTROLS, "taskonomy", "timm")
    return name.partition(":")[0] not in kinds and not name.endswith(".safetensors") and is_dotted(name)


def _build(label: str, function: Callable[..., FrozenBase], options: dict[str, Any], **fixed: Any) -> FrozenBase:
    allowed = [key for key in inspect.signature(function).parameters if key not in fixed]
    for key in options:
        if key not in allowed:
            known = ", ".join(allowed)
            raise BaseError(f"base {label!r} has no option {key!r}{nearest(key, allowed)} (allowed: {known})")
    return function(**fixed, **options)


def _dotted_base(name: str, weights: str | Path | None, options: dict[str, Any]) -> FrozenBase:
    """Wrap a network of the user's own; options that FrozenBase does not know go to its constructor."""
    ours = ("input_size", "mean", "std", "resize", "dtype")
    frozen = {key: value for key, value in options.items() if key in ours}
    try:
        own = {key: value for key, value in options.items() if key not in ours}
        encoder = build(repr(name), import_network(name), {}, own)
    except SideAgentsError as error:
        raise BaseError(f"base {error}") from error
    if weights is not None:
        fit_weights(encoder, read_tensors(weights), weights)
    return FrozenBase(encoder, name, **frozen)


def _dtype(word: str) -> torch.dtype | None:
    words = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if word not in words:
        raise BaseError(f"unknown dtype {word!r}{nearest(word, words)} (known: {', '.join(words)})")
    return words[word]


def list_bases() -> list[dict[str, Any]]:
    """Return a row for each base known by name: name, kind, available now, what it needs, and its card if shipped."""
    rows: list[dict[str, Any]] = []
    for name in SHIPPED:
        path = WEIGHTS_FOLDER / f"{name}.safetensors"
        available = path.is_file() and path.with_suffix(".json").is_file()
        rows.append(
            {"name": name, "kind": "shipped", "available": available, "card": read_card(path) if available else {}}
        )
    rows += [{"name": name, "kind": "control", "available": True} for name in _CONTROLS]
    rows += [
        {"name": f"taskonomy:{task}", "kind": "published", "available": False, "needs": "weights=FILE"}
        for task in TASKS
    ]
    timm = find_spec("timm") is not None
    rows.append(
        {"name": "timm:MODEL", "kind": "timm", "available": timm, "needs": "" if timm else "sideagents[vision]"}
    )
    return rows
