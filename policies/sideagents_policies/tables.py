"""Tables of evaluation results, as Markdown, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sideagents.errors import SideAgentsError
from sideagents.run.files import read_json

COLUMNS = {
    "success": "success",
    "spl": "SPL",
    "soft_spl": "soft SPL",
    "nav_reward": "Nav. Rew.",
    "steps": "steps",
    "collisions": "collisions",
}
_DIGITS = {"success": 3, "spl": 3, "soft_spl": 3, "nav_reward": 2, "steps": 0, "collisions": 1}


def cell(metric: str, stat: Mapping[str, float]) -> str:
    """Return `mean [low, high]` with the digits that suit the metric."""
    digits = _DIGITS.get(metric, 3)
    return f"{stat['mean']:.{digits}f} [{stat['low']:.{digits}f}, {stat['high']:.{digits}f}]"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned Markdown table."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(c).ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(header), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, rows)])


def results_table(results: Mapping[str, Mapping[str, Any]], columns: Sequence[str] = tuple(COLUMNS)) -> str:
    """Return one row for each agent from label -> result of `eval` (`{"episodes", "metrics"}`)."""
    header = ["agent", "episodes", *(COLUMNS[c] for c in columns)]
    rows = [
        [label, str(result["episodes"]), *(cell(c, result["metrics"][c]) for c in columns)]
        for label, result in results.items()
    ]
    return markdown_table(header, rows)


def read_result(path: Path) -> dict[str, Any]:
    """Read a file written by `eval --json`; raises `SideAgentsError` when it is none."""
    try:
        result = read_json(path)
        result["metrics"]["success"]["mean"]
    except (KeyError, TypeError) as error:
        raise SideAgentsError(f"{path}: not a result of `sideagents eval --json` ({error})") from None
    return dict(result)
