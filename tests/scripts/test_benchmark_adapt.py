"""The benchmark of adapting: rows of every method, fine-tuning among them, figures that can be right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.adapt import benchmark_adapt, benchmark_cached_codes, benchmark_cached_epoch
from sideagents.bases import load_base
from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError

ROOT = Path(__file__).resolve().parents[2]


def test_rows_of_chosen_methods_and_of_fine_tuning():
    said: list[str] = []
    rows = benchmark_adapt(["features", "taps"], "cifar:resnet20", batch=4, repeats=2, progress=said.append)
    values = {row["name"]: row for row in rows}
    assert len(rows) == 15
    assert values["adapt_peak_mb_taps"]["value"] > values["adapt_activation_mb_taps"]["value"]
    base = 4e-6 * sum(p.numel() for p in load_base("cifar:resnet20").parameters())
    held = values["adapt_total_mb_features"]["value"] - values["adapt_peak_mb_features"]["value"]
    assert base < held < 1.2 * base  # and a readout, which learns
    held = values["adapt_total_mb_finetune"]["value"] - values["adapt_peak_mb_finetune"]["value"]
    assert 3.0 * base < held < 3.4 * base  # the base, its copy and the copy's momentum
    assert values["adapt_step_ms_finetune"]["ratio"] == 1.0
    assert values["adapt_step_ms_features"]["ratio"] < 1.0
    assert values["adapt_step_ms_features"]["low"] <= values["adapt_step_ms_features"]["value"]
    assert values["adapt_trainable_features"]["value"] == 0
    assert values["adapt_activation_mb_features"]["value"] < 0.1 * values["adapt_activation_mb_finetune"]["value"]
    assert values["adapt_activation_mb_taps"]["value"] > 0.9 * values["adapt_activation_mb_finetune"]["value"]
    assert said[-1] == "round 2 of 2"


def test_cached_codes_spare_the_base(monkeypatch):
    runs: list[int] = []
    original = FrozenBase.forward
    monkeypatch.setattr(FrozenBase, "forward", lambda self, images: runs.append(len(images)) or original(self, images))
    row = benchmark_cached_codes(batch=2, repeats=3)
    assert row["low"] <= row["value"] <= row["high"]
    assert runs.count(2) == 1 + 4  # for the codes, and once in each step without them


def test_an_epoch_of_fixed_features_reads_codes_in_place_of_running_the_base(monkeypatch):
    runs: list[int] = []
    original = FrozenBase.forward
    monkeypatch.setattr(FrozenBase, "forward", lambda self, images: runs.append(len(images)) or original(self, images))
    row = benchmark_cached_epoch(batch=4, repeats=2, items=12)
    assert row["name"] == "adapt_cached_epoch"
    assert row["low"] <= row["value"] <= row["high"]
    assert row["value"] > 1.0
    assert min(row["seconds"], row["encoding_s"]) > 0
    assert (runs.count(12), runs.count(4)) == (1, 2 * 3)  # for the cache, and in each step without it


def test_an_unknown_method_is_refused():
    with pytest.raises(SideAgentsError, match="unknown method 'tabs'"):
        benchmark_adapt(["tabs"], "cifar:resnet20", batch=2, repeats=1)


def test_the_command(tmp_path):
    words = ["adapt", "--only", "features", "--base", "cifar:resnet20", "--batch", "2", "--repeats", "1"]
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *words, "--json", str(tmp_path / "rows.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["name"] for row in rows} >= {"adapt_step_ms_features", "adapt_step_ms_finetune"}
