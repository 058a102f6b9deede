"""Questions as windows of tokens, and the answers that a model's scores of starts and ends mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sideagents.errors import SideAgentsError
from sideagents.language.squad import Question
from sideagents.language.texts import Texts

LONGEST = 30  # tokens of an answer
_BEST = 20  # starts and ends that are tried with each other


@dataclass(frozen=True)
class Windows:
    """Windows of questions' paragraphs, several for a long one.

    texts: with targets start_positions and end_positions, 0 (the first token, which means "no answer") where the
    question has none or it is not in the window. question: the number of each window's question. offsets: for each
    window int64 (length, 2), where in the paragraph each token stands, -1 where it is not of the paragraph.
    """

    questions: Sequence[Question]
    texts: Texts
    question: Tensor
    offsets: Sequence[Tensor]


def windows_of(tokenizer: Any, questions: Sequence[Question], length: int = 384, stride: int = 128) -> Windows:
    """Cut questions with their paragraphs into windows of `length` tokens that share `stride`.

    The first of a question's true answers is the one to learn. Raises `SideAgentsError` where a window has no room.
    """
    if not questions:
        return Windows((), Texts((), (), {}), torch.zeros(0, dtype=torch.long), ())
    longest = max(map(len, tokenizer([q.question for q in questions], add_special_tokens=False)["input_ids"]))
    room = length - longest - tokenizer.num_special_tokens_to_add(pair=True)
    if stride >= room:
        raise SideAgentsError(
            f"length={length}, stride={stride}: the longest question leaves {max(0, room)} tokens to a window, "
            "stride must be less"
        )
    found = tokenizer(
        [question.question for question in questions],
        [question.context for question in questions],
        truncation="only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    owners = found["overflow_to_sample_mapping"]
    offsets, starts, ends = [], [], []
    for number, owner in enumerate(owners):
        second = torch.tensor([part == 1 for part in found.sequence_ids(number)])
        places = torch.tensor(found["offset_mapping"][number])
        places[~second] = -1
        offsets.append(places)
        start, end = _place(places, questions[owner])
        starts.append(start)
        ends.append(end)
    texts = Texts(
        [torch.tensor(ids) for ids in found["input_ids"]],
        [torch.tensor(types) for types in found["token_type_ids"]],
        {"start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)},
        int(tokenizer.pad_token_id or 0),
    )
    return Windows(questions, texts, torch.tensor(owners), offsets)


def _place(places: Tensor, question: Question) -> tuple[int, int]:
    """Return the first and last token of the question's first answer, (0, 0) where it is not whole in the window."""
    if not question.answers:
        return 0, 0
    text, first = question.answers[0]
    last = first + len(text)
    inside = (places[:, 0] >= 0) & (places[:, 1] > first) & (places[:, 0] < last)
    numbers = inside.nonzero().flatten()
    if not len(numbers) or places[numbers[0], 0] > first or places[numbers[-1], 1] < last:
        return 0, 0
    return int(numbers[0]), int(numbers[-1])


def read_answers(windows: Windows, scores: Sequence[tuple[Tensor, ...]]) -> tuple[dict[str, str], dict[str, float]]:
    """Return by question id the best answer in the paragraph, and how much more the model prefers to give none.

    scores: of each window, starts and ends (length,). An answer is the best sum of a start and an end that is not
    before it and at most 30 tokens on, over all windows; no answer scores the least over windows of start and end at
    the first token (the original BERT's way to read SQuAD 2.0).
    """
    best: dict[int, tuple[float, str]] = {}
    silent: dict[int, float] = {}
    for number, (start, end) in enumerate(scores):
        owner = int(windows.question[number])
        none = float(start[0] + end[0])
        silent[owner] = min(silent.get(owner, none), none)
        score, text = _best_span(start, end, windows.offsets[number], windows.questions[owner].context)
        if owner not in best or score > best[owner][0]:
            best[owner] = (score, text)
    names = {owner: windows.questions[owner].id for owner in best}
    answers = {names[owner]: text for owner, (_, text) in best.items()}
    return answers, {names[owner]: silent[owner] - score for owner, (score, _) in best.items()}


def _best_span(start: Tensor, end: Tensor, offsets: Tensor, context: str) -> tuple[float, str]:
    places = (offsets[:, 0] >= 0).nonzero().flatten()
    if not len(places):
        return float("-inf"), ""
    starts = places[start[places].topk(min(_BEST, len(places))).indices]
    ends = places[end[places].topk(min(_BEST, len(places))).indices]
    sums = start[starts][:, None] + end[ends][None]
    far = ends[None] - starts[:, None]
    sums = sums.masked_fill((far < 0) | (far >= LONGEST), float("-inf"))
    flat = int(sums.argmax())
    score = float(sums.flatten()[flat])
    if score == float("-inf"):
        return score, ""
    first, last = starts[flat // len(ends)], ends[flat % len(ends)]
    return score, context[int(offsets[first, 0]) : int(offsets[last, 1])]
