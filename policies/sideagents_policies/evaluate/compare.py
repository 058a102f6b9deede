"""Two evaluations of the same episodes: differences in pairs, so that the episodes' difficulty cancels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sideagents.errors import SideAgentsError
from sideagents.run.stats import paired_difference
from sideagents.storage.files import read_text
from sideagents_policies.evaluate.tables import COLUMNS, cell, markdown_table

_NAMES = ("scene_id", "episode_id", "buildings", "lists")  # what makes an episode the same
Row = dict[str, Any]


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Return for each metric the means of two evaluations, and `second` minus `first` with its 95 % interval.

    Both are folders that `sideagents eval` wrote (`RUN/eval/NAME`). Buildings are resampled, then episodes; `above` is
    the share of resamples above 0. Raises `SideAgentsError` for other folders, or for other episodes.
    """
    a, b = read_rows(first), read_rows(second)
    names = [_name(row) for row in a]
    if names != [_name(row) for row in b]:
        raise SideAgentsError(
            f"{second}: played other episodes than {first} ({len(b)} and {len(a)} of them); "
            "give both the same --split and --episodes"
        )
    buildings = [row["scene_id"] for row in a]
    metrics = {}
    for metric in COLUMNS:
        before, after = ([float(row[metric]) for row in rows] for rows in (a, b))
        found = paired_difference(after, before, buildings=buildings)
        metrics[metric] = {
            "first": sum(before) / len(a),
            "second": sum(after) / len(b),
            "difference": {"mean": found.mean, "low": found.low, "high": found.high},
            "above": found.probability,
        }
    about = {"first": first.name, "second": second.name, "lists": a[0]["lists"]}
    return {**about, "episodes": len(a), "buildings_played": len(set(buildings)), "metrics": metrics}


def comparison_table(result: Mapping[str, Any]) -> str:
    """Return what `compare` found as Markdown."""
    lines = []
    for metric, title in COLUMNS.items():
        row = result["metrics"][metric]
        means = [f"{row[name]:.3f}" for name in ("first", "second")]
        lines.append([title, *means, cell(metric, row["difference"]), f"{row['above']:.3f}"])
    header = ["metric", result["first"], result["second"], "difference", "share above 0"]
    count = f"{result['episodes']} episodes in {result['buildings_played']} buildings"
    return f"{markdown_table(header, lines)}\n\n{count}; differences are second minus first"


def read_rows(folder: Path) -> list[Row]:
    """Return the episodes of an evaluation, in the list's order; raises `SideAgentsError` for any other folder."""
    path = folder / "episodes.jsonl" if folder.is_dir() else folder
    rows: list[Row] = []
    for number, line in enumerate(read_text(path, SideAgentsError).splitlines(), 1):
        try:
            row = json.loads(line)
            _name(row)
            [float(row[metric]) for metric in COLUMNS]
        except (ValueError, KeyError, TypeError):
            raise SideAgentsError(f"{path}, line {number}: is no episode that `sideagents eval` writes") from None
        rows.append(row)
    if not rows:
        raise SideAgentsError(f"{path}: holds no episodes")
    return rows


def _name(row: Row) -> tuple[str, ...]:
    return tuple(str(row[key]) for key in _NAMES)
