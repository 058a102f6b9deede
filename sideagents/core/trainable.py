"""A base that may learn: the copy that fine-tuning, training from scratch and the `copy` side use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from sideagents.core.base import FrozenBase
from sideagents.core.modes import modes_kept
from sideagents.core.pixels import fit_images, unit_images

_PICTURES = 16  # to measure BatchNorm's statistics on
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
        self._sharing = (base,) if shared else ()  # in a tuple: a module set directly would become a part of this one
        if shared:
            self.register_state_dict_post_hook(_leave_shared_out)  # type: ignore[no-untyped-call]  # torch's annotations
            self.register_load_state_dict_pre_hook(_fill_shared_in)  # type: ignore[no-untyped-call]
            self.encoder = copy.deepcopy(base.encoder, {id(p): p for p in base.encoder.parameters()})
            for part in self.encoder.modules():
                if isinstance(part, nn.GroupNorm):
                    part.register_forward_pre_hook(_in_order)
        else:
            self.encoder = copy.deepcopy(base.encoder).requires_grad_(True)
            for parameter in self.encoder.parameters():
                parameter.data = parameter.data.contiguous()  # safetensors writes no other layout
        self.register_buffer("mean", torch.tensor(base.mean, device=base.device).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(base.std, device=base.device).view(1, -1, 1, 1), persistent=False)
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

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        # What is shared follows devices and never changes its type, as the frozen base itself.
        if self._sharing:
            device = fn(torch.empty(0, device=self.mean.device)).device
            super()._apply(lambda tensor: tensor.to(device), recurse)  # type: ignore[no-untyped-call]
        else:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """Apply a function to every module, as SB3 initialises weights; what is shared stays as it is."""
        kept = [(p, p.detach().clone()) for p in self._shared_parameters()]
        super().apply(fn)
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)
        return self

    def _shared_parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for base in self._sharing for parameter in base.parameters())

    def train(self, mode: bool = True) -> Self:
        """Switch the mode, except BatchNorm's when its statistics are kept."""
        super().train(mode)
        if self.batchnorm == "frozen":
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.training = False
        return self


def _in_order(norm: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Lay the input of a GroupNorm that learns behind frozen layers in order: torch's backward pass needs it so.

    With an input in channels-last that needs no gradient itself, torch 2.13 ends the process by a segmentation fault.
    """
    images = inputs[0]
    if not torch.is_grad_enabled() or images.requires_grad or not any(p.requires_grad for p in norm.parameters()):
        return None
    return (images.contiguous(), *inputs[1:])


def remove_guards(encoder: nn.Module) -> None:
    """Take off an encoder's norms what `TrainableBase` put on them."""
    for part in encoder.modules():
        for key in [key for key, hook in part._forward_pre_hooks.items() if hook is _in_order]:
            del part._forward_pre_hooks[key]


def _shared_names(view: TrainableBase) -> set[str]:
    shared = {id(parameter) for parameter in view._shared_parameters()}
    return {name for name, parameter in view.named_parameters(remove_duplicate=False) if id(parameter) in shared}


def _leave_shared_out(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for name in _shared_names(cast(TrainableBase, module)):
        state.pop(prefix + name, None)


def _fill_shared_in(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name in _shared_names(cast(TrainableBase, module)):
        state.setdefault(prefix + name, parameters[name])


def trainable_copy(base: FrozenBase, *, random: bool = False) -> TrainableBase:
    """Return a copy of `base` that learns, from its weights or, with `random`, from freshly drawn ones.

    With random weights BatchNorm, where the encoder has it, uses batch statistics in train mode, and has those of
    random pictures to begin with: in agents, which never leave eval mode, they are the only ones.
    """
    copied = TrainableBase(base, "batch" if random else "frozen")
    if random:
        redraw(copied.encoder)
        _measure_statistics(copied)
    return copied


@torch.no_grad()
def _measure_statistics(net: TrainableBase) -> None:
    """Give every BatchNorm the statistics of smooth random pictures, so that signals keep their size in eval mode."""
    norms = [part for part in net.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    if not norms:
        return
    coarse = torch.rand(_PICTURES, net.channels, 4, 4, generator=torch.Generator().manual_seed(0))
    before = [(norm, norm.momentum) for norm in norms]
    with modes_kept(net):
        net.eval()
        for norm in norms:
            norm.training, norm.momentum = True, 1.0
        net(fit_images(coarse.to(net.mean.device), net.input_size))
    for norm, momentum in before:
        norm.momentum = momentum


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
