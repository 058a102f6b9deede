"""Any timm model as a base. The one place that imports timm, and torchvision with it, and only when asked to."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sideagents.bases.saved import fit_weights, read_tensors
from sideagents.core.base import FrozenBase
from sideagents.errors import BaseError, nearest

# What torchvision's Python half takes for granted that its compiled half has declared.
_OPERATORS = ("nms", "qnms")


def import_timm() -> Any:
    """Import timm; raises `BaseError` with the remedy when it is not installed."""
    try:
        import_torchvision()
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise BaseError(f"timm bases need the vision extra, pip install 'sideagents[vision]' ({error})") from error


def import_torchvision() -> Any:
    """Import torchvision even where its compiled half was built for another torch and does not load.

    Its import then dies of "operator torchvision::nms does not exist". Declaring the operators is enough: the image
    models here never run them.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


class StageFeatures(nn.Module):
    """One stage of a timm feature pyramid: (B, 3, H, W) -> (B, channels, H / reduction, W / reduction)."""

    def __init__(self, pyramid: nn.Module, channels: int) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of the pyramid's only stage."""
        features: Tensor = self.pyramid(images)[0]
        # Swin and its kind put channels last.
        return features if features.shape[1] == self.channels else features.permute(0, 3, 1, 2)


def timm_base(
    model: str,
    weights: str | Path | None = None,
    *,
    stage: int = -1,
    seed: int = 0,
    input_size: tuple[int, int] | None = None,
    resize: bool = True,
    dtype: torch.dtype | None = None,
) -> FrozenBase:
    """Make `timm:MODEL`: the features of one stage, with timm's own mean, standard deviation and input size.

    weights: a local .safetensors or .pth of the timm model, with or without its head; without it the weights are random
    from `seed` (nothing is downloaded). stage: index into timm's feature stages, -1 the deepest and coarsest.
    input_size: (height, width) in pixels, by default timm's. Raises `BaseError` for an unknown model or stage, and for
    weights that do not fit.
    """
    timm = import_timm()
    name = f"timm:{model}"
    if not timm.is_model(model):
        raise BaseError(f"unknown timm model {model!r}{nearest(model, timm.list_models())} (see timm.list_models())")
    encoder = _stage_of(timm, name, model, stage, seed)
    if weights is not None:
        _load(encoder.pyramid, read_tensors(weights), weights)
    config = timm.get_pretrained_cfg(model)
    size = input_size or (config.input_size[1], config.input_size[2])
    return FrozenBase(encoder, name, size, config.mean, config.std, resize=resize, dtype=dtype)


def _stage_of(timm: Any, name: str, model: str, stage: int, seed: int) -> StageFeatures:
    try:
        stages = len(timm.create_model(model, pretrained=False, features_only=True).feature_info)
        if not -stages <= stage < stages:
            raise BaseError(f"base {name!r} has stages 0 to {stages - 1}, or -1 for the last, got stage={stage}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pyramid = timm.create_model(model, pretrained=False, features_only=True, out_indices=(stage % stages,))
    except (RuntimeError, AttributeError, TypeError) as error:
        raise BaseError(f"base {name!r}: timm gives no features of this model: {error}") from error
    return StageFeatures(pyramid, pyramid.feature_info.channels()[0])


def _load(pyramid: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Load a whole model's tensors into its feature half: a renamed part of it, cut after the stage."""
    given = {_plain(name): tensor for name, tensor in tensors.items()}
    fitting = {name: given[_plain(name)] for name in pyramid.state_dict() if _plain(name) in given}
    fit_weights(pyramid, fitting, path)


def _plain(name: str) -> str:
    # timm's feature wrappers prefix "model." and turn "stages.0" into "stages_0".
    return re.sub(r"_(\d+)\.", r".\1.", name.removeprefix("model."))
