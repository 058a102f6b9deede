"""Tokenised examples: what a model takes, padded batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sideagents.machine.precision import autocast

_CPU = torch.device("cpu")
_ROUND = 8  # lengths are padded up to a multiple of it
_AT_ONCE = 128  # evaluated in one batch
_POOL = 50  # batches whose examples are sorted by length together


@dataclass(frozen=True)
class Texts:
    """Examples for a model: token numbers, which sentence each token is of, and targets.

    ids, types: int64 (length,) for each example. targets: by the model's name for them, one for each example.
    """

    ids: Sequence[Tensor]
    types: Sequence[Tensor]
    targets: Mapping[str, Tensor]
    pad: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def lengths(self) -> Tensor:
        """Return the number of tokens of each example (N,) int64."""
        return torch.tensor([len(found) for found in self.ids])

    def batch(self, index: Tensor, targets: bool = True) -> dict[str, Tensor]:
        """Return the model's inputs for the examples `index` (B,), padded to the longest of them (in eights)."""
        numbers = index.tolist()
        longest = max(len(self.ids[number]) for number in numbers)
        shape = (len(numbers), -(-longest // _ROUND) * _ROUND)
        ids, types, mask = torch.full(shape, self.pad), torch.zeros(shape, dtype=torch.long), torch.zeros(shape).long()
        for row, number in enumerate(numbers):
            length = len(self.ids[number])
            ids[row, :length], types[row, :length], mask[row, :length] = self.ids[number], self.types[number], 1
        inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
        return inputs | ({name: found[index] for name, found in self.targets.items()} if targets else {})

    def of(self, index: Tensor) -> Texts:
        """Return the examples `index`."""
        numbers = index.tolist()
        targets = {name: found[index] for name, found in self.targets.items()}
        return Texts([self.ids[n] for n in numbers], [self.types[n] for n in numbers], targets, self.pad)

    def digest(self) -> str:
        """Return the sha256 (hex) of tokens and sentence numbers."""
        found = hashlib.sha256(self.lengths().numpy().tobytes())
        for ids, types in zip(self.ids, self.types, strict=True):
            found.update(ids.numpy().tobytes() + types.numpy().tobytes())
        return found.hexdigest()


def held_apart(items: int, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the numbers of items to train on and of `share` of them to choose by, at least one; always the same."""
    order = torch.randperm(items, generator=torch.Generator().manual_seed(seed))
    count = max(1, round(share * items)) if share else 0
    return order[count:].sort().values, order[:count].sort().values


def tokenised(
    tokenizer: Any, sentences: Sequence[tuple[str, ...]], length: int, targets: Mapping[str, Tensor]
) -> Texts:
    """Return sentences, or pairs of them, as tokens, cut to `length`; a pair gives up tokens where it is longer."""
    parts = [list(part) for part in zip(*sentences, strict=True)]
    found = tokenizer(*parts, truncation=True, max_length=length, return_token_type_ids=True)
    return Texts(
        [torch.tensor(ids) for ids in found["input_ids"]],
        [torch.tensor(types) for types in found["token_type_ids"]],
        targets,
        int(tokenizer.pad_token_id or 0),
    )


def moved(inputs: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """Return a batch where a model computes."""
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def split_by_length(texts: Texts, at_once: int = _AT_ONCE) -> Iterator[Tensor]:
    """Yield batches of the numbers of all examples, those of like length together."""
    yield from torch.split(texts.lengths().argsort(stable=True), at_once)


def batches_by_length(lengths: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """Draw an epoch's batches (size,) of examples of like length, in an order of chance; the last drawn may be short.

    lengths: int64 (N,), of all examples. Lengths that are padded alike count as the same, and fifty batches at a time
    are sorted, so that chance has its say in who meets whom.
    """
    padded = -(-lengths // _ROUND)
    pools = torch.split(torch.randperm(len(lengths), generator=generator), size * _POOL)
    found = [batch for pool in pools for batch in torch.split(pool[padded[pool].argsort(stable=True)], size)]
    order = torch.randperm(len(found), generator=generator).tolist()
    return [found[number] for number in order]


@torch.no_grad()
def outputs_of(
    model: Callable[[Mapping[str, Tensor], Tensor], Any],
    texts: Texts,
    names: Sequence[str],
    precision: str = "float32",
    by_token: bool = False,
    device: torch.device = _CPU,
) -> list[tuple[Tensor, ...]]:
    """Return for each example the outputs of these names; `by_token` says that each token has one, padding has none.

    model: takes a batch and the numbers of its examples; it must be in eval mode. device: where it computes.
    """
    found: list[tuple[Tensor, ...]] = [()] * len(texts)
    for index in split_by_length(texts):
        inputs = texts.batch(index, targets=False)
        with autocast(precision, device):
            output = model(inputs, index)
        for row, number in enumerate(index.tolist()):
            length = len(texts.ids[number]) if by_token else None
            found[number] = tuple(output[name][row][:length].float().cpu() for name in names)
    return found
