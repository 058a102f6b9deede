"""Tables of evaluation results, as Markdown, with intervals, and a mark at what was measured on other lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sideagents.errors import SideAgentsError
from sideagents.storage.files import read_json
from sideagents_envs.versions import LISTS_VERSION

COLUMNS = {
    "success": "success",
    "spl": "SPL",
    "soft_spl": "soft SPL",
    "nav_reward": "Nav. Rew.",
    "steps": "steps",
    "collisions": "collisions",
}
OF_OTHER_LISTS = "†"
_UNVERSIONED = "1"  # results that name no version are of the first
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
    """Return one row for each agent from label -> result of `eval` (`{"episodes", "metrics", ...}`).

    Results of other held-out lists than today's are marked, and a line under the table says so.
    """
    header = ["agent", "buildings", "episodes", *(COLUMNS[c] for c in columns)]
    rows = [
        [
            marked(label, result),
            str(result.get("buildings_played", "-")),
            str(result["episodes"]),
            *(cell(c, result["metrics"][c]) for c in columns),
        ]
        for label, result in results.items()
    ]
    return with_note(markdown_table(header, rows), results.values())


def marked(label: str, result: Mapping[str, Any]) -> str:
    """Return the label of a result or row, with a mark where its held-out lists are not of today's version."""
    return f"{label} {OF_OTHER_LISTS}" if _of_other_lists(result) else label


def with_note(table: str, results: Iterable[Mapping[str, Any]]) -> str:
    """Return a table with the line that explains the mark, where one of its results is marked."""
    versions = sorted({_lists(result) for result in results if _of_other_lists(result)})
    if not versions:
        return table
    note = f"{OF_OTHER_LISTS} Measured on held-out lists of version {', '.join(versions)}; today's is {LISTS_VERSION}. "
    if _UNVERSIONED in versions:
        note += (
            f"Lists of version {_UNVERSIONED} were ordered by building, so that the first 100 (200, 300) episodes of "
            "`val` saw 2 (3, 5) of its 14 buildings; intervals of that time resample episodes alone."
        )
    return f"{table}\n\n{note.rstrip()}"


def _of_other_lists(result: Mapping[str, Any]) -> bool:
    return _lists(result) != LISTS_VERSION


def _lists(result: Mapping[str, Any]) -> str:
    return str(result.get("lists", _UNVERSIONED))


def read_result(path: Path) -> dict[str, Any]:
    """Read a file written by `eval --json`; raises `SideAgentsError` when it is none."""
    try:
        result = read_json(path)
        result["metrics"]["success"]["mean"]
    except (KeyError, TypeError) as error:
        raise SideAgentsError(f"{path}: not a result of `sideagents eval --json` ({error})") from None
    return dict(result)
