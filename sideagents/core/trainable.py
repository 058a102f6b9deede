"""A base that may learn: the copy that fine-tuning, training from scratch and the `copy` side use."""

from __future__ import annotations

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from sideagents.core.base import FrozenBase
from sideagents.core.images import fit_images, unit_images

_PLAIN_STD = 0.02  # for weights that no layer knows how to draw, such as a transformer's position embedding


class TrainableBase(nn.Module):
    """An encoder with its own normalisation and size, as `FrozenBase`, but an ordinary trained module.

    `batchnorm="frozen"` keeps BatchNorm's statistics constant while its scale and shift learn: reinforcement learning
    evaluates the same policy in eval and in train mode, and both must agree. `"batch"` is torch's own behaviour.
    Images (B, C, H, W), as the base takes them -> codes (B, *out_shape). With `shared` the encoder's modules are its
    own but its parameters those of the frozen base, without gradient: see `shared_view`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, base: FrozenBase, batchnorm: Literal["frozen", "batch"] = "frozen", *, shared: bool = False
    ) -> None:
        super().__init__()
        self.name = base.name
        self.input_size = base.input_size
        self.out_shape = base.out_shape
        self.channels = base.channels
        self.raw = base.raw
        self.batchnorm = batchnorm
        if shared:
            self.encoder = copy.deepcopy(base.encoder, {id(p): p for p in base.encoder.parameters()})
        else:
            self.encoder = copy.deepcopy(base.encoder).requires_grad_(True)
            for parameter in self.encoder.parameters():
                parameter.data = parameter.data.contiguous()  # safetensors writes no other layout
        self.register_buffer("mean", torch.tensor(base.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(base.std).view(1, -1, 1, 1), persistent=False)
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, C, H, W), as the base takes them, to codes (B, *out_shape) with gradient."""
        if not self.raw:
            images = fit_images(unit_images(images, self.channels, f"trainable base {self.name!r}"), self.input_size)
            images = (images - self.mean) / self.std
        images = images.contiguous(memory_format=torch.channels_last)
        return cast(Tensor, self.encoder(images)).contiguous()

    def prepare(self, images: Tensor, reader: str) -> Tensor:
        """Return images as `reader`, a network beside this base, takes them; see `FrozenBase.prepare`."""
        return images if self.raw else unit_images(images, self.channels, reader)

    def train(self, mode: bool = True) -> Self:
        """Switch the mode, except BatchNorm's when its statistics are kept."""
        super().train(mode)
        if self.batchnorm == "frozen":
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.training = False
        return self


def trainable_copy(base: FrozenBase, *, random: bool = False) -> TrainableBase:
    """Return a copy of `base` that learns, from its weights or, with `random`, from freshly drawn ones.

    With random weights BatchNorm, where the encoder has it, uses batch statistics: there are no kept ones to rely on.
    """
    copied = TrainableBase(base, "batch" if random else "frozen")
    if random:
        redraw(copied.encoder)
    return copied


def shared_view(base: FrozenBase) -> TrainableBase:
    """Return modules of a task's own over the frozen base's parameters, for methods that change what is between them.

    Parameters are shared and stay without gradient; BatchNorm's, which differ from domain to domain, are the task's
    own, trained, with statistics of their own. A deep copy of base and view together shares in the same way.
    """
    view = TrainableBase(base, "batch", shared=True)
    for module in view.encoder.modules():
        if isinstance(module, _BatchNorm):
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.detach().clone()))
    return view


@torch.no_grad()
def redraw(module: nn.Module) -> None:
    """Draw all weights anew with each layer's own initialiser, so that nothing learned is left."""
    for part in module.modules():
        own = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if callable(own):
            own()
        else:
            for parameter in part.parameters(recurse=False):
                nn.init.trunc_normal_(parameter, std=_PLAIN_STD)
