"""Has anything become slower? Ratios are compared, since machines differ: of a way to another one in the same run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

WORSE = 0.1  # the share by which a ratio may be worse: less is noise

Row = Mapping[str, Any]


def compared(rows: Sequence[Row], committed: Sequence[Row]) -> Iterator[tuple[str, float, float, bool]]:
    """Yield name, ratio, the committed ratio, and whether it is worse by more than a tenth, for rows that both have.

    Rows are known by their name, and by their scene where they have one. A ratio of rates is the better the larger it
    is, one of times (unit `ms` or `s`) the smaller. Rows without a ratio say how fast the machine is, and nothing else.
    """
    before = {_name(row): row for row in committed if "ratio" in row}
    for row in rows:
        name = _name(row)
        if "ratio" not in row or name not in before:
            continue
        now, then = float(row["ratio"]), float(before[name]["ratio"])
        slower = now > then * (1 + WORSE) if row["unit"] in ("ms", "s") else now < then * (1 - WORSE)
        yield name, now, then, slower


def _name(row: Row) -> str:
    return f"{row['name']} {row['scene']}" if "scene" in row else str(row["name"])
