"""GLUE's tab-separated files (Wang et al. 2019), plain or gzipped, and the metrics of each task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import pearsonr, spearmanr

from sideagents.errors import SideAgentsError, nearest
from sideagents.storage.arrays import read_packed
from sideagents.storage.files import missing_message, read_bytes

Floats = npt.NDArray[np.float64]
Metric = Callable[[Floats, Floats], dict[str, float]]  # predictions and truths (N,) -> metrics by name


@dataclass(frozen=True)
class GlueTask:
    """One task: which columns hold sentences and label, its classes (none: a score), its metrics, its dev split.

    columns: names in the header line, or numbers where a file has none. classes: as written in the file.
    """

    columns: tuple[str | int, ...]
    label: str | int
    classes: tuple[str, ...]
    metric: Metric
    header: bool = True
    dev: str = "dev"


@dataclass(frozen=True)
class GlueSet:
    """Examples of a task: one or two sentences each, labels (N,) int64 of classes or float64 scores."""

    task: str
    sentences: list[tuple[str, ...]]
    labels: npt.NDArray[np.int64] | Floats

    def __len__(self) -> int:
        return len(self.sentences)


def accuracy(found: Floats, wanted: Floats) -> dict[str, float]:
    """Return `accuracy` in [0, 1]."""
    return {"accuracy": float(np.mean(found == wanted))}


def accuracy_and_f1(found: Floats, wanted: Floats) -> dict[str, float]:
    """Return `accuracy` and `f1` of class 1, 2 TP / (2 TP + FP + FN), 0 where class 1 is nowhere; in [0, 1]."""
    right = float(np.sum((found == 1) & (wanted == 1)))
    either = float(np.sum(found == 1) + np.sum(wanted == 1))
    return accuracy(found, wanted) | {"f1": 2 * right / either if either else 0.0}


def matthews(found: Floats, wanted: Floats) -> dict[str, float]:
    """Return `matthews`, the correlation of two binary predictions in [-1, 1], 0 where one of them never changes."""
    if np.std(found) == 0 or np.std(wanted) == 0:
        return {"matthews": 0.0}
    return {"matthews": float(np.corrcoef(found, wanted)[0, 1])}  # of binary numbers Matthews' is Pearson's


def correlations(found: Floats, wanted: Floats) -> dict[str, float]:
    """Return `pearson` and `spearman` correlations in [-1, 1], 0 where predictions never change."""
    if np.std(found) == 0 or np.std(wanted) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": float(pearsonr(found, wanted).statistic),
        "spearman": float(spearmanr(found, wanted).statistic),
    }


_BINARY = ("0", "1")
_INFERRED = ("contradiction", "entailment", "neutral")
_ENTAILED = ("entailment", "not_entailment")
TASKS: Mapping[str, GlueTask] = {
    "CoLA": GlueTask((3,), 1, _BINARY, matthews, header=False),
    "SST-2": GlueTask(("sentence",), "label", _BINARY, accuracy),
    "MRPC": GlueTask(("#1 String", "#2 String"), "Quality", _BINARY, accuracy_and_f1),
    "STS-B": GlueTask(("sentence1", "sentence2"), "score", (), correlations),
    "QQP": GlueTask(("question1", "question2"), "is_duplicate", _BINARY, accuracy_and_f1),
    "MNLI": GlueTask(
        ("sentence1", "sentence2"),
        "gold_label",
        ("contradiction", "entailment", "neutral"),
        accuracy,
        dev="dev_matched",
    ),
    "QNLI": GlueTask(("question", "sentence"), "label", _ENTAILED, accuracy),
    "RTE": GlueTask(("sentence1", "sentence2"), "label", _ENTAILED, accuracy),
    "WNLI": GlueTask(("sentence1", "sentence2"), "label", _BINARY, accuracy),
}


def read_glue(root: Path, task: str, split: str) -> GlueSet:
    """Read ROOT/TASK/SPLIT.tsv or SPLIT.tsv.gz (root may be the task's own folder).

    Fields are not quoted. Raises `SideAgentsError` with file and line for what is missing or broken.
    """
    if task not in TASKS:
        raise SideAgentsError(f"unknown task {task!r}{nearest(task, TASKS)} (known: {', '.join(TASKS)})")
    about = TASKS[task]
    path = _path(root, task, split)
    lines = _lines(path)
    names: list[str] | None = lines.pop(0)[1].split("\t") if about.header and lines else None
    fields = [_column(path, names, column) for column in (*about.columns, about.label)]
    sentences: list[tuple[str, ...]] = []
    labels: list[float] = []
    for number, line in lines:
        parts = line.split("\t")
        wanted = len(names) if names is not None else max(fields) + 1
        if len(parts) != wanted:
            raise SideAgentsError(f"{path}:{number}: has {len(parts)} fields, {wanted} are needed")
        sentences.append(tuple(parts[field] for field in fields[:-1]))
        labels.append(_label(path, number, parts[fields[-1]], about.classes))
    if not sentences:
        raise SideAgentsError(f"{path}: holds no example")
    return GlueSet(task, sentences, np.array(labels, np.int64) if about.classes else np.array(labels, np.float64))


def score(metrics: Mapping[str, float]) -> float:
    """Return a task's one number: the mean of its metrics, as GLUE's table has it."""
    return float(np.mean(list(metrics.values())))


def _path(root: Path, task: str, split: str) -> Path:
    folders = (root / task, root)
    for folder in folders:
        for name in (f"{split}.tsv", f"{split}.tsv.gz"):
            if (folder / name).is_file():
                return folder / name
    raise SideAgentsError(f"{missing_message(root / task / f'{split}.tsv')}; GLUE is at gluebenchmark.com")


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines that are not empty, with their numbers from 1."""
    raw = read_packed(path, "gzip") if path.suffix == ".gz" else read_bytes(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SideAgentsError(f"{path}:{line}: is not UTF-8 ({error.reason})") from None
    lines = (line.rstrip("\r") for line in text.split("\n"))
    return [(number, line) for number, line in enumerate(lines, start=1) if line]


def _column(path: Path, names: Sequence[str] | None, column: str | int) -> int:
    if isinstance(column, int):
        return column
    if names is None or column not in names:
        raise SideAgentsError(f"{path}:1: has no column {column!r}{nearest(column, names or [])}")
    return list(names).index(column)


def _label(path: Path, number: int, text: str, classes: Sequence[str]) -> float:
    if classes:
        if text not in classes:
            raise SideAgentsError(f"{path}:{number}: label {text!r} is none of {', '.join(classes)}")
        return classes.index(text)
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found) or "_" in text:
        raise SideAgentsError(f"{path}:{number}: score {text!r} is no number")
    return found
