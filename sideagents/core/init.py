"""How a side network starts: default, copy of the base, random, distilled, or low-energy (paper, section 5.3)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sideagents.core.base import FrozenBase
from sideagents.core.modes import modes_kept
from sideagents.core.trainable import TrainableBase, redraw
from sideagents.errors import CheckpointError, SideAgentsError
from sideagents.storage.tensors import load_tensors

LOW_ENERGY = 1e-3  # not 0: behind a ReLU a layer scaled to exactly 0 would never wake up


def initialise_side(side: nn.Module, how: str, base: FrozenBase, input_size: tuple[int, int]) -> None:
    """Initialise `side` in place.

    how: `default` leaves it as the framework made it; `copy` takes the base's weights (the shapes must agree);
    `random` draws all weights anew, for sides that start from learned ones; `low_energy` scales its last layers by
    1e-3, so it adds about nothing at the start; a path ending in `.safetensors` is read as a distilled student of the
    same architecture. Raises `SideAgentsError`, or `CheckpointError` for files.
    """
    if how == "default":
        return
    if how == "copy":
        _copy_base(side, base)
    elif how == "random":
        redraw(side)
    elif how == "low_energy":
        _scale_down(side, (base.channels, *input_size))
    elif how.endswith(".safetensors"):
        load_student(side, Path(how))
    else:
        raise SideAgentsError(
            f"unknown side initialisation {how!r} (known: default, copy, random, low_energy, or a .safetensors file)"
        )


def load_student(side: nn.Module, path: Path) -> None:
    """Load distilled weights into `side`; raises `CheckpointError` when file and architecture do not fit."""
    tensors = load_tensors(path)
    misfit = _misfit(side.state_dict(), tensors)
    if misfit:
        raise CheckpointError(f"side weights {path} do not fit this side: {misfit}")
    side.load_state_dict(tensors)


def _copy_base(side: nn.Module, base: FrozenBase) -> None:
    target = side.encoder if isinstance(side, TrainableBase) else side
    source = base.encoder.state_dict()
    misfit = _misfit(target.state_dict(), source)
    if misfit:
        raise SideAgentsError(
            f"side_init 'copy' needs a side built as base {base.name!r} is ({misfit}); use side 'copy'"
        )
    target.load_state_dict(source)


def _misfit(wanted: dict[str, Tensor], given: dict[str, Tensor]) -> str:
    for name in sorted(wanted.keys() ^ given.keys()):
        return f"{name!r} is {'missing' if name in wanted else 'not part of it'}"
    for name, tensor in wanted.items():
        if tensor.shape != given[name].shape:
            return f"{name!r} has shape {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
    return ""


@torch.no_grad()
def _scale_down(side: nn.Module, image_shape: tuple[int, ...]) -> None:
    device = next((parameter.device for parameter in side.parameters()), torch.device("cpu"))
    images = torch.rand((2, *image_shape), generator=torch.Generator().manual_seed(0)).to(device)
    before = _energy(side, images)
    for layer in _output_layers(side):
        for parameter in layer.parameters(recurse=False):
            parameter.mul_(LOW_ENERGY)
    after = _energy(side, images)
    if after > 0.01 * before:
        raise SideAgentsError(
            "side_init 'low_energy' scales the last layers, but this side's code stays "
            f"{after / before:.2g} of what it was; give the side an output_layers() method that names them"
        )


def _output_layers(side: nn.Module) -> list[nn.Module]:
    named = getattr(side, "output_layers", None)
    if callable(named):
        return list(named())
    with_weights = [module for module in side.modules() if any(True for _ in module.parameters(recurse=False))]
    return with_weights[-1:]


def _energy(side: nn.Module, images: Tensor) -> float:
    with modes_kept(side):
        return float(side.eval()(images).float().square().mean().sqrt())
