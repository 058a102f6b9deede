"""Tokenised examples: padding, parts held apart, answers back in their order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sideagents.language.texts import Texts, batches_by_length, held_apart, outputs_of, split_by_length

TEXTS = Texts(
    [torch.arange(1, length + 1) for length in (3, 9, 2)],
    [torch.ones(length, dtype=torch.long) for length in (3, 9, 2)],
    {"labels": torch.tensor([5, 6, 7])},
    pad=99,
)


def test_a_batch_is_padded_to_its_longest_in_eights() -> None:
    batch = TEXTS.batch(torch.tensor([2, 0]))
    assert batch["input_ids"].tolist() == [[1, 2] + [99] * 6, [1, 2, 3] + [99] * 5]
    assert batch["attention_mask"].sum(1).tolist() == [2, 3]
    assert batch["token_type_ids"].sum(1).tolist() == [2, 3]
    assert batch["labels"].tolist() == [7, 5]
    assert TEXTS.batch(torch.tensor([1]), targets=False)["input_ids"].shape == (1, 16)
    assert "labels" not in TEXTS.batch(torch.tensor([1]), targets=False)


def test_parts_and_digests() -> None:
    part = TEXTS.of(torch.tensor([2, 1]))
    assert part.lengths().tolist() == [2, 9]
    assert part.targets["labels"].tolist() == [7, 6]
    assert part.digest() != TEXTS.digest() == TEXTS.of(torch.arange(3)).digest()


def test_a_share_is_held_apart_once_and_for_all() -> None:
    train, held = held_apart(100, 0.1)
    assert (len(train), len(held)) == (90, 10)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(100))
    assert torch.equal(held_apart(100, 0.1)[1], held)
    assert held.tolist() != held_apart(100, 0.1, seed=1)[1].tolist()
    assert len(held_apart(3, 0.1)[1]) == 1
    assert len(held_apart(3, 0.0)[1]) == 0


def test_batches_of_like_length_hold_every_example_once_in_an_order_of_chance() -> None:
    lengths = torch.randint(
        3, 100, (4 * 50 * 2 + 7,), generator=torch.Generator().manual_seed(1)
    )  # two pools and a bit
    generator = torch.Generator().manual_seed(0)
    first, second = (batches_by_length(lengths, 4, generator) for _ in range(2))
    for batches in (first, second):
        assert torch.equal(torch.cat(batches).sort().values, torch.arange(len(lengths)))
        assert sorted(map(len, batches)) == [3] + [4] * 101  # as many as without
        spans = torch.tensor([float(lengths[batch].max() - lengths[batch].min()) for batch in batches])
        assert spans.mean() < 10  # 58 in batches of chance
    assert {tuple(batch.tolist()) for batch in first}.isdisjoint({tuple(batch.tolist()) for batch in second})
    longest = [int(lengths[batch].max()) for batch in first]
    assert longest != sorted(longest)
    again = batches_by_length(lengths, 4, torch.Generator().manual_seed(0))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_answers_come_back_in_their_order_without_padding() -> None:
    def model(inputs: Any, index: Tensor) -> Any:
        tokens = inputs["input_ids"].float()
        return {"by_token": tokens, "whole": torch.stack([index.float(), index + 10.0], dim=1)}

    assert torch.cat(list(split_by_length(TEXTS, 2))).tolist() == [2, 0, 1]
    found = outputs_of(model, TEXTS, ("by_token",), by_token=True)
    assert [len(one[0]) for one in found] == [3, 9, 2]
    whole = outputs_of(model, TEXTS, ("whole", "whole"))
    assert [one[0].tolist() for one in whole] == [[0.0, 10.0], [1.0, 11.0], [2.0, 12.0]]
