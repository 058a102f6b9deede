"""Intervals against values that can be worked out by hand or exactly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, trim_mean

from sideagents.errors import SideAgentsError
from sideagents.run.stats import bootstrap_interval, interquartile_mean, paired_difference


def test_two_values_worked_by_hand() -> None:
    """Means of two draws from {0, 1} are 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4."""
    assert bootstrap_interval([0.0, 1.0], level=0.95) == (0.5, 0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], level=0.4) == (0.5, 0.5, 0.5)


def test_constant_and_single_values_have_no_width() -> None:
    assert bootstrap_interval([3.0] * 7) == (3.0, 3.0, 3.0)
    assert bootstrap_interval([2.5]) == (2.5, 2.5, 2.5)


@pytest.mark.parametrize(("successes", "episodes"), [(5, 50), (497, 994), (960, 994)])
def test_success_rates_follow_the_binomial_law(successes: int, episodes: int) -> None:
    """A resampled success count is exactly Binomial(n, k/n)."""
    values = np.zeros(episodes)
    values[:successes] = 1
    mean, low, high = bootstrap_interval(values, resamples=20_000)
    exact = binom.ppf([0.025, 0.975], episodes, successes / episodes) / episodes
    assert mean == successes / episodes
    assert low == pytest.approx(exact[0], abs=1.01 / episodes)
    assert high == pytest.approx(exact[1], abs=1.01 / episodes)


def test_coverage_is_what_it_says() -> None:
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(300):
        _, low, high = bootstrap_interval(rng.exponential(size=80), level=0.9, resamples=400, seed=trial)
        hits += low <= 1.0 <= high
    assert 0.84 <= hits / 300 <= 0.94


def test_the_seed_decides_and_order_of_chunks_does_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=200)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    whole = bootstrap_interval(values, resamples=4000)
    monkeypatch.setattr("sideagents.run.stats._CHUNK", 10_000)
    assert bootstrap_interval(values, resamples=4000) == pytest.approx(whole, abs=0.01)


def test_few_seeds_widen_the_interval() -> None:
    """Seeds that differ by 1 with no noise between episodes: resampled rows give means 0, 1/2, 1 as by hand above."""
    table = np.array([[0.0] * 100, [1.0] * 100])
    assert bootstrap_interval(table) == (0.5, 0.0, 1.0)
    _, low, high = bootstrap_interval(table.reshape(-1))
    assert high - low < 0.3


def test_buildings_worked_by_hand() -> None:
    """Two buildings A = (0, 1), B = (1, 1), so that a resample is AA, AB or BB with 1/4, 1/2, 1/4.

    Its mean is 0, 1/4, 1/2, 3/4 or 1 with 1/64, 4/64, 14/64, 20/64 and 25/64: the distribution function is 0.016,
    0.078, 0.297, 0.609, 1.
    """
    for level, low, high in ((0.9, 0.25, 1.0), (0.6, 0.5, 1.0), (0.1, 0.75, 0.75)):
        for names in ("AABB", "ABAB"):
            values = [0.0, 1.0, 1.0, 1.0]
            assert bootstrap_interval(values, level, 5000, buildings=names) == (0.75, low, high)


def test_buildings_of_unequal_sizes_worked_by_hand() -> None:
    """A = (0), B = (1, 1, 1): the mean is 0, 3/4, 1 with 1/4, 1/2, 1/4; a building comes with all its episodes."""
    values, names = [1.0, 0.0, 1.0, 1.0], "BABB"
    assert bootstrap_interval(values, 0.95, buildings=names) == (0.75, 0.0, 1.0)
    assert bootstrap_interval(values, 0.4, buildings=names) == (0.75, 0.75, 0.75)
    assert bootstrap_interval(values, 0.4, statistic="iqm", buildings=names) == (1.0, 1.0, 1.0)


def test_intervals_are_wider_where_buildings_differ() -> None:
    rng = np.random.default_rng(2)
    names = np.repeat(np.arange(14), 20).tolist()
    noise = rng.normal(size=(14, 20))
    alike, apart = noise.ravel(), (noise + rng.normal(size=(14, 1))).ravel()

    def width(values: np.ndarray, **options: object) -> float:
        _, low, high = bootstrap_interval(values, **options)  # type: ignore[arg-type]
        return high - low

    assert width(apart, buildings=names) > 2.5 * width(apart)
    assert width(alike, buildings=names) < 1.5 * width(alike)  # at most sqrt(2) too wide where they do not
    for options in ({"statistic": "iqm"}, {"level": 0.5}):
        assert width(apart, buildings=names, **options) > 2 * width(apart, **options)
    table = np.stack([apart, apart + 0.1])
    assert width(table, buildings=names) > 2 * width(table)


def test_coverage_over_buildings_is_what_it_says() -> None:
    """A new set of buildings each time: the plain bootstrap takes episodes of one building for independent ones."""
    rng = np.random.default_rng(3)
    names = np.repeat(np.arange(14), 10).tolist()
    nested = plain = 0
    for trial in range(200):
        values = (rng.normal(size=(14, 10)) + rng.normal(size=(14, 1))).ravel()
        by_building = bootstrap_interval(values, 0.9, 200, trial, buildings=names)
        alone = bootstrap_interval(values, 0.9, 200, trial)
        nested += by_building.low <= 0.0 <= by_building.high
        plain += alone.low <= 0.0 <= alone.high
    assert 0.84 <= nested / 200 <= 0.96
    assert plain / 200 < 0.6


def test_with_one_building_episodes_alone_are_resampled() -> None:
    values = np.random.default_rng(4).normal(size=50)
    assert bootstrap_interval(values, buildings=["house"] * 50) == bootstrap_interval(values)


def test_pairs_are_resampled_by_building() -> None:
    """B is better in one of two buildings by 1, without noise: differences 0, 1/2, 1 with 1/4, 1/2, 1/4."""
    a, b = np.zeros(20), np.repeat([0.0, 1.0], 10)
    paired = paired_difference(b, a, buildings=["x"] * 10 + ["y"] * 10)
    assert (paired.mean, paired.low, paired.high) == (0.5, 0.0, 1.0)
    assert paired.probability == pytest.approx(0.875, abs=0.03)  # the ties of one in four count half
    assert paired_difference(b, a).low > 0.2


def test_interquartile_mean_by_hand_and_as_scipy() -> None:
    assert interquartile_mean([100, 1, 2, 3, 4, 5, 6, -50]) == 3.5
    assert interquartile_mean([1, 2, 3, 4, 100]) == 3.0
    assert interquartile_mean([7.0, 8.0, 9.0]) == 8.0
    values = np.random.default_rng(3).normal(size=(3, 31))
    assert interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25, axis=None), rel=1e-12)
    outlier = [*np.linspace(0, 1, 40), 1e6]
    estimate, _, high = bootstrap_interval(outlier, statistic="iqm")
    assert estimate == interquartile_mean(outlier)
    assert high < 1


def test_pairs_cancel_the_difficulty_of_episodes() -> None:
    rng = np.random.default_rng(5)
    difficulty = rng.normal(scale=10, size=300)
    better, worse = difficulty + 0.3 + rng.normal(scale=0.1, size=300), difficulty
    paired = paired_difference(better, worse)
    assert paired.low > 0.28
    assert paired.high < 0.32
    assert paired.probability == 1.0
    alone = bootstrap_interval(better)
    assert alone.low < np.mean(worse) < alone.high
    assert paired_difference(worse, worse) == (0.0, 0.0, 0.0, 0.5)
    reverse = paired_difference(worse, better)
    assert (reverse.mean, reverse.low, reverse.high) == pytest.approx((-paired.mean, -paired.high, -paired.low))


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "at least one value"), ([1.0, float("nan")], "finite values, got nan"), (np.zeros((2, 2, 2)), "shape")],
)
def test_what_has_no_interval_is_refused(values: object, message: str) -> None:
    with pytest.raises(SideAgentsError, match=message):
        bootstrap_interval(values)  # type: ignore[arg-type]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(SideAgentsError, match="level"):
        bootstrap_interval([1.0], level=95)
    with pytest.raises(SideAgentsError, match="one shape"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(SideAgentsError, match="each of 2 episodes needs the name of its building, got 1 names"):
        bootstrap_interval([1.0, 2.0], buildings=["house"])
    with pytest.raises(SideAgentsError, match="resamples"):
        bootstrap_interval([1.0], resamples=0)
