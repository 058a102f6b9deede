"""Tasks as `sideagents nlp` sees them: examples to train on, choose by and test on, and the metrics of predictions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sideagents.errors import SideAgentsError
from sideagents.language.glue import TASKS, GlueSet, read_glue, score
from sideagents.language.models import Kind
from sideagents.language.nlp_config import NlpConfig
from sideagents.language.spans import Windows, read_answers, windows_of
from sideagents.language.squad import Question, best_threshold, read_squad, squad_metrics
from sideagents.language.texts import Texts, held_apart, tokenised

SQUAD = "squad"
Split = Literal["held", "test"]
Scores = Sequence[tuple[Tensor, ...]]


@dataclass(frozen=True)
class TextResult:
    """Metrics of a model's predictions: one `score`, all `metrics` in [-1, 1], and the predictions, one per example.

    predictions: classes, scores, or for questions their F1.
    """

    score: float
    metrics: dict[str, float]
    predictions: list[float]


class TextTask(ABC):
    """Examples of one task. train, held (None where nothing is held out): `Texts` with the model's targets."""

    kind: Kind
    outputs: int
    names: tuple[str, ...]  # of the model's outputs that are measured
    by_token = False
    train: Texts
    held: Texts | None

    @property
    @abstractmethod
    def test(self) -> Texts:
        """The test data, read when it is asked for."""

    @abstractmethod
    def evaluate(self, scores: Scores, split: Split) -> TextResult:
        """Measure the outputs for all examples of a split; what `held` teaches about thresholds is used for `test`."""


class GlueTexts(TextTask):
    """A task of GLUE; its dev set is the test."""

    names = ("logits",)

    def __init__(self, config: NlpConfig, tokenizer: Any) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.kind, self.outputs = head_of(config.task)
        found = self._texts(read_glue(Path(config.data), config.task, "train"), tokenizer, config.length)
        drawn = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[: config.rows or None]
        train, held = held_apart(len(drawn), config.held_out)
        self.train = found.of(drawn[train])
        self.held = found.of(drawn[held]) if len(held) else None

    @cached_property
    def test(self) -> Texts:
        """The dev set."""
        found = read_glue(Path(self.config.data), self.config.task, TASKS[self.config.task].dev)
        return self._texts(found, self.tokenizer, self.config.length)

    def _texts(self, found: GlueSet, tokenizer: Any, length: int) -> Texts:
        labels = torch.from_numpy(found.labels)
        labels = labels.float() if labels.is_floating_point() else labels
        return tokenised(tokenizer, found.sentences, length, {"labels": labels})

    def evaluate(self, scores: Scores, split: Split) -> TextResult:
        """Measure by the task's own metrics; the score is their mean."""
        texts = self.held if split == "held" else self.test
        assert texts is not None
        logits = torch.stack([found[0] for found in scores])
        predicted = (logits[:, 0] if self.outputs == 1 else logits.argmax(1)).double().numpy()
        metrics = TASKS[self.config.task].metric(predicted, texts.targets["labels"].double().numpy())
        return TextResult(score(metrics), metrics, [round(float(found), 3) for found in predicted])


class SquadTexts(TextTask):
    """SQuAD 2.0; held-out paragraphs choose the threshold above which no answer is given."""

    kind, outputs = "answer", 2
    names = ("start_logits", "end_logits")
    by_token = True

    def __init__(self, config: NlpConfig, tokenizer: Any) -> None:
        self.config, self.tokenizer = config, tokenizer
        self._named = read_squad(Path(config.data), config.test_articles)  # or one of them is not there
        train = [q for q in read_squad(Path(config.data)) if q.title not in config.test_articles]
        drawn = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: config.rows or None]
        train = [train[number] for number in drawn.sort().values.tolist()]
        if not train:
            raise SideAgentsError(f"{config.data}: test_articles leave nothing to train on")
        contexts = sorted({question.context for question in train})
        chosen = {contexts[number] for number in held_apart(len(contexts), config.held_out)[1].tolist()}
        kept = [question for question in train if question.context not in chosen]
        self.train = windows_of(tokenizer, kept, config.length, config.stride).texts
        self.windows: dict[Split, Windows] = {}
        self.held = None
        if chosen:
            self.windows["held"] = self._windows([q for q in train if q.context in chosen])
            self.held = self.windows["held"].texts
        self.threshold = 0.0

    @cached_property
    def test(self) -> Texts:
        """Windows over the articles, or over the file, to test on."""
        given = self.config.test_data
        self.windows["test"] = self._windows(self._named if given is None else read_squad(Path(given)))
        return self.windows["test"].texts

    def _windows(self, questions: Sequence[Question]) -> Windows:
        found = windows_of(self.tokenizer, questions, self.config.length, self.config.stride)
        return replace(found, texts=replace(found.texts, targets={}))

    def evaluate(self, scores: Scores, split: Split) -> TextResult:
        """Measure by exact match and F1, whose value over all questions is the score."""
        windows = self.windows[split]
        answers, silence = read_answers(windows, scores)
        if split == "held":
            self.threshold = best_threshold(windows.questions, answers, silence)[0]
        metrics = squad_metrics(windows.questions, answers, silence, self.threshold)
        each = [squad_metrics([q], answers, silence, self.threshold)["f1"] for q in windows.questions]
        finite = {name: value for name, value in metrics.items() if not math.isnan(value)}
        return TextResult(metrics["f1"], finite, [round(value, 3) for value in np.asarray(each).tolist()])


def head_of(task: str) -> tuple[Kind, int]:
    """Return the kind of a task's head, and its outputs: classes, 1 for a score, 2 for start and end."""
    return ("answer", 2) if task == SQUAD else ("classify", len(TASKS[task].classes) or 1)


def read_task(config: NlpConfig, tokenizer: Any) -> TextTask:
    """Read and tokenise a task's training data; raises `SideAgentsError` for what is missing, broken or nothing."""
    task = SquadTexts(config, tokenizer) if config.task == SQUAD else GlueTexts(config, tokenizer)
    if not len(task.train):
        raise SideAgentsError(f"{config.data}: rows and held_out leave no example of {config.task} to train on")
    return task
