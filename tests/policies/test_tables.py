"""Tables of results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sideagents.errors import SideAgentsError
from sideagents_envs.versions import LISTS_VERSION
from sideagents_policies.evaluate.tables import markdown_table, read_result, results_table

STAT = {"mean": 0.5, "low": 0.4, "high": 0.61}


def test_markdown_is_aligned() -> None:
    assert markdown_table(["a", "long"], [["xyz", "1"]]) == "| a   | long |\n|-----|------|\n| xyz | 1    |"


def test_results_table() -> None:
    metrics = {"success": STAT, "nav_reward": {"mean": 9.126, "low": 8.0, "high": 10.0}}
    result = {"episodes": 994, "buildings_played": 14, "lists": LISTS_VERSION, "metrics": metrics}
    text = results_table({"expert": result}, ["success", "nav_reward"])
    assert "| expert | 14        | 994" in text
    assert "†" not in text
    assert "0.500 [0.400, 0.610]" in text
    assert "9.13 [8.00, 10.00]" in text


def test_results_of_other_lists_are_marked() -> None:
    """By what a result says of its lists; one that says nothing is of the first, which were ordered by building."""
    new = {"episodes": 28, "buildings_played": 14, "lists": LISTS_VERSION, "metrics": {"success": STAT}}
    other = new | {"lists": "1.9"}
    silent = {"episodes": 300, "metrics": {"success": STAT}}
    text = results_table({"new": new, "other": other}, ["success"])
    assert "| new     | 14 " in text
    assert "| other † | 14 " in text
    assert text.endswith(f"\n\n† Measured on held-out lists of version 1.9; today's is {LISTS_VERSION}.")
    text = results_table({"new": new, "other": other, "silent": silent}, ["success"])
    assert "| silent † | -  " in text
    assert f"of version 1, 1.9; today's is {LISTS_VERSION}. Lists of version 1 were ordered by building" in text


def test_read_result_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"episodes": 1, "metrics": {"success": STAT}}))
    assert read_result(path)["episodes"] == 1
    path.write_text("{}")
    with pytest.raises(SideAgentsError, match="not a result"):
        read_result(path)
    with pytest.raises(SideAgentsError, match=r"gone\.json"):
        read_result(tmp_path / "gone.json")
