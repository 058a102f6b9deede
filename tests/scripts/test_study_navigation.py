"""The navigation tables: which cells there are, what each of them trains, how the rows are shown."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from sideagents.config.typed import config_hash
from sideagents.errors import SideAgentsError
from sideagents.machine.precision import resolved
from sideagents_envs.versions import LISTS_VERSION
from studies import navigation as reproduce
from studies.cells import Cell
from studies.navigation import STEPS, config_of, keys_of, main, settings_of, table_of

STAT = {"mean": 0.5, "low": 0.4, "high": 0.6}


def test_cells() -> None:
    assert len(keys_of("bc", [1])) == 11
    assert len(keys_of("ppo", [1, 2])) == 20
    demos = keys_of("demos", [1])
    assert sorted({key["demos"] for key in demos}) == [49, 4900]
    assert {key["base"] for key in demos} == {"denoising"}
    assert len(demos) == 8


def test_every_cell_is_a_configuration_of_its_own() -> None:
    keys = [key for table in ("bc", "ppo", "demos") for key in keys_of(table, [1])]
    configs = [config_of(key) for key in keys]
    for key, config in zip(keys, configs, strict=True):
        assert (config.model.base, config.demos.trajectories) == (key["base"], key["demos"])
        assert config.model.use_rgb == (key["method"] != "blind")
        assert config.model.method == (key["method"] if config.model.use_rgb else "sidetune")
        assert config.task.collision_penalty == 0.0
    hashes = [config_hash(config) for config in configs]
    assert len(set(hashes)) == len(hashes)


def test_cloning_takes_the_same_steps_for_any_number_of_demonstrations() -> None:
    for key in keys_of("demos", [1]):
        config = config_of(key)
        frames = config.demos.trajectories * 60
        assert config.clone.epochs * frames / (config.clone.batch_size * config.workers) == pytest.approx(
            STEPS, rel=0.01
        )


def test_cells_of_other_lists_are_run_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    key = keys_of("bc", [1])[0]
    before = settings_of(key)
    assert settings_of(key) == before
    monkeypatch.setattr(reproduce, "LISTS_VERSION", "1.2")
    assert settings_of(key) != before


def test_a_row_says_where_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"episodes": 28, "buildings": "bundled-v9", "buildings_played": 14, "lists": "9.9", "metrics": {}}
    agent = SimpleNamespace(policy=SimpleNamespace(features_extractor=None))
    for name, value in (("train", Path("run")), ("evaluate_run", said), ("load_agent", agent)):
        monkeypatch.setattr(reproduce, name, lambda *_, value=value: value)
    assert reproduce.work(Cell(keys_of("ppo", [1])[0], "", 0.0)) == said | {
        "alpha": None,
        "precision": resolved("auto"),
    }


def test_rows_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "cell": keys_of("ppo", [1])[0],
        "config_hash": "x",
        "seconds": 90.0,
        "metrics": {"success": STAT, "spl": STAT, "nav_reward": STAT},
        "alpha": None,
    }
    assert "| curvature | sidetune † | -     | 1    | 0.500 [0.400, 0.600]" in table_of([row])
    assert "† Measured on held-out lists of version 1; today's" in table_of([row])
    assert "| curvature | sidetune | -     | 1    | 0.500 [0.400, 0.600]" in table_of([row | {"lists": LISTS_VERSION}])
    assert "†" not in table_of([row | {"lists": LISTS_VERSION}])
    (tmp_path / "navigation_ppo.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["ppo", "--show", "--results", str(tmp_path)]) == 0
    assert "sidetune" in capsys.readouterr().out


def test_unknown_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rl", "--show"])
    assert "choose from bc, ppo, demos" in capsys.readouterr().err


def test_one_of_many_processes_is_no_place_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SideAgentsError, match="run it without torchrun"):
        main(["bc"])
