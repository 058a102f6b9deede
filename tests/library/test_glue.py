"""GLUE's files: columns by name, classes, broken lines; metrics against hand-worked values."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from sideagents.errors import SideAgentsError
from sideagents.language.glue import (
    TASKS,
    accuracy_and_f1,
    correlations,
    matthews,
    read_glue,
    score,
)

FILES = {
    "CoLA": 'gj04\t1\t\tThe sailors rode.\ngj04\t0\t*\tThe them "rode.\n',
    "SST-2": "sentence\tlabel\nfine \t1\n",
    "MRPC": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t5\t6\tone\ttwo\r\n",
    "STS-B": "index\tsentence1\tsentence2\tscore\n0\tone\ttwo\t3.750\n",
    "RTE": "index\tsentence1\tsentence2\tlabel\n0\tone\ttwo\tnot_entailment\n",
}


def put(root: Path, task: str, text: str, split: str = "dev") -> Path:
    path = root / task / f"{split}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_every_layout_is_read(tmp_path: Path) -> None:
    for task, text in FILES.items():
        put(tmp_path, task, text)
    cola = read_glue(tmp_path, "CoLA", "dev")
    assert cola.sentences == [("The sailors rode.",), ('The them "rode.',)]
    assert cola.labels.tolist() == [1, 0]
    assert read_glue(tmp_path, "SST-2", "dev").sentences == [("fine ",)]
    assert read_glue(tmp_path, "MRPC", "dev").sentences == [("one", "two")]
    assert read_glue(tmp_path / "MRPC", "MRPC", "dev").labels.tolist() == [1]
    sts = read_glue(tmp_path, "STS-B", "dev")
    assert (sts.labels.dtype, sts.labels.tolist()) == (np.float64, [3.75])
    assert read_glue(tmp_path, "RTE", "dev").labels.tolist() == [1]
    packed = tmp_path / "RTE" / "train.tsv.gz"
    packed.write_bytes(gzip.compress(FILES["RTE"].encode()))
    assert len(read_glue(tmp_path, "RTE", "train")) == 1


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("RTE", "index\tsentence1\tsentence2\tlabel\n0\tone\ttwo\n", r"dev\.tsv:2: has 3 fields, 4 are needed"),
        ("RTE", "index\tsentence1\tsentence2\tlabel\n\n0\ta\tb\tmaybe\n", r"dev\.tsv:3: label 'maybe' is none of ent"),
        (
            "RTE",
            "index\tsentence1\tsentence\tlabel\n",
            r"dev\.tsv:1: has no column 'sentence2', did",
        ),
        ("STS-B", "sentence1\tsentence2\tscore\na\tb\tfour\n", r"dev\.tsv:2: score 'four' is no number"),
        ("STS-B", "sentence1\tsentence2\tscore\na\tb\tinf\n", r"dev\.tsv:2: score 'inf' is no number"),
        ("SST-2", "sentence\tlabel\n", "holds no example"),
        ("CoLA", "gj04\t1\t\tone\tmore\n", r"dev\.tsv:1: has 5 fields, 4 are needed"),
        ("CoLA", "gj04\t1\t\n", r"dev\.tsv:1: has 3 fields, 4 are needed"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, task: str, text: str, message: str) -> None:
    put(tmp_path, task, text)
    with pytest.raises(SideAgentsError, match=message):
        read_glue(tmp_path, task, "dev")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SideAgentsError, match="unknown task 'RTF', did you mean 'RTE'"):
        read_glue(tmp_path, "RTF", "dev")
    with pytest.raises(SideAgentsError, match=r"RTE.dev\.tsv: no such file.*GLUE is at gluebenchmark\.com"):
        read_glue(tmp_path, "RTE", "dev")
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE" / "dev.tsv.gz").write_bytes(b"\x1f\x8b no gzip")
    with pytest.raises(SideAgentsError, match="not packed by gzip"):
        read_glue(tmp_path, "RTE", "dev")
    (tmp_path / "RTE" / "dev.tsv").write_bytes(FILES["RTE"].encode() + b"1\tcaf\xe9\tb\tentailment\n")
    with pytest.raises(SideAgentsError, match=r"dev\.tsv:3: is not UTF-8"):
        read_glue(tmp_path, "RTE", "dev")


def test_metrics_by_hand() -> None:
    found, wanted = np.array([1.0, 1, 0, 0, 1]), np.array([1.0, 0, 0, 1, 1])  # TP 2, FP 1, FN 1, TN 1
    assert accuracy_and_f1(found, wanted) == {"accuracy": 0.6, "f1": pytest.approx(2 / 3)}
    assert matthews(found, wanted)["matthews"] == pytest.approx((2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5)
    assert matthews(np.ones(5), wanted) == {"matthews": 0.0}
    assert accuracy_and_f1(np.zeros(2), np.zeros(2)) == {"accuracy": 1.0, "f1": 0.0}
    scores = correlations(np.array([1.0, 2, 3]), np.array([1.0, 4, 9]))
    assert scores["spearman"] == pytest.approx(1.0)
    assert scores["pearson"] == pytest.approx(8 / (2 * (98 / 3)) ** 0.5)
    assert correlations(np.ones(3), np.arange(3.0)) == {"pearson": 0.0, "spearman": 0.0}
    assert score({"accuracy": 0.5, "f1": 1.0}) == 0.75


@pytest.mark.parametrize("task", TASKS)
def test_a_perfect_answer_scores_one(task: str) -> None:
    wanted = np.array([0.0, 1, 1, 0, 1])
    assert score(TASKS[task].metric(wanted, wanted)) == pytest.approx(1.0)
