"""SQuAD 2.0 (Rajpurkar et al. 2018): its JSON files, and exact match and F1 with questions that have no answer."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from sideagents.errors import SideAgentsError, nearest
from sideagents.storage.arrays import read_packed
from sideagents.storage.files import missing_message, read_bytes

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Question:
    """A question on a paragraph; answers are (text, first character), none where it cannot be answered."""

    id: str
    title: str
    context: str
    question: str
    answers: tuple[tuple[str, int], ...]


def read_squad(path: Path, titles: Collection[str] | None = None) -> list[Question]:
    """Read a file of SQuAD, plain or gzipped; `titles` keeps these articles.

    Raises `SideAgentsError` with one line for a missing or damaged file, a title that is not there, and an answer that
    does not stand where the file says.
    """
    if not path.exists():
        raise SideAgentsError(f"{missing_message(path)}; SQuAD is at rajpurkar.github.io/SQuAD-explorer")
    try:
        raw = read_packed(path, "gzip") if path.suffix == ".gz" else read_bytes(path)
        articles = json.loads(raw)["data"]
        known = [str(article["title"]) for article in articles]
        for title in titles or ():
            if title not in known:
                raise SideAgentsError(f"{path}: has no article {title!r}{nearest(title, known)}")
        kept = [article for article in articles if titles is None or article["title"] in titles]
        return _check_once(path, [question for article in kept for question in _questions(path, article)])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, SideAgentsError):
            raise
        raise SideAgentsError(f"{path}: is no file of SQuAD ({type(error).__name__}: {error})") from None


def normalised(text: str) -> str:
    """Return an answer as it is compared: lower case, without punctuation and articles, single blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(found: str, wanted: str) -> float:
    """Return 1.0 where two answers are the same once normalised, else 0.0."""
    return float(normalised(found) == normalised(wanted))


def f1(found: str, wanted: str) -> float:
    """Return the harmonic mean of precision and recall over words; where one answer is empty, whether both are."""
    words, truth = normalised(found).split(), normalised(wanted).split()
    if not words or not truth:
        return float(words == truth)
    shared = sum((Counter(words) & Counter(truth)).values())
    return 2 * shared / (len(words) + len(truth))


def squad_metrics(
    questions: Sequence[Question],
    answers: Mapping[str, str],
    no_answer: Mapping[str, float] | None = None,
    threshold: float = 0.0,
) -> dict[str, float]:
    """Return `exact`, `f1`, and the same of questions with (`..._answerable`) and without (`..._unanswerable`) answer.

    answers: by question id, "" for none. no_answer: by id, how much a model prefers to give none; above `threshold` the
    answer counts as "". The best of a question's true answers counts. In [0, 1], nan over no question. Raises
    `SideAgentsError` for a question without an answer given.
    """
    rows: dict[str, list[tuple[float, float]]] = {"answerable": [], "unanswerable": []}
    for question in questions:
        if question.id not in answers:
            raise SideAgentsError(f'question {question.id!r} was given no answer; give "" for none')
        silent = no_answer is not None and no_answer[question.id] > threshold
        found = "" if silent else answers[question.id]
        truths = [text for text, _ in question.answers if normalised(text)] or [""]
        best = (max(exact_match(found, truth) for truth in truths), max(f1(found, truth) for truth in truths))
        rows["answerable" if question.answers else "unanswerable"].append(best)
    every = rows["answerable"] + rows["unanswerable"]
    result: dict[str, float] = {}
    for name, part in {"": every, **{f"_{key}": value for key, value in rows.items()}}.items():
        means = np.mean(part, axis=0) if part else (float("nan"), float("nan"))
        result |= {f"exact{name}": float(means[0]), f"f1{name}": float(means[1])}
    return result


def best_threshold(
    questions: Sequence[Question], answers: Mapping[str, str], no_answer: Mapping[str, float], metric: str = "f1"
) -> tuple[float, float]:
    """Return the threshold with the best `exact` or `f1`, and that value: choose it on data that is not reported.

    Answers are given up in the order of `no_answer`; ties of it go together. The least threshold that is best.
    """
    measure = exact_match if metric == "exact" else f1
    gains = []
    start = 0.0
    for question in questions:
        truths = [text for text, _ in question.answers if normalised(text)] or [""]
        answered = max(measure(answers[question.id], truth) for truth in truths)
        silent = max(measure("", truth) for truth in truths)
        start += silent
        gains.append((no_answer[question.id], answered - silent))
    best, value, total = min((s for s, _ in gains), default=0.0) - 1.0, start, start
    for level, tied in groupby(sorted(gains), key=itemgetter(0)):
        total += sum(gain for _, gain in tied)
        if total > value + 1e-12:
            best, value = level, total
    return best, value / max(1, len(questions))


def _questions(path: Path, article: Mapping[str, Any]) -> list[Question]:
    found = []
    title = str(article["title"])
    for place, paragraph in enumerate(article["paragraphs"], start=1):
        where, entry = f"{path}: article {title!r}, paragraph {place}", {}
        try:
            context = str(paragraph["context"])
            for entry in paragraph["qas"]:
                answers = tuple(dict.fromkeys((str(a["text"]), int(a["answer_start"])) for a in entry["answers"]))
                for text, start in answers:
                    if start < 0 or context[start : start + len(text)] != text:
                        raise SideAgentsError(
                            f"{where}, question {entry['id']!r}: {text!r} is not at character {start}"
                        )
                found.append(Question(str(entry["id"]), title, context, str(entry["question"]), answers))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, SideAgentsError):
                raise
            name = f", question {entry['id']!r}" if isinstance(entry, Mapping) and "id" in entry else ""
            raise SideAgentsError(f"{where}{name}: is damaged ({type(error).__name__}: {error})") from None
    return found


def _check_once(path: Path, questions: Sequence[Question]) -> list[Question]:
    """Raise `SideAgentsError` where two questions have one id: answers are given by it."""
    for name, count in Counter(question.id for question in questions).items():
        if count > 1:
            raise SideAgentsError(f"{path}: {count} questions have the id {name!r}")
    return list(questions)
