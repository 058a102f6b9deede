"""What a computation holds in memory at its peak: the live tensors, counted exactly, on any device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sideagents.core.base import FrozenBase
from sideagents.core.modes import modes_kept


def peak_bytes(step: Callable[[], object], known: Iterable[Tensor] = ()) -> int:
    """Return the most bytes that tensors made in `step()` hold at one time; those that share memory count once.

    known: tensors that are there before, such as weights; views of them cost nothing. What kernels use for themselves
    and give back before they return is not seen. Results that `step` returns or leaves in `.grad` count as long as they
    live.
    """
    counted = _Live(known)
    with counted:
        step()
    return counted.peak


def training_peak_bytes(module: nn.Module, images: Tensor) -> int:
    """Return the most bytes that one training step holds beside weights, statistics and images: forward and backward.

    Measured in train mode on the sum of the outputs: activations, gradients, and what the backward pass needs in
    between; not the optimizer's state. Modes, statistics, gradients and the random generator are restored.
    """
    bases = [part for part in module.modules() if isinstance(part, FrozenBase)]
    hidden = [tensor for base in bases for tensor in base.encoder.state_dict().values()]

    def step() -> None:
        output = module.train()(images)
        if output.requires_grad:
            output.float().sum().backward()

    with _undone(module):
        return peak_bytes(step, [*module.parameters(), *module.buffers(), images, *hidden])


def activation_bytes(module: nn.Module, images: Tensor) -> int:
    """Return the bytes that one training step keeps for its backward pass, weights and images not counted.

    Measured on a forward pass in train mode: tensors that share memory count once. Modes, statistics and the random
    generator are restored.
    """
    kept: dict[int, int] = {}
    known = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers(), images)}
    alive = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # or its memory might be given to another one
        return tensor

    with _undone(module), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = module.train()(images)
    del output
    return sum(kept.values())


@contextmanager
def _undone(module: nn.Module) -> Iterator[None]:
    """Leave no trace of a training step: modes, statistics, gradients, random numbers."""
    state = {name: tensor.clone() for name, tensor in module.named_buffers()}
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with modes_kept(module), torch.enable_grad(), torch.random.fork_rng():
            yield
    finally:
        for name, tensor in module.named_buffers():
            tensor.copy_(state[name])
        for parameter, gradient in gradients:
            parameter.grad = gradient


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's annotations
    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._known = [tensor.untyped_storage() for tensor in known]  # kept, so that their numbers stay theirs
        for storage in self._known:
            self._sizes[storage._cdata] = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        number = storage._cdata
        if number in self._sizes:
            return
        self._sizes[number] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, number).atexit = False

    def _forget(self, number: int) -> None:
        self.live -= self._sizes.pop(number, 0)
