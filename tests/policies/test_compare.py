"""Comparing evaluations in pairs, and agents without a part of what they see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sideagents.errors import SideAgentsError
from sideagents_policies.cli.main import main
from sideagents_policies.evaluate.compare import compare, comparison_table, read_rows

METRICS = {"success": 0.0, "spl": 0.0, "soft_spl": 0.1, "nav_reward": 1.0, "steps": 10, "collisions": 0}


def put(folder: Path, values: list[float], **changes: Any) -> Path:
    folder.mkdir()
    rows = [
        {
            "scene_id": f"b{i % 3}",
            "episode_id": str(i),
            "buildings": "x",
            "lists": "1",
            **METRICS,
            "success": v,
            **changes,
        }
        for i, v in enumerate(values)
    ]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_what_is_always_better_has_an_interval_above_zero(tmp_path: Path) -> None:
    first, second = put(tmp_path / "first", [0.0] * 9), put(tmp_path / "second", [1.0] * 9)
    table = comparison_table(compare(first, second))
    success = next(line for line in table.splitlines() if line.startswith("| success"))
    assert [part.strip() for part in success.split("|")[2:6]] == [
        "0.000",
        "1.000",
        "1.000 [1.000, 1.000]",
        "1.000",
    ]
    spl = next(line for line in table.splitlines() if line.startswith("| SPL"))
    assert "0.000 [0.000, 0.000]" in spl
    assert "0.500" in spl  # no difference: half above
    assert table.endswith("9 episodes in 3 buildings; differences are second minus first")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "holds no episodes"),
        ("{}\n", "line 1: is no episode"),
        ("[1\n", "line 1: is no episode"),
        (None, "no such"),
    ],
)
def test_another_file_is_told_in_a_line(tmp_path: Path, text: str | None, line: str) -> None:
    if text is not None:
        (tmp_path / "episodes.jsonl").write_text(text)
    with pytest.raises(SideAgentsError, match=line) as caught:
        read_rows(tmp_path if text is not None else tmp_path / "none")
    assert "\n" not in str(caught.value)


def test_other_episodes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = put(tmp_path / "first", [0.0] * 4), put(tmp_path / "second", [0.0] * 5)
    assert main(["compare", str(first), str(second)]) == 2
    assert "played other episodes" in capsys.readouterr().err
    assert main(["compare", str(first)]) == 2
    assert main(["compare", str(first), str(first)]) == 0


def test_an_agent_without_its_map(homes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "pointnav/sidetune_curvature"
    assert main(["clone", name, *homes, f"runs={tmp_path}", "name=a"]) == 0
    run = tmp_path / "a_clone_1"
    assert main(["eval", str(run)]) == 0
    assert main(["eval", str(run), "eval.blank=[map, rgb]"]) == 0
    played = {path.name: path for path in (run / "eval").iterdir()}
    blank = next(path for name, path in played.items() if name.endswith("_without-map-rgb"))
    whole = next(path for name, path in played.items() if "without" not in name)
    capsys.readouterr()
    assert main(["compare", str(blank), str(whole), "--json", str(tmp_path / "differences.json")]) == 0
    assert "3 episodes" in (shown := capsys.readouterr().out)
    assert comparison_table(json.loads((tmp_path / "differences.json").read_text())) == shown.rstrip()
    for words in (["eval", str(run)], ["check", name]):
        assert main([*words, "eval.blank=[mpa]"]) == 2
        assert "eval.blank: no key 'mpa', did you mean 'map'" in capsys.readouterr().err
    assert main(["check", "pointnav/blind", "eval.blank=[rgb]"]) == 2
    assert "eval.blank: no key 'rgb' in the observation ['goal', 'map']" in capsys.readouterr().err
