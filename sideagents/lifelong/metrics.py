"""What lifelong learning is measured by: final mean, forgetting, rigidity, average rank (paper, section 4.2).

A matrix has one row per step of the sequence and one column per task: entry (t, i) is the accuracy or the loss on task
i after training on task t; it is nan where task i has not been trained yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from sideagents.errors import SideAgentsError

Floats = npt.NDArray[np.float64]


def final_mean(matrix: npt.ArrayLike) -> float:
    """Return the mean over tasks after the last step: 1/T sum over i of m[T, i].

    matrix: (tasks, tasks), accuracy or loss. Raises `SideAgentsError` for other shapes, and for nan at a trained task.
    """
    return float(_square(matrix)[-1].mean())


def forgetting(matrix: npt.ArrayLike, *, higher_is_better: bool) -> Floats:
    """Return per task (tasks,) how much its error has risen since its own training; negative is a gain.

    Accuracies (`higher_is_better`): m[i, i] - m[T, i]. Losses and errors: m[T, i] - m[i, i]. The last task has 0, as
    nothing came after it. Raises `SideAgentsError` for shapes other than (tasks, tasks), and for nan at a trained task.
    """
    scores = _square(matrix)
    rise = scores[-1] - np.diagonal(scores)
    return np.asarray(-rise if higher_is_better else rise, dtype=np.float64) + 0.0  # + 0.0 makes -0.0 a plain zero


def rigidity(matrix: npt.ArrayLike, trained_first: npt.ArrayLike) -> Floats:
    """Return per task (tasks,) log(m[i, i] / f[i]); positive: what came before has made it harder to learn.

    matrix: (tasks, tasks) of losses; m[i, i] is the loss of task i right after its turn in the sequence.
    trained_first: (tasks,), f[i] the loss of task i when it is the first of the sequence; f[0] is usually m[0, 0].
    The natural logarithm. Raises `SideAgentsError` for other shapes and for losses that are not positive.
    """
    losses = np.diagonal(_square(matrix))
    first = np.asarray(trained_first, dtype=np.float64)
    if first.shape != losses.shape:
        raise SideAgentsError(
            f"rigidity of {len(losses)} tasks needs as many losses of tasks trained first, got {first.shape}"
        )
    if not bool(np.all(losses > 0) and np.all(first > 0) and np.all(np.isfinite(first))):
        raise SideAgentsError("rigidity is a ratio of losses: all of them must be finite and above 0")
    return np.asarray(np.log(losses / first), dtype=np.float64)


def average_rank(scores: Mapping[str, npt.ArrayLike], *, higher_is_better: bool) -> dict[str, float]:
    """Return per method 1/T sum over i of its rank on task i; rank 1 is the best, methods that tie share the mean rank.

    scores: by method, (tasks,) each, of the same tasks in the same order.
    higher_is_better: True for accuracies, False for losses.
    Raises `SideAgentsError` for unequal lengths, nan, or no scores.
    """
    rows = {name: np.asarray(row, dtype=np.float64) for name, row in scores.items()}
    shapes = {row.shape for row in rows.values()}
    if len(shapes) != 1 or len(shape := next(iter(shapes))) != 1 or shape[0] == 0:
        found = ", ".join(f"{name} {row.shape}" for name, row in rows.items()) or "none"
        raise SideAgentsError(f"ranks need one score per task and method, the same tasks for all; got {found}")
    table = np.stack(list(rows.values()))
    if bool(np.isnan(table).any()):
        name = next(name for name, row in rows.items() if np.isnan(row).any())
        raise SideAgentsError(f"ranks need a score on every task; {name!r} has nan")
    ranks = rankdata(-table if higher_is_better else table, method="average", axis=0)
    return dict(zip(rows, ranks.mean(axis=1).tolist(), strict=True))


def parameters(base: int, trained: Sequence[int], shared: int = 0) -> float:
    """Return what all tasks store, as a multiple of the base: (base + shared + sum over tasks of trained[i]) / base.

    base: weights of the base, held once. trained: (tasks,), weights that each task has of its own, readouts included.
    shared: trained weights that all tasks use, held once (fine-tuning, EWC, PSP). Raises `SideAgentsError` for a base
    without weights.
    """
    if base < 1:
        raise SideAgentsError(f"a multiple of a base needs weights in it, got {base}")
    return (base + shared + sum(trained)) / base


def _square(matrix: npt.ArrayLike) -> Floats:
    scores = np.asarray(matrix, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or len(scores) == 0:
        raise SideAgentsError(f"a sequence of T tasks is a (T, T) matrix, steps x tasks; got shape {scores.shape}")
    seen = np.tril_indices(len(scores))
    if not bool(np.isfinite(scores[seen]).all()):
        step, task = next((t, i) for t, i in zip(*seen, strict=True) if not np.isfinite(scores[t, i]))
        raise SideAgentsError(f"task {task} has no finite score after step {step}, though it was trained by then")
    return scores
