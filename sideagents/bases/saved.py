"""Weights files of bases: NAME.safetensors with a card NAME.json beside it. Reading them never runs code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sideagents.core.base import FrozenBase
from sideagents.errors import BaseError, first_line
from sideagents.registry import Registry
from sideagents.storage.files import check_readable, read_json, write_json
from sideagents.storage.tensors import load_tensors, save_tensors

CARD_KEYS = ("name", "architecture", "options", "input_size", "mean", "std", "fingerprint")

ARCHITECTURES: Registry[Callable[..., nn.Module]] = Registry("base architecture")
ARCHITECTURES.register("midlevel", "sideagents.bases.encoder:MidLevelEncoder")
ARCHITECTURES.register("taskonomy", "sideagents.bases.taskonomy_base:TaskonomyEncoder")
ARCHITECTURES.register("resnet26", "sideagents.bases.resnet26:ResNet26")
ARCHITECTURES.register("cifar_resnet", "sideagents.bases.cifar_resnet:CifarResNet")


def architecture_of(encoder: nn.Module) -> tuple[str, dict[str, Any]]:
    """Return name and options of the architecture of an encoder that knows its own `options`, for `save_base`.

    Raises `BaseError` for another network.
    """
    for name in ARCHITECTURES.names():
        if type(encoder) is ARCHITECTURES.get(name) and hasattr(encoder, "options"):
            return name, dict(cast(Any, encoder).options)
    raise BaseError(f"a {type(encoder).__name__} is of no architecture that a base's card can name")


def save_base(
    path: str | Path, base: FrozenBase, architecture: str, options: dict[str, Any], card: dict[str, Any]
) -> Path:
    """Write `base` to `path` (.safetensors) and its card to the .json beside it; each appears whole or not at all.

    architecture, options: the registered constructor of the encoder and its arguments. card: what else is to be known
    (data, loss, seed, command); the keys that loading needs are filled in here. Returns the path of the weights.
    """
    path = Path(path).with_suffix(".safetensors")
    needed = {
        "name": base.name,
        "architecture": architecture,
        "options": options,
        "input_size": list(base.input_size),
        "mean": list(base.mean),
        "std": list(base.std),
        "fingerprint": base.fingerprint,
    }
    save_tensors(path, base.encoder.state_dict())
    write_json(path.with_suffix(".json"), card | needed)
    return path


def read_card(path: str | Path) -> dict[str, Any]:
    """Read the card beside a weights file; raises `BaseError` when it is absent or incomplete."""
    card_path = Path(path).with_suffix(".json")
    if not card_path.exists():
        raise BaseError(f"{path} has no card {card_path.name} beside it; `sideagents pretrain` writes both")
    card = read_json(card_path, BaseError)
    missing = [key for key in CARD_KEYS if not isinstance(card, dict) or key not in card]
    if missing:
        raise BaseError(f"card {card_path} lacks {', '.join(missing)}")
    return dict(card)


def load_saved(
    path: Path,
    name: str | None = None,
    *,
    input_size: tuple[int, int] | None = None,
    resize: bool = True,
    dtype: torch.dtype | None = None,
) -> FrozenBase:
    """Load a base written by `save_base`; options as in `FrozenBase`.

    Raises `BaseError` when a file is unreadable, or weights and card do not belong together.
    """
    tensors = read_tensors(path)
    card = read_card(path)
    try:
        encoder = ARCHITECTURES.get(str(card["architecture"]))(**card["options"])
        height, width = card["input_size"]
        trained = FrozenBase(encoder, name or str(card["name"]), (height, width), card["mean"], card["std"])
    except (TypeError, ValueError) as error:
        raise BaseError(f"card {path.with_suffix('.json')} does not describe a base: {error}") from error
    fit_weights(trained.encoder, tensors, path)
    if trained.fingerprint != card["fingerprint"]:
        raise BaseError(
            f"{path} is not the file its card describes: fingerprint {trained.fingerprint[:12]}..., "
            f"in the card {str(card['fingerprint'])[:12]}..."
        )
    if input_size is None and resize and dtype is None:
        return trained
    size = input_size or trained.input_size
    return FrozenBase(trained.encoder, trained.name, size, trained.mean, trained.std, resize=resize, dtype=dtype)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read named tensors from .safetensors, or from a .pth/.pt/.dat file by torch's weights-only reader.

    `{"state_dict": ...}` is unwrapped and a `module.` prefix removed. Raises `BaseError` for anything else.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        content: Any = load_tensors(path, BaseError)
    else:
        content = _unpickled(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise BaseError(f"weights file {path} is not a table of named tensors")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _unpickled(path: Path) -> Any:
    """Return what torch's weights-only reader makes of a file, which refuses anything that would run code."""
    check_readable(path, BaseError)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise BaseError(f"{path}: cannot be read: {first_line(error)}") from error
    except Exception as error:  # torch raises pickle.UnpicklingError for files that would run code
        raise BaseError(f"{path}: is refused: it holds more than tensors") from error


def fit_weights(encoder: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Load `tensors` into `encoder`; raises `BaseError` naming the first that does not fit."""
    wanted = encoder.state_dict()
    # torch added this counter later; files from before lack it and inference does not use it.
    missing = sorted(name for name in wanted.keys() - tensors.keys() if not name.endswith("num_batches_tracked"))
    unknown = sorted(tensors.keys() - wanted.keys())
    shapes = [name for name in wanted if name in tensors and wanted[name].shape != tensors[name].shape]
    if missing or unknown or shapes:
        groups = (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        what = "; ".join(f"{len(names)} {kind} such as {names[0]!r}" for kind, names in groups if names)
        raise BaseError(f"weights file {path} does not fit {type(encoder).__name__}: {what}")
    encoder.load_state_dict(tensors, strict=False)
