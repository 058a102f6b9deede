"""Hidden states of a frozen encoder, computed once and kept in a memory-mapped file, then handed on in its place."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sideagents.data.codes import cache_folder
from sideagents.errors import SideAgentsError
from sideagents.ladder import LadderModel
from sideagents.ladder.families import family_of
from sideagents.language.sidetuned_text import SideTunedText, tower_of
from sideagents.language.texts import Texts, moved, split_by_length
from sideagents.machine.devices import device_of
from sideagents.machine.precision import autocast, resolved
from sideagents.ram import require_disk
from sideagents.run.progress import Progress
from sideagents.storage.files import write_json
from sideagents.storage.tensors import digest_tensors

_REPLAYED: ContextVar[tuple[Encoder, dict[int, Tensor]] | None] = ContextVar("states in place of layers", default=None)

_MIXED = ("deberta-v2",)  # their towers put other things than layers between their states
_NAMES = ("transformers_version", "architectures", "id2label", "label2id", "problem_type", "num_labels")


class StatesTooLarge(SideAgentsError):
    """States do not fit into half precision."""


class Encoder:
    """The layers of a model's encoder, which can be made to hand on what they gave before.

    model: what `states_read` reads states of; its frozen layers are in eval mode. State 0 is what the embeddings give,
    state i what layer i gives, counted from 1. Hooks on the layers run as ever.
    """

    def __init__(self, model: LadderModel | SideTunedText) -> None:
        backbone = _backbone(model)
        stack = family_of(backbone).stacks[0]
        self.tower: Any = tower_of(backbone)
        layers = stack.layers_of(self.tower)
        self.parts: list[Any] = [self.tower.get_submodule(stack.embeddings), *layers]
        for number, part in enumerate(self.parts):
            part.forward = partial(_forward, self, number, part.forward)

    @contextmanager
    def replaying(self, states: dict[int, Tensor]) -> Iterator[None]:
        """Hand on states (B, T, width) by number in this thread; layers without one hand on any."""
        token = _REPLAYED.set((self, states))
        try:
            yield
        finally:
            _REPLAYED.reset(token)

    @torch.no_grad()
    def states(self, inputs: dict[str, Tensor], wanted: Sequence[int]) -> list[Tensor]:
        """Return the wanted states (B, T, width) of a batch."""
        found: dict[int, Tensor] = {}

        def keep(number: int, module: nn.Module, args: Any, output: Any) -> None:
            found[number] = output

        handles = [self.parts[n].register_forward_hook(partial(keep, n)) for n in wanted]
        try:
            self.tower(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        return [found[number] for number in wanted]


def _forward(encoder: Encoder, number: int, forward: Any, *args: Any, **kwargs: Any) -> Any:
    replayed = _REPLAYED.get()
    if replayed is None or replayed[0] is not encoder:
        return forward(*args, **kwargs)
    states = replayed[1]
    return states[number] if number in states else next(iter(states.values()))


def states_read(model: nn.Module) -> list[int] | None:
    """Return the numbers of the frozen states that an adapted model reads, None where none can be kept beforehand."""
    if not isinstance(model, LadderModel | SideTunedText):
        return None
    backbone = _backbone(model)
    stacks = family_of(backbone).stacks
    tower = tower_of(backbone)
    if len(stacks) > 1 or backbone.config.model_type in _MIXED or hasattr(tower, "embeddings_project"):
        return None
    last = len(stacks[0].layers_of(tower))
    if isinstance(model, SideTunedText):
        return [last]
    kept = model.twin(stacks[0].name).kept
    ends = [last] if model.design.mix == "residual" else []
    return sorted({0, *(number + 1 for number in kept), *ends})


def _backbone(model: LadderModel | SideTunedText) -> Any:
    return model.backbone if isinstance(model, LadderModel) else model.model


@dataclass(frozen=True)
class CachedStates:
    """States of all tokens of all examples (tokens, states, width) float16, one example after another."""

    numbers: tuple[int, ...]
    values: Tensor
    first: Tensor  # (N + 1,): where each example begins

    def batch(self, index: Tensor, length: int) -> dict[int, Tensor]:
        """Return by number the states (B, length, width) float32 of the examples `index`, 0 behind their ends."""
        found = torch.zeros(len(index), length, *self.values.shape[1:])
        for row, number in enumerate(index.tolist()):
            begin, end = int(self.first[number]), int(self.first[number + 1])
            found[row, : end - begin] = self.values[begin:end]
        return {number: found[:, :, place] for place, number in enumerate(self.numbers)}


def cached_states(
    encoder: Encoder, texts: Texts, numbers: Sequence[int], precision: str = "float32", folder: Path | None = None
) -> CachedStates:
    """Return states of a frozen encoder for all texts; what is in FOLDER (the user's cache) is not computed again.

    The file is named by the digests of the encoder's tensors, configuration and texts, the states' numbers and the
    type that they are computed in; they are kept in half precision. Raises `StatesTooLarge` where that is too small.
    """
    folder = cache_folder() if folder is None else folder
    device = device_of(encoder.tower)
    tensors = digest_tensors(hashlib.sha256(), encoder.tower.state_dict())
    about = f"{tensors} {_function_of(encoder.tower.config)} {texts.digest()} {list(numbers)} "
    about += resolved(precision, device)
    path = folder / f"{hashlib.sha256(about.encode()).hexdigest()[:40]}.states"
    first = torch.cat([torch.zeros(1, dtype=torch.long), texts.lengths().cumsum(0)])
    shape = (int(first[-1]), len(numbers), int(encoder.tower.config.hidden_size))
    if not path.is_file() or path.stat().st_size != 2 * int(np.prod(shape)):
        require_disk(folder, 2 * int(np.prod(shape)), f"states of {len(texts)} texts", "`cache` names another place")
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            _compute(encoder, texts, numbers, first, precision, np.memmap(temporary, np.float16, "w+", shape=shape))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        write_json(path.with_suffix(".json"), {"states": list(numbers), "shape": list(shape)})
    return CachedStates(tuple(numbers), torch.from_numpy(np.memmap(path, np.float16, "c", shape=shape)), first)


def _function_of(config: Any) -> str:
    """Return the keys of a model's configuration, but for those that change nothing in eval mode."""
    found = {key: value for key, value in config.to_dict().items() if "drop" not in key and not key.startswith("_")}
    return json.dumps({key: found[key] for key in sorted(found) if key not in _NAMES}, default=str)


def _compute(encoder: Encoder, texts: Texts, numbers: Sequence[int], first: Tensor, precision: str, out: Any) -> None:
    device = device_of(encoder.tower)
    with Progress(len(texts), "encoding", unit="text") as shown:
        for index in split_by_length(texts):
            inputs = moved(texts.batch(index, targets=False), device)
            with autocast(precision, device):
                found = torch.stack(encoder.states(inputs, numbers), dim=2).half().cpu()
            if not torch.isfinite(found).all():
                raise StatesTooLarge(f"states of {type(encoder.tower).__name__} are too large for half precision")
            for row, number in enumerate(index.tolist()):
                begin, end = int(first[number]), int(first[number + 1])
                out[begin:end] = found[row, : end - begin].numpy()
            shown.update(len(index))
    out.flush()
