"""Relevance: several bases, one ranking by alpha."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sideagents.errors import ConfigError
from sideagents.jobs import relevance as module
from sideagents.jobs.relevance import RelevanceConfig, each_base, relevance, table_of
from sideagents_policies.cli.main import main


def configured(data: Path, runs: Path, **changes: Any) -> RelevanceConfig:
    values: dict[str, Any] = {
        "data": str(data), "runs": str(runs), "bases": ("curvature", "random"), "options": {"side": "conv"},
        "epochs": 2, "batch_size": 32, "alpha_learning_rate": 0.05, "threads": 1,
    }  # fmt: skip
    return RelevanceConfig.model_validate(values | changes)


def test_bases_are_ranked_by_alpha(cifar: Path, tmp_path: Path) -> None:
    config = configured(cifar, tmp_path)
    folder, rows = relevance(config, each_base(config))
    assert {row["base"] for row in rows} == {"curvature", "random"}
    assert rows[0]["alpha"] > rows[1]["alpha"]
    assert all(0.0 < row["alpha"] < 1.0 and row["alpha"] != 0.5 for row in rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapt-curvature_1", "adapt-random_1", "adapt_1"]
    assert json.loads((folder / "result.json").read_text()) == rows
    assert (folder / "plots" / "relevance.png").is_file()
    assert table_of(rows).splitlines()[1].startswith(rows[0]["base"])


def test_a_stopped_ranking_goes_on(cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(cifar, tmp_path / "whole")
    _, expected = relevance(config, each_base(config))
    config = configured(cifar, tmp_path / "cut")
    original = module.adapt_run
    started: list[str] = []

    def stop_in_the_second(one: Any, resume: bool) -> Any:
        started.append(one.base)
        if len(started) == 2:
            raise KeyboardInterrupt
        return original(one, resume=resume)

    with monkeypatch.context() as patched:
        patched.setattr(module, "adapt_run", stop_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            relevance(config, each_base(config))
    _, rows = relevance(config, each_base(config), resume=True)
    assert [{**row, "run": ""} for row in rows] == [{**row, "run": ""} for row in expected]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [
        "adapt-curvature_1",
        "adapt-random_1",
        "adapt_1",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bases": ("curvature", "curvature")}, "give two or more to rank"),
        ({"bases": ("curvature", "curvatur")}, "unknown base 'curvatur'"),
        ({"method": "features"}, "method must be sidetune"),
        ({"options": {"alpha": 0.5}}, "options.alpha learned"),
    ],
)
def test_what_cannot_be_ranked(cifar: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        each_base(configured(cifar, tmp_path, **changes))


def test_the_command(cifar: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"data={cifar}", "bases=[curvature, random]", "classes=2", "per_class=8", "epochs=1"]
    assert main(["check", "vision/relevance_cifar", *words]) == 0
    assert "kind: relevance" in capsys.readouterr().out
    assert main(["relevance", "vision/relevance_cifar", *words, "--json", "ranking.json"]) == 0
    assert len(json.loads((tmp_path / "ranking.json").read_text())) == 2
    assert main(["relevance", "vision/relevance_cifar", "data=nowhere"]) == 2
    assert "data: no such folder nowhere" in capsys.readouterr().err
