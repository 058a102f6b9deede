"""Random choices that come out alike on every machine and numpy version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class Dice:
    """Integers from PCG64's raw stream.

    numpy promises the raw stream of a bit generator for good, but not the streams of `Generator` methods; so every
    choice is made here from raw 64-bit words by integer arithmetic. The bias of `%` is below 1e-15 for our ranges.
    """

    def __init__(self, *seed: int) -> None:
        self._bits = np.random.PCG64(list(seed))

    def word(self) -> int:
        """Return the next 64-bit word."""
        return int(self._bits.random_raw())

    def integer(self, low: int, high: int, step: int = 1) -> int:
        """Return one of low, low + step, ... up to and including `high`."""
        return low + step * (self.word() % ((high - low) // step + 1))

    def chance(self, percent: int) -> bool:
        """Return True in `percent` of 100 cases."""
        return self.word() % 100 < percent

    def choose(self, options: Sequence[T]) -> T:
        """Return one element."""
        return options[self.word() % len(options)]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the elements in random order (Fisher-Yates)."""
        out = list(items)
        for i in range(len(out) - 1, 0, -1):
            j = self.word() % (i + 1)
            out[i], out[j] = out[j], out[i]
        return out

    def grain(self, height: int, width: int, levels: int) -> NDArray[np.int64]:
        """Return a (height, width) array of integers in [0, levels)."""
        raw = self._bits.random_raw(height * width)
        return (raw >> np.uint64(11)).astype(np.int64).reshape(height, width) % levels
