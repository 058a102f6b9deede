"""Means with intervals: percentile bootstrap (Efron 1979), interquartile mean (Agarwal et al. 2021, section 4.3).

Episodes of one building are alike, so where their buildings are known these are resampled first, and then episodes
within each that was drawn (Davison and Hinkley 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sideagents.errors import SideAgentsError

Statistic = Literal["mean", "iqm"]
Floats = NDArray[np.float64]

_CHUNK = 4_000_000  # resampled values held at a time: 32 MB


class Interval(NamedTuple):
    """An estimate and the bounds of its interval, in the unit of the values."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """A mean difference a - b, its interval, and the share of resamples in which a is above b (ties count half)."""

    mean: float
    low: float
    high: float
    probability: float


def interquartile_mean(values: ArrayLike) -> float:
    """Return the mean of the middle half: a quarter (rounded down) of all values is cut off at either end."""
    return float(_iqm(_checked(values).reshape(1, -1))[0])


def bootstrap_interval(
    values: ArrayLike,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    statistic: Statistic = "mean",
    buildings: Sequence[Hashable] | None = None,
) -> Interval:
    """Return the mean (or interquartile mean) of `values` and its percentile bootstrap interval.

    `values` (E,) holds one number per episode; (S, E) holds S training seeds on the same E episodes: then seeds and
    episodes are resampled independently of each other (Owen 2007), so that few seeds give a wide interval.
    `buildings` (E,) names each episode's building: buildings are resampled first, then as many episodes of each drawn
    one as it has; with one building, or none named, episodes alone are. The same arguments give the same interval.
    Raises `SideAgentsError` when there is no value, one is not finite, the number of buildings' names is another, or
    `level` is not between 0 and 1.
    """
    table = np.atleast_2d(_checked(values))
    drawn = _resample(table, resamples, seed, _iqm if statistic == "iqm" else _mean, buildings)
    low, high = _quantiles(drawn, level)
    estimate = (_iqm if statistic == "iqm" else _mean)(table.reshape(1, -1))
    return Interval(float(estimate[0]), low, high)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    buildings: Sequence[Hashable] | None = None,
) -> Difference:
    """Return mean(a - b) with its interval, for two agents on the same episodes in the same order.

    Shapes and `buildings` as in `bootstrap_interval`; what is resampled are pairs, so the episodes' difficulty
    cancels. Raises `SideAgentsError` when the shapes differ.
    """
    first, second = _checked(a), _checked(b)
    if first.shape != second.shape:
        raise SideAgentsError(f"paired values must have one shape, got {first.shape} and {second.shape}")
    table = np.atleast_2d(first - second)
    drawn = _resample(table, resamples, seed, _mean, buildings)
    low, high = _quantiles(drawn, level)
    above = float(np.mean(drawn > 0) + 0.5 * np.mean(drawn == 0))
    return Difference(float(table.mean()), low, high, above)


def _checked(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2) or array.size == 0:
        raise SideAgentsError(f"an interval needs at least one value in shape (E,) or (S, E), got shape {array.shape}")
    if not np.isfinite(array).all():
        raise SideAgentsError(f"an interval needs finite values, got {array[~np.isfinite(array)][0]}")
    return array


def _resample(
    table: Floats, resamples: int, seed: int, statistic: Any, buildings: Sequence[Hashable] | None = None
) -> Floats:
    """Return the statistic (resamples,) of tables drawn with replacement from the rows and the columns of `table`."""
    if resamples < 1:
        raise SideAgentsError(f"resamples must be 1 or more, got {resamples}")
    seeds, episodes = table.shape
    if buildings is not None and len(buildings) != episodes:
        raise SideAgentsError(f"each of {episodes} episodes needs the name of its building, got {len(buildings)} names")
    rng = np.random.default_rng(seed)
    if buildings is not None and len(set(buildings)) > 1:
        return np.array([float(statistic(part)[0]) for part in _by_building(table, resamples, rng, buildings)])
    at_once = max(1, _CHUNK // table.size)
    drawn = []
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        columns = rng.integers(episodes, size=(count, 1, episodes))
        rows = rng.integers(seeds, size=(count, seeds, 1)) if seeds > 1 else np.zeros((1, 1, 1), dtype=np.int64)
        drawn.append(statistic(table[rows, columns].reshape(count, -1)))
    return np.concatenate(drawn)


def _by_building(
    table: Floats, resamples: int, rng: np.random.Generator, buildings: Sequence[Hashable]
) -> Iterator[Floats]:
    """Yield `resamples` times the values (1, N) of drawn rows in drawn episodes of drawn buildings.

    A building comes with its own number of episodes, so N varies where these numbers do.
    """
    numbers = {name: i for i, name in enumerate(dict.fromkeys(buildings))}
    owner = np.array([numbers[name] for name in buildings])
    table = table[:, np.argsort(owner, kind="stable")]  # a building's episodes stand together
    sizes = np.bincount(owner)
    firsts = np.cumsum(sizes) - sizes
    at_once = max(1, _CHUNK // table.size)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn = rng.integers(len(sizes), size=(count, len(sizes)))
        lengths = sizes[drawn]
        size = np.repeat(lengths, lengths.ravel())
        columns = np.repeat(firsts[drawn], lengths.ravel()) + (rng.random(len(size)) * size).astype(np.int64)
        rows = rng.integers(len(table), size=(count, len(table), 1))
        for mine, there in zip(rows, np.split(columns, lengths.sum(axis=1).cumsum()[:-1]), strict=True):
            yield table[mine, there].reshape(1, -1)


def _quantiles(drawn: Floats, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise SideAgentsError(f"level must lie between 0 and 1, got {level}")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _mean(values: Floats) -> Floats:
    return np.asarray(values.mean(axis=1))


def _iqm(values: Floats) -> Floats:
    cut = values.shape[1] // 4
    ordered = np.sort(values, axis=1)
    return np.asarray(ordered[:, cut : values.shape[1] - cut].mean(axis=1))
