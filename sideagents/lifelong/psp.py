"""Parameter superposition: one set of weights holds a network per task (Cheung et al. 2019, arXiv 1902.05522).

The weight of task k is W C_k, with C_k a fixed random matrix on the layer's input axis. Since the C_k of two tasks are
nearly orthogonal to each other, what the others have stored in W looks to a task like small noise.

A pretrained weight W_0 is superposed under every key, W = W_0 C_k^-1 + D, so that each task starts from the pretrained
network: its weight is W_0 + D C_k, with D, at first zero, what all tasks train.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from sideagents.errors import SideAgentsError
from sideagents.registry import Registry

KeyKind = Literal["binary", "rotation", "complex"]


class Key(nn.Module, ABC):
    """The key of one layer and one task: a buffer drawn from a seed, never trained.

    start: the layer's pretrained weight (outputs, inputs, ...), frozen, one object in the keys of all tasks.
    """

    def __init__(self, start: nn.Parameter, generator: torch.Generator) -> None:
        super().__init__()
        self.start = start

    def forward(self, stored: Tensor) -> Tensor:
        """Return this task's weight, out of what all tasks share."""
        return self.start + self.turned(stored)

    @abstractmethod
    def turned(self, stored: Tensor) -> Tensor:
        """Return this task's difference from the pretrained weight."""

    @abstractmethod
    def store(self, difference: Tensor) -> Tensor:
        """Return what to share so that `turned` gives `difference` back."""


class BinaryKey(Key):
    """Signs +1 or -1 over the whole input axis, of a convolution C_in k k, the same for all outputs; exact to the bit.

    In a grouped convolution the groups share the signs, as its weight has the inputs of one group only.
    """

    signs: Tensor

    def __init__(self, start: nn.Parameter, generator: torch.Generator) -> None:
        super().__init__(start, generator)
        drawn = torch.randint(0, 2, start.shape[1:], generator=generator) * 2 - 1
        self.register_buffer("signs", drawn.to(start))

    def turned(self, stored: Tensor) -> Tensor:
        """D c."""
        return stored * self.signs

    def store(self, difference: Tensor) -> Tensor:
        """d c, since c c = 1."""
        return difference * self.signs


class RotationKey(Key):
    """A Haar-random orthogonal matrix on the input features or input channels; exact up to rounding.

    At a convolution every position of the kernel is turned by the same C_in x C_in matrix, which for 1x1 kernels is the
    paper's rotation of the whole input axis. It takes inputs^2 numbers per task.
    """

    turn: Tensor

    def __init__(self, start: nn.Parameter, generator: torch.Generator) -> None:
        super().__init__(start, generator)
        inputs = start.shape[1]
        q, r = torch.linalg.qr(torch.randn(inputs, inputs, generator=generator, dtype=torch.float64))
        # Without the signs of r's diagonal QR prefers some rotations (Mezzadri 2007).
        self.register_buffer("turn", (q * r.diagonal().sign()).to(start))

    def turned(self, stored: Tensor) -> Tensor:
        """D C on axis 1."""
        return torch.einsum("oi...,ij->oj...", stored, self.turn)

    def store(self, difference: Tensor) -> Tensor:
        """d C^T on axis 1."""
        return torch.einsum("oi...,ji->oj...", difference, self.turn)


class ComplexKey(Key):
    """Phases e^(i phi), phi uniform over the circle, on the whole input axis; exact up to rounding.

    The paper makes the whole network complex: weights and activations, with the activation function on real and
    imaginary parts apart, and takes the real part of the logits. Here the network stays real and only what is stored
    is complex: a task's difference is the real part of D e^(i phi). D is kept as two real numbers in a last axis, so
    that optimizers and files need not know: twice the weights, and a chance to hold twice as much.
    """

    phase: Tensor

    def __init__(self, start: nn.Parameter, generator: torch.Generator) -> None:
        super().__init__(start, generator)
        angles = (torch.rand(start.shape[1:], generator=generator, dtype=torch.float64) * 2 - 1) * math.pi
        self.register_buffer("phase", torch.stack((angles.cos(), angles.sin()), dim=-1).to(start))

    def turned(self, stored: Tensor) -> Tensor:
        """Re(D e^(i phi)) = Re D cos phi - Im D sin phi."""
        real, imaginary = stored.unbind(-1)
        cos, sin = self.phase.unbind(-1)
        return real * cos - imaginary * sin

    def store(self, difference: Tensor) -> Tensor:
        """d e^(-i phi)."""
        cos, sin = self.phase.unbind(-1)
        return torch.stack((difference * cos, -difference * sin), dim=-1)


KEYS: Registry[type[Key]] = Registry("superposition key")
KEYS.register("binary", BinaryKey)
KEYS.register("rotation", RotationKey)
KEYS.register("complex", ComplexKey)


class Superposed(nn.Module):
    """A network per task, all of them out of the same trained parameters; made by `superpose`.

    `view(task)` is an ordinary network of one task. It shares its Parameter objects with all other views, so one
    optimizer over `parameters()` trains them, each listed once. There is no current task anywhere: two threads can run
    two views. A state dict holds each shared tensor once (under view 0), the keys, and each task's BatchNorm.
    """

    def __init__(self, views: list[nn.Module]) -> None:
        super().__init__()
        self.views = nn.ModuleList(views)
        first: dict[int, str] = {}
        self._aliases: dict[str, str] = {}  # other names of a shared parameter -> its first name
        for name, parameter in self.named_parameters(remove_duplicate=False):
            if first.setdefault(id(parameter), name) != name:
                self._aliases[name] = first[id(parameter)]
        self.register_state_dict_post_hook(_drop_aliases)  # type: ignore[no-untyped-call]  # torch's annotations
        self.register_load_state_dict_pre_hook(_fill_aliases)  # type: ignore[no-untyped-call]

    def view(self, task: int) -> nn.Module:
        """Return the network of `task`, counted from 0; raises `SideAgentsError` when there is no such task."""
        if not 0 <= task < len(self.views):
            raise SideAgentsError(
                f"superposition of {len(self.views)} tasks has tasks 0 to {len(self.views) - 1}, got {task}"
            )
        return self.views[task]

    def forward(self, images: Tensor, task: int) -> Tensor:
        """Run the network of `task`; shapes are the network's own."""
        return cast(Tensor, self.view(task)(images))


def superpose(
    module: nn.Module, tasks: int, kind: KeyKind = "binary", seed: int = 0, *, skip_first: bool = False
) -> Superposed:
    """Make `tasks` networks out of one set of weights, by fixed random keys on every Linear and Conv2d.

    The weights of `module`, which stays as it is, are superposed under every key, so that before training every task
    computes what `module` did, to the bit: a random key on an ordinary pretrained network would destroy it. What is
    trained is the superposition of the tasks' differences from it, zero at first. The authors of side-tuning instead
    pretrain their base under superposition, for as many tasks as there are keys.

    Each task has BatchNorm layers of its own, that start as the module's; the side-tuning authors' code shares them and
    uses batch statistics at test time too. All else is shared and has no key: biases, other norms, embeddings. Skip
    connections are not superposed.

    Args:
        kind: `binary`, `rotation` or `complex`; see `BinaryKey`, `RotationKey` and `ComplexKey`.
        seed: of the keys. Those of task k do not depend on the number of tasks.
        skip_first: leave the first Linear or Conv2d (in the order of `module.modules()`) without a key, as the
            side-tuning authors' code does with the first convolution.

    Raises `SideAgentsError` for an unknown kind, fewer than one task, a module without a layer to key, and for weights
    that are tied between layers or parametrized.
    """
    make = KEYS.get(kind)
    if tasks < 1:
        raise SideAgentsError(f"superposition needs at least one task, got {tasks}")
    template = copy.deepcopy(module)
    layers = _layers(template)[1 if skip_first else 0 :]
    if not layers:
        less = " besides the first, which skip_first leaves out" if skip_first else ""
        raise SideAgentsError(f"superposition needs a network with a Linear or Conv2d layer{less}; this one has none")
    generator = torch.Generator().manual_seed(seed)
    starts = {name: nn.Parameter(layer.weight.detach().clone(), requires_grad=False) for name, layer in layers}
    keys = [{name: make(start, generator) for name, start in starts.items()} for _ in range(tasks)]
    for name, layer in layers:
        stored = keys[0][name].store(torch.zeros_like(layer.weight))
        layer.weight = nn.Parameter(stored, requires_grad=layer.weight.requires_grad)
    return Superposed([_view(template, of_task) for of_task in keys])


def _layers(module: nn.Module) -> list[tuple[str, nn.Linear | nn.Conv2d]]:
    found: list[tuple[str, nn.Linear | nn.Conv2d]] = []
    owners: dict[int, str] = {}
    for name, layer in module.named_modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d)):
            continue
        if parametrize.is_parametrized(layer, "weight"):
            raise SideAgentsError(f"superposition: the weight of {name!r} is parametrized already; remove that first")
        if owners.setdefault(id(layer.weight), name) != name:
            raise SideAgentsError(
                f"superposition: {owners[id(layer.weight)]!r} and {name!r} share one weight, "
                "which cannot have two keys; untie them"
            )
        found.append((name, layer))
    return found


def _view(template: nn.Module, keys: Mapping[str, Key]) -> nn.Module:
    own = {id(p) for part in template.modules() if isinstance(part, _BatchNorm) for p in part.parameters()}
    # What deepcopy finds in its memo it does not copy: these parameters are the same objects in every view.
    memo: dict[int, Any] = {id(p): p for p in template.parameters() if id(p) not in own}
    view = copy.deepcopy(template, memo)
    for name, key in keys.items():
        # unsafe only lets the stored shape differ from the weight's, which complex keys need
        parametrize.register_parametrization(view.get_submodule(name), "weight", key, unsafe=True)
    return view


def _drop_aliases(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for name in cast(Superposed, module)._aliases:
        state.pop(prefix + name, None)


def _fill_aliases(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, first in cast(Superposed, module)._aliases.items():
        if prefix + first in state:
            state.setdefault(prefix + name, state[prefix + first])
