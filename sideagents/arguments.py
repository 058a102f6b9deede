"""What callers give, as this package takes it."""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex


def whole_number(value: Any) -> int | None:
    """Return a whole number of whatever library as Python's own, and None for anything else, `True` among it."""
    return operator.index(value) if isinstance(value, SupportsIndex) and not isinstance(value, bool) else None
