"""The benchmark of language methods: rows of every method, sums that add up, what a ladder saves."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

if find_spec("peft") is None:
    pytest.skip("PEFT is not installed (the `nlp` extra)", allow_module_level=True)

from benchmarks.nlp import CHOICES, benchmark_nlp, measure
from sideagents.errors import SideAgentsError
from sideagents.language.cost import training_cost

ROOT = Path(__file__).resolve().parents[2]


def test_a_ladder_keeps_less_than_what_stands_inside_the_network() -> None:
    rows = {name: measure(name, "tiny", 8, 64, 4) for name in CHOICES}
    for name in ("full", "adapters", "lora", "bitfit", "prompt"):
        assert rows["lst"]["activation_bytes"] < 0.7 * rows[name]["activation_bytes"]
    one = rows["lst_one_layer"]
    assert one["peak_bytes_total"] < rows["lst_slice"]["peak_bytes_total"] < rows["lst"]["peak_bytes_total"]
    assert rows["lst_floor"]["peak_bytes_total"] < 0.9 * one["peak_bytes_total"]
    assert rows["lst_recomputed"]["activation_bytes"] < rows["lst"]["activation_bytes"]
    assert rows["lst_dropped"]["peak_bytes_total"] < rows["lst"]["peak_bytes_total"]


def test_a_step_of_one_layer_by_hand() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(64, 64, bias=False)

        def forward(self, x: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(loss=self.layer(x).sum())

    cost = training_cost(Net(), {"x": torch.ones(1, 64)})
    weights = 64 * 64 * 4
    assert (cost["weight_bytes"], cost["trainable"]) == (weights, 64 * 64)
    # a gradient, two moments, and what AdamW needs for its quotient: none of it is less than one weight's size
    assert 3 * weights <= cost["peak_bytes_above_weights"] <= 6 * weights


def test_the_command(tmp_path: Path) -> None:
    words = ["nlp", "--only", "full", "lst", "--size", "tiny", "--batch", "2", "--json", str(tmp_path / "rows.json")]
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    full, lst = json.loads((tmp_path / "rows.json").read_text())
    assert (full["saved_total"], full["method"]) == (0.0, "full")
    assert lst["saved_above_weights"] == pytest.approx(
        1 - lst["peak_bytes_above_weights"] / full["peak_bytes_above_weights"]
    )


def test_what_is_unknown_is_refused() -> None:
    with pytest.raises(SideAgentsError, match="unknown method 'lora2', did you mean 'lora'"):
        benchmark_nlp(["lora2"])
    with pytest.raises(SideAgentsError, match="unknown size 't5-bass', did you mean 't5-base'"):
        benchmark_nlp(size="t5-bass")
