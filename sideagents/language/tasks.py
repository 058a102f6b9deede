"""Tasks as `sideagents nlp` sees them: examples to train on, choose by and judge by, and what answers are worth."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sideagents.errors import SideAgentsError
from sideagents.language.config import NlpConfig
from sideagents.language.glue import TASKS, GlueSet, read_glue, score
from sideagents.language.models import Kind
from sideagents.language.spans import Windows, read_answers, windows_of
from sideagents.language.squad import Question, best_threshold, judge, read_squad
from sideagents.language.texts import Texts, held_apart, tokenised

SQUAD = "squad"
Split = Literal["held", "test"]
Scores = Sequence[tuple[Tensor, ...]]


@dataclass(frozen=True)
class JudgedTexts:
    """What a model's answers are worth: one `score`, all `metrics` in [-1, 1], and the answers, one for each example.

    answers: classes, scores, or for questions their F1.
    """

    score: float
    metrics: dict[str, float]
    answers: list[float]


class TextTask(ABC):
    """Examples of one task. train, held (None where nothing is held out), test: `Texts` with the model's targets."""

    kind: Kind
    outputs: int
    names: tuple[str, ...]  # of the model's outputs that are judged
    by_token = False
    train: Texts
    held: Texts | None
    test: Texts

    @abstractmethod
    def judge(self, scores: Scores, split: Split) -> JudgedTexts:
        """Judge the outputs for all examples of a split; what `held` teaches about thresholds is used for `test`."""


class GlueTexts(TextTask):
    """A task of GLUE; its dev set judges."""

    kind: Kind = "classify"
    names = ("logits",)

    def __init__(self, config: NlpConfig, tokenizer: Any) -> None:
        about = TASKS[config.task]
        self.task, self.outputs = config.task, len(about.classes) or 1
        found = self._texts(read_glue(Path(config.data), config.task, "train"), tokenizer, config.length)
        drawn = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[: config.rows or None]
        train, held = held_apart(len(drawn), config.held_out)
        self.train = found.of(drawn[train])
        self.held = found.of(drawn[held]) if len(held) else None
        self.test = self._texts(read_glue(Path(config.data), config.task, "dev"), tokenizer, config.length)

    def _texts(self, found: GlueSet, tokenizer: Any, length: int) -> Texts:
        labels = torch.from_numpy(found.labels)
        labels = labels.float() if labels.is_floating_point() else labels
        return tokenised(tokenizer, found.sentences, length, {"labels": labels})

    def judge(self, scores: Scores, split: Split) -> JudgedTexts:
        """Judge by the task's own metrics; the score is their mean."""
        texts = self.held if split == "held" else self.test
        assert texts is not None
        logits = torch.stack([found[0] for found in scores])
        answers = (logits[:, 0] if self.outputs == 1 else logits.argmax(1)).double().numpy()
        metrics = TASKS[self.task].metric(answers, texts.targets["labels"].double().numpy())
        return JudgedTexts(score(metrics), metrics, [round(float(found), 3) for found in answers])


class SquadTexts(TextTask):
    """SQuAD 2.0; held-out paragraphs choose the threshold above which no answer is given."""

    kind: Kind = "answer"
    outputs = 2
    names = ("start_logits", "end_logits")
    by_token = True

    def __init__(self, config: NlpConfig, tokenizer: Any) -> None:
        every = read_squad(Path(config.data))
        if config.test_data is not None:
            train, test = every, read_squad(Path(config.test_data))
        else:
            test = read_squad(Path(config.data), config.test_articles)
            train = [question for question in every if question.title not in config.test_articles]
        if not train or not test:
            raise SideAgentsError(
                f"{config.data}: test_articles leave no question to {'judge by' if train else 'learn'}"
            )
        contexts = sorted({question.context for question in train})
        chosen = {contexts[number] for number in held_apart(len(contexts), config.held_out)[1].tolist()}
        kept = [question for question in train if question.context not in chosen]
        drawn = torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))[: config.rows or None]
        kept = [kept[number] for number in drawn.sort().values.tolist()]
        self.train = windows_of(tokenizer, kept, config.length, config.stride).texts
        self.windows: dict[Split, Windows] = {
            "held": self._windows([q for q in train if q.context in chosen], tokenizer, config),
            "test": self._windows(test, tokenizer, config),
        }
        self.held = self.windows["held"].texts if chosen else None
        self.test = self.windows["test"].texts
        self.threshold = 0.0

    def _windows(self, questions: Sequence[Question], tokenizer: Any, config: NlpConfig) -> Windows:
        if not questions:
            return Windows((), Texts((), (), {}), torch.zeros(0), ())
        found = windows_of(tokenizer, questions, config.length, config.stride)
        return replace(found, texts=replace(found.texts, targets={}))

    def judge(self, scores: Scores, split: Split) -> JudgedTexts:
        """Judge by exact match and F1, whose value over all questions is the score."""
        windows = self.windows[split]
        answers, silence = read_answers(windows, scores)
        if split == "held":
            self.threshold = best_threshold(windows.questions, answers, silence)[0]
        metrics = judge(windows.questions, answers, silence, self.threshold)
        each = [judge([q], answers, silence, self.threshold)["f1"] for q in windows.questions]
        finite = {name: value for name, value in metrics.items() if not math.isnan(value)}
        return JudgedTexts(metrics["f1"], finite, [round(value, 3) for value in np.asarray(each).tolist()])


def read_task(config: NlpConfig, tokenizer: Any) -> TextTask:
    """Read and tokenise a task's data; raises `SideAgentsError` with file and line for what is missing or broken."""
    return SquadTexts(config, tokenizer) if config.task == SQUAD else GlueTexts(config, tokenizer)
