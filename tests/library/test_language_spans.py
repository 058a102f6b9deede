"""Windows over paragraphs and the answers in them, by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from optional_packages import transformers_ready

if not transformers_ready():
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)


from sideagents.errors import SideAgentsError
from sideagents.language.models import load_tokenizer
from sideagents.language.spans import read_answers, windows_of
from sideagents.language.squad import Question

CONTEXT = "The man sits in the garden. The dog sleeps in the red house."
ASKED = [
    Question("1", "t", CONTEXT, "Where is the man?", (("the garden", 16),)),
    Question("2", "t", CONTEXT, "Where is the cat?", ()),
    Question("3", "t", CONTEXT, "Who sleeps?", (("dog", 32), ("The dog", 28))),
]


def test_answers_stand_where_the_tokens_say(tiny: Path) -> None:
    found = windows_of(load_tokenizer(str(tiny)), ASKED, length=64, stride=8)
    assert found.question.tolist() == [0, 1, 2]
    starts, ends = found.texts.targets["start_positions"], found.texts.targets["end_positions"]
    assert [int(starts[1]), int(ends[1])] == [0, 0]
    for number, text in ((0, "the garden"), (2, "dog")):
        first, last = found.offsets[number][starts[number]], found.offsets[number][ends[number]]
        assert CONTEXT[int(first[0]) : int(last[1])] == text
    assert found.offsets[0][0].tolist() == [-1, -1]
    assert (found.offsets[0][1:6] == -1).all()  # the question


def test_a_long_paragraph_is_cut_into_windows_that_overlap(tiny: Path) -> None:
    found = windows_of(load_tokenizer(str(tiny)), ASKED[2:], length=14, stride=2)
    assert len(found.offsets) > 1
    assert found.question.unique().tolist() == [0]
    inside = [int(start) > 0 for start in found.texts.targets["start_positions"]]
    covered = [((o[:, 0] == 32).any()).item() for o in found.offsets]
    assert inside == covered  # where the answer is not in the window, it has none
    places = [set(o[o[:, 0] >= 0, 0].tolist()) for o in found.offsets]
    assert all(len(one & other) >= 2 for one, other in pairwise(places))


def test_the_best_span_and_silence_by_hand(tiny: Path) -> None:
    windows = windows_of(load_tokenizer(str(tiny)), ASKED[:1], length=64, stride=8)
    length = len(windows.offsets[0])
    start, end = torch.zeros(length), torch.zeros(length)
    first = int(windows.texts.targets["start_positions"][0])
    start[first], end[first + 1] = 3.0, 2.0
    end[first - 1] = 9.0  # before the start: no span with it starts at `first`
    start[0], end[0] = 4.0, 2.5
    end[1] = 50.0  # of the question
    start[int((windows.offsets[0][:, 0] == 0).nonzero()[0])] = 0.5  # "The"
    answers, silence = read_answers(windows, [(start, end)])
    assert answers == {"1": "The man sits in"}  # 0.5 + 9 is more than 3 + 2
    assert silence["1"] == pytest.approx(6.5 - 9.5)
    end[first - 1] = 0.0
    answers, silence = read_answers(windows, [(start, end)])
    assert answers == {"1": "the garden"}
    assert silence["1"] == pytest.approx(6.5 - 5.0)


@pytest.mark.parametrize(("length", "stride"), [(16, 16), (6, 1)])
def test_a_window_without_room_is_refused(tiny: Path, length: int, stride: int) -> None:
    with pytest.raises(SideAgentsError, match=f"length={length}, stride={stride}: "):
        windows_of(load_tokenizer(str(tiny)), ASKED, length, stride)


def test_windows_compete(tiny: Path) -> None:
    windows = windows_of(load_tokenizer(str(tiny)), ASKED[2:], length=14, stride=2)
    scores = []
    for number, offsets in enumerate(windows.offsets):
        start = torch.full((len(offsets),), -1.0)
        end = start.clone()
        start[0] = end[0] = float(-number)
        last = int((offsets[:, 0] >= 0).nonzero()[-1])
        start[last] = end[last] = float(number)
        scores.append((start, end))
    answers, silence = read_answers(windows, scores)
    assert answers == {"3": "."}
    assert silence["3"] == pytest.approx(-4.0 * (len(scores) - 1))
