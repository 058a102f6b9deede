"""One way in: `load_base(name)` for shipped bases, controls, published weights, timm models and own networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sideagents.bases.saved import fit_weights, load_saved, read_card, read_tensors
from sideagents.bases.simple import pixel_base, random_base
from sideagents.bases.taskonomy_base import TASKS, published_file, taskonomy_base
from sideagents.config.dotted import build, import_network, is_dotted
from sideagents.core.base import FrozenBase
from sideagents.errors import BaseError, SideAgentsError, nearest
from sideagents.registry import Registry

SHIPPED = ("curvature", "denoising", "depth", "normals", "autoencoding", "edges")
WEIGHTS_FOLDER = Path(__file__).parent / "weights"
_EXAMPLES = ("taskonomy:curvature", "timm:resnet18")  # of what is meant by a name that is nearly theirs
_WAYS = "taskonomy:TASK with weights=FILE, timm:MODEL, a .safetensors file of `sideagents pretrain`, pkg.module:Class"

Weights = str | Path | None
Maker = Callable[..., FrozenBase]


@dataclass(frozen=True)
class BaseKind:
    """How the base of one name, or of every name `NAME:MODEL` of a family, is made.

    make: returns the base, or `"module:attribute"` of what does. It is given `name` and `weights` where it names them,
    and the options of `load_base`; a family's is given `model`, what stands behind the colon.
    kind: a word for lists. models: the models of a family; empty for a single name.
    needs: what is missing where `ready(name, weights)` is false; a base that is always ready has none.
    """

    make: Maker | str
    kind: str = "own"
    models: tuple[str, ...] = ()
    needs: str = ""
    ready: Callable[[str, Weights], bool] = lambda name, weights: True

    def names(self, name: str) -> list[str]:
        """Return what `load_base` takes, given the name that this is registered under."""
        return [f"{name}:{model}" for model in self.models] or [name]


BASES: Registry[BaseKind] = Registry("base")


def register_base(name: str, make: Maker | str, **about: Any) -> None:
    """Give a base, or a family of bases, a name; `about` as in `BaseKind`. A name that is taken is refused."""
    BASES.register(name, BaseKind(make, **about))


def load_base(name: str, weights: str | Path | None = None, **options: Any) -> FrozenBase:
    """Load a frozen base; nothing is ever downloaded.

    name:
        `curvature`, `denoising`, `depth`, `normals`, `autoencoding`, `edges`: shipped, (3, 64, 64) -> (8, 8, 8);
        `random` (option seed) and `pixels` (option grid): untrained controls;
        `taskonomy:TASK`: the published mid-level encoders, (3, 256, 256) -> (8, 16, 16), with `weights=FILE`, or the
            folder that holds `TASK_encoder*.pth`;
        `cifar:resnet44` and its kin, (3, 32, 32) -> (64,), with `weights=FILE`;
        `resnet26`: that of the residual adapters, random or from a file, (3, 32, 32) -> (256,);
        `timm:MODEL` (options stage, pretrained file in `weights`): features of a timm model;
        a name given to `register_base`;
        `FILE.safetensors`: a base made by `sideagents pretrain`;
        `package.module:Class`: any nn.Module that maps images to codes, `weights` optional.
    weights: a local file; for a shipped name it replaces the shipped one.
    options: `input_size`, `resize`, `dtype` of `FrozenBase` for every kind, and those of the kind.
    Raises `BaseError` with the nearest names, or with the reason why the weights cannot be used.
    """
    if isinstance(options.get("dtype"), str):
        options["dtype"] = _dtype(options["dtype"])
    found = kind_of(name)
    if found is not None:
        return _build(name, _maker(found), {"name": name, "model": name.partition(":")[2], "weights": weights}, options)
    if name.endswith(".safetensors"):
        if weights is not None:
            raise BaseError(f"base {name!r} is a weights file itself, so weights= has no place")
        return _build(name, load_saved, {"path": Path(name), "name": None}, options)
    if is_dotted(name):
        return _dotted_base(name, weights, options)
    known = [each for entry in BASES.names() for each in BASES.get(entry).names(entry)]
    single = [entry for entry in BASES.names() if not BASES.get(entry).models]
    raise BaseError(f"unknown base {name!r}{nearest(name, (*known, *_EXAMPLES))} (known: {', '.join(single)}; {_WAYS})")


def kind_of(name: str) -> BaseKind | None:
    """Return how the base of that name, or of its family, is made; None for files and dotted paths."""
    family, colon, _ = name.partition(":")
    if family not in BASES.names():
        return None
    found = BASES.get(family)
    return found if bool(colon) == bool(found.models) else None


def names_code(name: str) -> bool:
    """Tell whether `load_base(name)` would import a module that `name` chooses."""
    return kind_of(name) is None and not name.endswith(".safetensors") and is_dotted(name)


def _maker(kind: BaseKind) -> Maker:
    if not isinstance(kind.make, str):
        return kind.make
    module, _, attribute = kind.make.partition(":")
    make: Maker = getattr(import_module(module), attribute)
    return make


def _build(label: str, make: Maker, offered: Mapping[str, Any], options: dict[str, Any]) -> FrozenBase:
    """Call `make` with those of `offered` that it names, and with the options, all of which it must name."""
    named = inspect.signature(make).parameters
    if offered.get("weights") is not None and "weights" not in named:
        raise BaseError(f"base {label!r} has no weights to load, got weights={str(offered['weights'])!r}")
    allowed = [key for key in named if key not in offered]
    for key in options:
        if key not in allowed:
            known = ", ".join(allowed)
            raise BaseError(f"base {label!r} has no option {key!r}{nearest(key, allowed)} (allowed: {known})")
    return make(**{key: value for key, value in offered.items() if key in named}, **options)


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
    for entry in BASES.names():
        kind = BASES.get(entry)
        for name in kind.names(entry):
            ready = kind.ready(name, None)
            row: dict[str, Any] = {"name": name, "kind": kind.kind, "available": ready}
            row |= {"needs": "" if ready else kind.needs} if kind.needs else {}
            row |= {"card": read_card(_shipped(name)) if ready else {}} if kind.kind == "shipped" else {}
            rows.append(row)
    return rows


# what comes with the package


def shipped_base(
    name: str,
    weights: str | Path | None = None,
    *,
    input_size: tuple[int, int] | None = None,
    resize: bool = True,
    dtype: torch.dtype | None = None,
) -> FrozenBase:
    """Load a base that ships with the package, or its like from another file; raises `BaseError`."""
    path = _shipped(name) if weights is None else Path(weights)
    if not path.is_file():
        remedy = "`make bases` trains the shipped ones, `sideagents pretrain` any of them"
        raise BaseError(f"base {name!r}: its weights {path} are not there; {remedy}")
    return load_saved(path, name, input_size=input_size, resize=resize, dtype=dtype)


def _shipped(name: str) -> Path:
    return WEIGHTS_FOLDER / f"{name}.safetensors"


def _is_shipped(name: str, weights: Weights) -> bool:
    return weights is not None or (_shipped(name).is_file() and _shipped(name).with_suffix(".json").is_file())


for _name in SHIPPED:
    register_base(_name, shipped_base, kind="shipped", needs="its weights, which `make bases` makes", ready=_is_shipped)
register_base("random", random_base, kind="control")
register_base("pixels", pixel_base, kind="control")
register_base(
    "taskonomy",
    taskonomy_base,
    kind="published",
    models=TASKS,
    needs="weights=FILE or FOLDER, the published ones (model.base_weights); nothing is downloaded",
    ready=lambda name, weights: weights is not None and published_file(name.partition(":")[2], weights) is not None,
)
register_base(
    "cifar",
    "sideagents.bases.cifar_resnet:cifar_base",
    kind="vision",
    models=("resnet20", "resnet32", "resnet44", "resnet56"),
    needs="weights=FILE of the network trained on CIFAR-10; without it the weights are random",
    ready=lambda name, weights: weights is not None,
)
register_base("resnet26", "sideagents.bases.resnet26:resnet26_base", kind="vision")
register_base(
    "timm",
    "sideagents.bases.timm_base:timm_base",
    kind="timm",
    models=("MODEL",),
    needs="timm and torchvision: pip install 'sideagents[vision]'",
    ready=lambda name, weights: find_spec("timm") is not None and find_spec("torchvision") is not None,
)
