"""SQuAD: files, normalised answers, exact match and F1 with no-answer questions and threshold, by hand."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from sideagents.errors import SideAgentsError
from sideagents.language.squad import Question, best_threshold, exact_match, f1, normalised, read_squad, squad_metrics

CONTEXT = "The oil crisis began in October 1973."


def content(start: int = 24, text: str = "October 1973") -> dict[str, Any]:
    answers = [{"text": text, "answer_start": start}] * 2
    qas = [
        {"id": "1", "question": "When?", "answers": answers, "is_impossible": False},
        {"id": "2", "question": "Who?", "answers": [], "is_impossible": True},
    ]
    paragraphs = [{"context": CONTEXT, "qas": qas}]
    return {"data": [{"title": "Oil", "paragraphs": paragraphs}, {"title": "Gas", "paragraphs": []}]}


def test_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content()))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(content()).encode()))
    first, second = read_squad(tmp_path / "a.json")
    assert first == Question("1", "Oil", CONTEXT, "When?", (("October 1973", 24),))
    assert second.answers == ()
    assert read_squad(tmp_path / "a.json.gz") == [first, second]
    assert read_squad(tmp_path / "a.json", ["Gas"]) == []


@pytest.mark.parametrize(
    ("text", "titles", "message"),
    [
        (json.dumps(content(start=23)), None, "question '1': 'October 1973' is not at character 23"),
        (json.dumps(content()), ["Oyl"], "has no article 'Oyl', did you mean 'Oil'"),
        (json.dumps(content(start=-4)), None, "question '1': 'October 1973' is not at character -4"),
        (json.dumps(content()).replace('"id": "2"', '"id": "1"'), None, "2 questions have the id '1'"),
        (
            json.dumps(content()).replace('"id": "2", ', ""),
            None,
            "article 'Oil', paragraph 1: is damaged .KeyError: 'id'",
        ),
        (
            json.dumps(content()).replace('"answer_start": 24', '"answer_start": null'),
            None,
            "article 'Oil', paragraph 1, question '1': is damaged .TypeError",
        ),
        ("{", None, "is no file of SQuAD"),
        ("[]", None, "is no file of SQuAD"),
        ('{"data": [{"title": "Oil"}]}', None, "is no file of SQuAD"),
    ],
)
def test_what_is_broken_is_one_line(tmp_path: Path, text: str, titles: list[str] | None, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SideAgentsError, match=message):
        read_squad(tmp_path / "a.json", titles)
    with pytest.raises(SideAgentsError, match="no such file"):
        read_squad(tmp_path / "b.json")


def test_answers_are_compared_without_what_does_not_matter() -> None:
    assert normalised("  The U.S.,  an   Army ") == "us army"
    assert exact_match("the Army.", "army") == 1.0
    assert exact_match("army", "navy") == 0.0
    assert f1("October of 1973", "October 1973") == pytest.approx(2 * 2 / 5)
    assert f1("a b b", "b b c") == pytest.approx(2 * 2 / 5)  # "a" is an article
    assert (f1("", ""), f1("", "x"), f1("the", "")) == (1.0, 0.0, 1.0)


QUESTIONS = [
    Question("1", "t", "", "", (("October 1973", 0), ("1973", 8))),
    Question("2", "t", "", "", ()),
    Question("3", "t", "", "", (("oil", 0),)),
]


def test_the_best_true_answer_counts_and_silence_is_judged_too() -> None:
    found = squad_metrics(QUESTIONS, {"1": "1973", "2": "", "3": "oil crisis"})
    assert found["exact"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert (found["exact_answerable"], found["f1_unanswerable"]) == (0.5, 1.0)
    assert math.isnan(squad_metrics(QUESTIONS[:1], {"1": ""})["f1_unanswerable"])
    with pytest.raises(SideAgentsError, match="question '3' was given no answer"):
        squad_metrics(QUESTIONS, {"1": "", "2": ""})


def test_the_threshold_of_silence() -> None:
    answers = {"1": "1973", "2": "wrong", "3": "oil"}
    prefers = {"1": -1.0, "2": 2.0, "3": 0.5}
    assert squad_metrics(QUESTIONS, answers, prefers, threshold=0.0)["exact"] == pytest.approx(2 / 3)  # 2, 3: silent
    threshold, value = best_threshold(QUESTIONS, answers, prefers, "exact")
    assert (threshold, value) == (0.5, 1.0)
    assert squad_metrics(QUESTIONS, answers, prefers, threshold)["exact"] == value
    threshold, value = best_threshold(QUESTIONS[1:2], answers, prefers)  # never to speak is best
    assert value == squad_metrics(QUESTIONS[1:2], answers, prefers, threshold)["f1"] == 1.0
