"""Lifelong metrics by hand-worked matrices."""

import math

import numpy as np
import pytest

from sideagents import SideAgentsError
from sideagents.lifelong.metrics import average_rank, final_mean, forgetting, parameters, rigidity

NAN = float("nan")
ACCURACY = [[0.9, NAN, NAN], [0.7, 0.8, NAN], [0.5, 0.9, 0.6]]
LOSS = [[1.0, NAN, NAN], [1.5, 2.0, NAN], [4.0, 1.0, math.e]]


def test_final_mean():
    assert final_mean(ACCURACY) == pytest.approx(2.0 / 3.0)
    assert final_mean([[0.25]]) == 0.25


def test_forgetting_of_accuracies_and_losses():
    np.testing.assert_allclose(forgetting(ACCURACY, higher_is_better=True), [0.4, -0.1, 0.0], atol=1e-12)
    np.testing.assert_allclose(forgetting(LOSS, higher_is_better=False), [3.0, -1.0, 0.0])


def test_forgetting_is_the_same_for_accuracies_and_for_errors():
    errors = 1.0 - np.asarray(ACCURACY)
    np.testing.assert_allclose(forgetting(errors, higher_is_better=False), forgetting(ACCURACY, higher_is_better=True))


def test_no_forgetting_is_a_plain_zero():
    assert [math.copysign(1.0, value) for value in forgetting([[0.5]], higher_is_better=True)] == [1.0]


def test_rigidity():
    np.testing.assert_allclose(rigidity(LOSS, [1.0, 1.0, 1.0]), [0.0, math.log(2.0), 1.0])
    np.testing.assert_allclose(rigidity(LOSS, [1.0, 4.0, math.e]), [0.0, -math.log(2.0), 0.0])


def test_average_rank_shares_the_ranks_of_ties():
    scores = {"a": [0.9, 0.5, 0.5], "b": [0.8, 0.5, 0.7], "c": [0.7, 0.5, 0.5]}
    # task 0: a b c = 1 2 3; task 1: all tie at 2; task 2: b = 1, a and c tie at 2.5
    assert average_rank(scores, higher_is_better=True) == pytest.approx({"a": 5.5 / 3, "b": 5 / 3, "c": 7.5 / 3})
    assert average_rank(scores, higher_is_better=False) == pytest.approx({"a": 6.5 / 3, "b": 7 / 3, "c": 4.5 / 3})


@pytest.mark.parametrize("matrix", [[[0.1, 0.2]], [0.1, 0.2], [], [[]], np.zeros((2, 2, 2))])
@pytest.mark.parametrize(
    "metric",
    [final_mean, lambda m: forgetting(m, higher_is_better=True), lambda m: rigidity(m, [1.0, 1.0])],
)
def test_shapes_that_are_not_square_are_one_clear_line(metric, matrix):
    with pytest.raises(SideAgentsError, match=r"T tasks is a \(T, T\) matrix, steps x tasks; got shape"):
        metric(matrix)


def test_a_trained_task_without_a_score_is_named():
    with pytest.raises(SideAgentsError, match="task 0 has no finite score after step 1"):
        final_mean([[0.9, NAN], [NAN, 0.8]])


def test_rigidity_refuses_what_is_no_loss():
    with pytest.raises(SideAgentsError, match=r"3 tasks needs as many losses of tasks trained first, got \(2,\)"):
        rigidity(LOSS, [1.0, 1.0])
    for first in ([1.0, 0.0, 1.0], [1.0, NAN, 1.0], [1.0, math.inf, 1.0]):
        with pytest.raises(SideAgentsError, match="finite and above 0"):
            rigidity(LOSS, first)


def test_ranks_refuse_scores_that_do_not_fit():
    for scores in ({}, {"a": [1.0, 2.0], "b": [1.0]}, {"a": 1.0}, {"a": []}, {"a": [[1.0]]}):
        with pytest.raises(SideAgentsError, match="one score per task and method"):
            average_rank(scores, higher_is_better=True)
    with pytest.raises(SideAgentsError, match="'b' has nan"):
        average_rank({"a": [1.0], "b": [NAN]}, higher_is_better=True)


def test_parameters_by_hand():
    assert parameters(100, [10, 20]) == 1.3
    assert parameters(100, [5, 5], shared=100) == 2.1
    with pytest.raises(SideAgentsError, match="needs weights in it, got 0"):
        parameters(0, [1])
