"""The environment benchmark on tiny buildings: its rows, that the parts add up, and the script's door."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import env as benchmark
from dataset_on_disk import make_dataset
from sideagents_envs.errors import EnvsError, SceneError

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"


@pytest.fixture
def buildings(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDEAGENTS_CACHE", str(tmp_path / "cache"))
    make_dataset(tmp_path)
    paths = sorted(tmp_path.glob("*/*.glb"))
    monkeypatch.setattr(benchmark, "scenes_root", lambda config, split: paths)
    monkeypatch.setattr(benchmark, "MANY_TRIANGLES", 100)
    return paths


def test_rows_name_value_unit_and_where_the_time_goes(buildings):
    lines = []
    options = {"sizes": [16, 24], "n_envs": 2, "steps": 12, "repeats": 2, "scene": buildings[4]}
    rows = benchmark.benchmark_env(**options, progress=lines.append)
    rates = {row["name"]: row for row in rows if row["unit"] == "steps/s"}
    stem = buildings[4].stem
    assert list(rates) == [
        f"env_steps_per_second_{label}" for label in ("16", "16_4_buildings", "24", f"16_{stem}", f"24_{stem}")
    ]
    assert len(lines) == 5
    for name, row in rates.items():
        label = name.removeprefix("env_steps_per_second_")
        assert row["low"] <= row["value"] <= row["high"]
        assert row["steps"] == 48
        parts = [row["value"] for row in rows if row["name"].endswith(f"_{label}") and row["unit"] == "ms/step"]
        assert len(parts) == 4
        assert 1e3 / row["high"] - 1e-9 <= sum(parts) <= 1e3 / row["low"] + 1e-9
    assert len(rates["env_steps_per_second_16_4_buildings"]["buildings"]) == 4
    json.dumps(rows, allow_nan=False)


def test_too_few_large_buildings(buildings, monkeypatch):
    monkeypatch.setattr(benchmark, "MANY_TRIANGLES", 10**9)
    with pytest.raises(SceneError, match="fewer than 4"):
        benchmark.benchmark_env(sizes=[16], steps=1, repeats=1)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(EnvsError, match="at least 1"):
        benchmark.benchmark_env(steps=0)
    with pytest.raises(EnvsError, match="width"):
        benchmark.benchmark_env(sizes=[-3])


def test_script_ends_with_one_line_for_a_missing_building(tmp_path):
    command = [sys.executable, str(SCRIPT), "env", "--scene", str(tmp_path / "no.glb"), "--json", str(tmp_path / "F")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no.glb" in done.stderr
    assert not (tmp_path / "F").exists()


def test_script_ends_with_one_line_for_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "F.json", tmp_path):
        command = [sys.executable, str(SCRIPT), "env", "--steps", "0", "--json", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {tmp_path}")
        assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
