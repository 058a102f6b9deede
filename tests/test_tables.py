"""Tables of results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sideagents.errors import SideAgentsError
from sideagents_policies.tables import markdown_table, read_result, results_table

STAT = {"mean": 0.5, "low": 0.4, "high": 0.61}


def test_markdown_is_aligned() -> None:
    assert markdown_table(["a", "long"], [["xyz", "1"]]) == "| a   | long |\n|-----|------|\n| xyz | 1    |"


def test_results_table() -> None:
    metrics = {"success": STAT, "nav_reward": {"mean": 9.126, "low": 8.0, "high": 10.0}}
    text = results_table({"expert": {"episodes": 994, "metrics": metrics}}, ["success", "nav_reward"])
    assert "| expert | 994" in text
    assert "0.500 [0.400, 0.610]" in text
    assert "9.13 [8.00, 10.00]" in text


def test_read_result_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"episodes": 1, "metrics": {"success": STAT}}))
    assert read_result(path)["episodes"] == 1
    path.write_text("{}")
    with pytest.raises(SideAgentsError, match="not a result"):
        read_result(path)
    with pytest.raises(SideAgentsError, match=r"gone\.json"):
        read_result(tmp_path / "gone.json")
