"""Transfer and analyses: every cell has a configuration of its own, stacks grow, tables by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sideagents.errors import ConfigError, SideAgentsError
from sideagents.jobs.adapt import adapt_run, missing_data
from studies import vision as module
from studies.vision import MADE, TABLES, main, settings_of, table_of
from vision_jobs import adapt_config


def keys(table: str) -> list[dict[str, Any]]:
    return [{"table": table, **dict(key), "seed": 1} for key in TABLES[table]()]


@pytest.mark.parametrize("table", TABLES)
def test_every_cell_has_settings_of_its_own(table: str) -> None:
    settings = [settings_of(table, key, {}) for key in keys(table)]
    # a stack's cells differ in how often one configuration is run
    assert len(set(settings)) == (len(settings) - 3 if table == "boosting" else len(settings))
    assert settings_of(table, keys(table)[0] | {"seed": 2}, {}) != settings[0]


def row(table: str, loss: float, accuracy: float | None = None, **key: Any) -> dict[str, Any]:
    measure = "loss" if accuracy is None else "accuracy"
    cell = {"table": table, **key, "seed": 1}
    return {"cell": cell, "measure": measure, "loss": loss, "accuracy": accuracy, "alpha": 0.5, "trainable": 1000}


def test_tables_by_hand() -> None:
    rows = [
        row("transfer", 0.25, base="curvature", target="normals", images=100, method="finetune"),
        row("transfer", 1.5, 0.5, base="curvature", target="room", images=100, method="finetune"),
        row("transfer", 0.125, base="curvature", target="normals", images=100, method="sidetune"),
    ]
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in table_of("transfer", rows).splitlines()]
    assert lines[0] == ["method", "trained, without readout", "curvature 100 normals", "curvature 100 room"]
    assert lines[2:] == [["finetune", "1,000", "0.2500", "50.0 %"], ["sidetune", "1,000", "0.1250", "-"]]
    assert table_of("transfer", []) == ""
    again = row("transfer", 0.5, base="curvature", target="normals", images=100, method="finetune")
    again["cell"]["seed"] = 2
    # Student's t of one degree of freedom: 12.706 x 0.1768 / sqrt(2) on either side
    assert "0.3750 [-1.2133, 1.9633]" in table_of("transfer", [*rows, again])
    stack = [row("boosting", 1.0, 0.25, sides="1 x 8")]
    assert "accuracy, %" in table_of("boosting", stack)
    for seed, accuracy in ((2, 0.26), (3, 0.27)):
        stack.append(row("boosting", 1.0, accuracy, sides="1 x 8"))
        stack[-1]["cell"]["seed"] = seed
    assert "26.0 % [23.5, 28.5]" in table_of("boosting", stack)  # 4.303 x 1 / sqrt(3)


def test_stacks_are_read_through_a_norm_in_float32() -> None:
    for key in keys("boosting"):
        config = module.load_named(module.AdaptConfig, "vision/boosting", module.words_of("boosting", key, {}))
        assert (config.norm_groups, config.precision) == (8, "float32")


def test_alpha_is_ranked_against_the_loss() -> None:
    rows = [row("alpha", loss, base=base, target="normals") for base, loss in (("a", 3.0), ("b", 2.0), ("c", 1.0))]
    for number, one in enumerate(rows):
        one["alpha"] = 0.1 * number
    assert "normals: rank correlation of alpha with the loss -1.00 (p = 0.000) over 3 bases" in table_of("alpha", rows)
    assert "rank correlation" not in table_of("alpha", rows[:2])


def test_a_stack_is_trained_floor_by_floor(cifar: Path, tmp_path: Path) -> None:
    options = {"side": "conv", "side_options": {"width": 8}}
    config = adapt_config(cifar, tmp_path, method="sidetune", options=options)
    result = module._boosted(config, 2)
    found = [json.loads((tmp_path / f"adapt_{n}" / "result.json").read_text()) for n in (1, 2)]
    assert result["trainable"] == sum(one["trainable"] for one in found)
    assert result["accuracy"] == found[1]["accuracy"]
    assert module._boosted(config, 1)["accuracy"] == found[0]["accuracy"]
    assert len(list(tmp_path.glob("adapt_*"))) == 2  # no floor was trained twice
    assert found[1]["accuracy"] >= 0.5
    tasks = [json.loads((tmp_path / f"adapt_{n}" / "task" / "task.json").read_text()) for n in (1, 2)]
    assert tasks[1]["base"] == f"{tasks[0]['base']}+side"
    assert tasks[0]["fingerprint"] != tasks[1]["fingerprint"]
    flat, _ = adapt_run(adapt_config(cifar, tmp_path, name="flat"))
    with pytest.raises(ConfigError, match=r"stack_on: .* is a run of features, only side-tuned networks are stacked"):
        adapt_config(cifar, tmp_path, stack_on=str(flat))
    absent = list(missing_data(config.model_copy(update={"stack_on": str(tmp_path / "none")})))
    assert absent == [f"stack_on: {tmp_path / 'none'} is no folder of a finished run"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran: list[dict[str, Any]] = []
    result = {"measure": "loss", "loss": 1.0, "accuracy": None, "alpha": None, "trainable": 1}
    monkeypatch.setattr(module, "work", lambda table, cell, bases: ran.append(dict(cell.key)) or result)
    assert main(["updates", "--only", "target=room", "--results", str(tmp_path)]) == 0
    assert len(ran) == 4
    assert "radam" in capsys.readouterr().out
    with pytest.raises(SideAgentsError, match=MADE["segmentation"].replace("=", ".")):
        main(["transfer", "--only", "base=segmentation", "--results", str(tmp_path)])
    with pytest.raises(SystemExit):
        main(["transfar"])
