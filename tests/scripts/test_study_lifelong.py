"""The comparisons of sequences: their cells, what they rest on, and what the tables make of rows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sideagents.errors import SideAgentsError
from studies import lifelong as module
from studies.lifelong import (
    COMPARISONS,
    best_strength,
    cells_of,
    keys_of,
    main,
    settings_of,
    table_of,
    words_of,
)

ICIFAR = COMPARISONS["icifar"]


def put(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def searched(results: Path) -> None:
    accuracies = dict(zip(ICIFAR.strengths, (0.5, 0.7, 0.6, 0.4), strict=True))
    put(results / "icifar_ewc.jsonl", [found(s, mean_accuracy=value) for s, value in accuracies.items()])


def found(strength: float, name: str = "icifar", **values: Any) -> dict[str, Any]:
    """A row of the search for EWC's strength, of today's settings."""
    key = {"table": "ewc", "method": "ewc", "strength": strength, "seed": 1}
    settings = settings_of(name, key, Path())
    return {"cell": key, "config_hash": settings, "per_task": [strength], **values}


def test_ewc_waits_for_its_strength(tmp_path, capsys):
    assert len(keys_of("icifar", "methods", [1, 2, 3])) == 3 * len(ICIFAR.methods)
    with pytest.raises(SideAgentsError, match=r"not chosen yet: run the table ewc first \(0 cells are done\)"):
        best_strength("icifar", tmp_path)
    waiting = cells_of("icifar", keys_of("icifar", "methods", [1]), tmp_path)
    assert "ewc" not in {cell.key["method"] for cell in waiting}
    assert "ewc waits" in capsys.readouterr().out
    searched(tmp_path)
    assert best_strength("icifar", tmp_path) == 1e3
    ready = cells_of("icifar", keys_of("icifar", "methods", [1]), tmp_path)
    assert {cell.key["method"] for cell in ready} == set(ICIFAR.methods)
    assert "ewc.strength=1000.0" in words_of("icifar", {"table": "methods", "method": "ewc", "seed": 1}, tmp_path)[1]


def test_settings_do_not_depend_on_where_the_data_lies(tmp_path, monkeypatch):
    key = {"table": "methods", "method": "psp", "seed": 1}
    before = settings_of("icifar", key, tmp_path)
    (tmp_path / "cifar100").mkdir()
    monkeypatch.setenv("SIDEAGENTS_DATA", str(tmp_path))
    assert settings_of("icifar", key, tmp_path) == before
    assert settings_of("icifar", key | {"seed": 2}, tmp_path) != before


def row(method: str, losses: list[list[float | None]], accuracies: list[float]) -> dict[str, Any]:
    return {
        "cell": {"table": "methods", "method": method, "seed": 1},
        "per_task": accuracies,
        "mean_accuracy": sum(accuracies) / len(accuracies),
        "forgetting": 0.125,
        "loss": losses,
        "weights_per_task": [1000, 1000],
        "alpha": [None, None] if method == "psp" else [0.25, 0.75],
    }


def test_the_table_by_hand(tmp_path):
    rows = [
        row("independent", [[0.5, None], [0.5, 0.25]], [0.75, 0.75]),
        row("finetune", [[0.5, None], [1.0, 0.5]], [0.5, 0.5]),
        row("psp", [[0.5, None], [1.0, 0.5]], [0.25, 0.75]),
    ]
    put(tmp_path / "icifar_methods.jsonl", rows)
    lines = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in table_of("icifar", tmp_path).splitlines()
    }
    assert lines["independent"][4] == "1.25"  # best alone on the first task, tied on the second
    assert lines["independent"][1].startswith("75.00 [")
    assert lines["finetune"][2] == "12.50"
    assert (lines["finetune"][6], lines["psp"][6]) == ("0.50 (0.25 to 0.75)", "-")
    assert float(lines["finetune"][3]) == pytest.approx((math.log(1) + math.log(2)) / 2, abs=1e-3)
    assert float(lines["independent"][3]) == 0.0
    assert lines["psp"][3] == "-"  # each task trained first under its key is not measured yet
    with pytest.raises(SystemExit):
        main(["icifar", "methodz"])
    picture = tmp_path / "picture.png"
    assert main(["icifar", "--show", "--results", str(tmp_path), "--plot", str(picture)]) == 0
    assert picture.stat().st_size > 1000
    put(tmp_path / "icifar_first.jsonl", [{"cell": {"method": "psp", "seed": 1}, "loss": [0.5, 0.25]}])
    assert f"{math.log(2) / 2:.3f}" in table_of("icifar", tmp_path)
    put(tmp_path / "icifar_choice.jsonl", [row("no augmentation", [], [0.5, 0.75]) | {"seconds": 1234.0}])
    last = [cell.strip() for cell in table_of("icifar", tmp_path).splitlines()[-1].split("|")[1:-1]]
    assert last == ["no augmentation", "62.50 [50.00, 75.00]", "1,000", "1,234"]


def test_a_cell_that_was_run_again_counts_once(tmp_path):
    searched(tmp_path)
    with (tmp_path / "icifar_ewc.jsonl").open("a") as file:
        file.write(json.dumps(found(1e5, mean_accuracy=0.9)) + "\n")
    assert best_strength("icifar", tmp_path) == 1e5
    put(tmp_path / "icifar_ewc.jsonl", [found(s, mean_accuracy=0.5) | {"config_hash": "old"} for s in ICIFAR.strengths])
    with pytest.raises(SideAgentsError, match="0 cells are done"):  # they were run with other settings
        best_strength("icifar", tmp_path)


def test_cells_are_chosen_over_all_tables(tmp_path, monkeypatch):
    ran: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "work", lambda name, cell, results: ran.append(dict(cell.key)) or {"loss": [[1.0]]})
    monkeypatch.setattr(module, "table_of", lambda name, results: "")
    searched(tmp_path)
    assert main(["icifar", "--only", "method=pnn", "--seeds", "1", "--results", str(tmp_path)]) == 0
    assert ran == [{"table": "methods", "method": "pnn", "seed": 1}]
    with pytest.raises(SideAgentsError, match="no cell matches"):
        main(["icifar", "--only", "method=pmm", "--results", str(tmp_path)])


def test_nothing_is_run_to_show_the_table(tmp_path, capsys):
    assert main(["icifar", "--show", "--results", str(tmp_path)]) == 0
    assert "no cell is done yet" in capsys.readouterr().out
    with pytest.raises(SideAgentsError, match=r"icifar_methods\.jsonl: no method is measured yet"):
        main(["icifar", "--show", "--results", str(tmp_path), "--plot", str(tmp_path / "picture.png")])


def test_losses_are_compared_by_ranks_and_ratios(tmp_path):
    def of(method: str, losses: list[list[float | None]], table: str = "methods") -> dict[str, Any]:
        made = row(method, losses, [0.0, 0.0]) | {"tasks": ["depth", "room"], "per_task": losses[-1]}
        del made["mean_accuracy"]
        made["cell"]["table"] = table
        return made | {"mean_loss": sum(losses[-1]) / 2}

    rows = [of("sidetune", [[0.5, None], [0.5, 0.25]]), of("finetune", [[0.5, None], [1.0, 0.5]])]
    put(tmp_path / "simtaskonomy_methods.jsonl", [*rows, of("independent", [[0.5, None], [0.5, 0.25]])])
    put(tmp_path / "simtaskonomy_variants.jsonl", [of("sum", [[1.0, None], [1.0, 0.125]], "variants")])
    methods, merges = table_of("simtaskonomy", tmp_path).split("\n\n")
    cells = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in methods.splitlines()}
    names = ["seeds", "loss", "forgetting, log-ratio", "rigidity", "average rank", "weights per task", "alpha"]
    assert cells["method"] == names
    lost = f"{math.log(2) / 2:.3f}"
    assert cells["finetune"] == ["1", "0.7500", lost, lost, "3.00", "1,000", "0.50 (0.25 to 0.75)"]
    assert cells["sidetune"][1:5] == ["0.3750", "0.000", "0.000", "1.50"]
    assert [c.strip() for c in merges.splitlines()[0].split("|")[1:-1]] == ["merge", "average rank", "depth", "room"]
    assert [c.strip() for c in merges.splitlines()[3].split("|")[1:-1]] == ["sum", "1.50", "1.0000", "0.1250"]


def test_every_cell_has_a_configuration(tmp_path):
    searched(tmp_path)
    rows = [found(s, "simtaskonomy") for s in COMPARISONS["simtaskonomy"].strengths]
    put(tmp_path / "simtaskonomy_ewc.jsonl", rows)
    for name in COMPARISONS:
        for table in module.TABLES:
            cells = cells_of(name, keys_of(name, table, [1, 2]), tmp_path)
            assert len({cell.config_hash for cell in cells}) == len(cells)
    assert best_strength("simtaskonomy", tmp_path) == 1e4
