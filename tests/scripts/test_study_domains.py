"""Many domains: the cells, what they rest on, the table, and two of them run for real at small size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sideagents.adaptation.adapt_config import AdaptConfig
from sideagents.bases.resnet26 import ResNet26
from sideagents.bases.saved import save_base
from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError
from sideagents_policies.paths import load_named
from studies import domains as module
from studies.cells import Cell, read_rows
from studies.domains import DOMAINS, METHODS, OFTEN, keys_of, main, table_of, words_of, work


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow ResNet-26 in a file."""
    torch.manual_seed(0)
    frozen = FrozenBase(ResNet26(factor=0.125), "narrow", (32, 32))
    return save_base(tmp_path_factory.mktemp("base") / "base.safetensors", frozen, "resnet26", {"factor": 0.125}, {})


def test_cells_and_their_configurations() -> None:
    keys = keys_of()
    assert len(keys) == len(DOMAINS) * (len(METHODS) + 1 + 2 * len(OFTEN))
    assert all(key["seed"] == 1 for key in keys[: len(DOMAINS) * (len(METHODS) + 1)])
    for key in keys:
        config = load_named(AdaptConfig, module.CONFIG, words_of(key, Path("base.safetensors")))
        assert config.seed == key["seed"]
    last = [key["method"] for key in keys if key["seed"] == 1][-len(DOMAINS) :]
    assert last == ["svd"] * len(DOMAINS)  # after `parallel`, which it compresses


def test_settings_know_the_base_and_the_method(base: Path) -> None:
    key = {"domain": "mnist", "method": "parallel", "seed": 1}
    assert module.settings_of(key, base) == module.settings_of(key, base)
    assert module.settings_of(key | {"method": "svd"}, base) != module.settings_of(key, base)
    assert module.settings_of(key | {"seed": 2}, base) != module.settings_of(key, base)


def test_the_table_by_hand(tmp_path: Path) -> None:
    def row(method: str, domain: str, seed: int, accuracy: float, multiple: float) -> dict[str, Any]:
        return {
            "cell": {"method": method, "domain": domain, "seed": seed}, "accuracy": accuracy, "multiple": multiple,
            "judged": 2500,
        }  # fmt: skip

    rows = [row("finetune", domain, 1, 0.5, 2.0) for domain in DOMAINS]
    rows += [row("finetune", "mnist", 2, 0.6, 2.0), row("parallel", "cifar", 1, 0.25, 1.125)]
    lines = {
        cells[0]: cells[1:]
        for cells in ([w.strip() for w in line.split("|")[1:-1]] for line in table_of(rows).splitlines())
    }
    assert lines["finetune"] == [*["50.00 [48.04, 51.96]"] * 4, "55.00 ± 7.07", "6.00"]  # 1.96 * 50 / 50
    assert lines["parallel"][1:] == ["-", "-", "-", "-", f"{1 + 5 * 0.125:.2f}"]
    assert module.plot(rows, tmp_path / "trade.png").stat().st_size > 1000
    with pytest.raises(SideAgentsError, match="no method is measured in every domain yet"):
        module.plot(rows[1:], tmp_path / "none.png")


def test_parallel_adapters_and_their_compression(
    base: Path,
    cifar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    common = [f"data={cifar}", "classes=2", "epochs=1", "batch_size=16", "threads=1"]
    monkeypatch.setattr(module, "DOMAINS", {"a": [*common, "first_class=0"], "b": [*common, "first_class=2"]})
    cells = [Cell({"domain": d, "method": m, "seed": 1}, "", 0.0) for m in ("parallel", "svd") for d in ("a", "b")]
    with pytest.raises(SideAgentsError, match="run these cells"):
        work(cells[2], base)
    rows = [work(cell, base) for cell in cells]
    monkeypatch.setattr(module, "_DRAWN", "taps_1")
    drawn = ["--show", "--base", str(base), "--results", str(tmp_path), "--layers", str(tmp_path / "layers.png")]
    with pytest.raises(SideAgentsError, match="`taps_1` is needed in every domain, run these cells here first"):
        main(drawn)
    for domain in ("a", "b"):
        work(Cell({"domain": domain, "method": "taps_1", "seed": 1}, "", 0.0), base)
    assert main(drawn) == 0
    assert (tmp_path / "layers.png").stat().st_size > 1000
    assert rows[0]["classes"] == 2
    assert rows[2]["trainable"] < rows[0]["trainable"]
    assert rows[2]["multiple"] < rows[0]["multiple"]
    assert all(0.0 <= row["accuracy"] <= 1.0 for row in rows)


def test_the_command_without_a_base_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SideAgentsError, match="no such base; `sideagents adapt vision/resnet26_cifar` trains it"):
        main(["--base", str(tmp_path / "none.safetensors"), "--results", str(tmp_path)])
    assert main(["--show", "--results", str(tmp_path)]) == 0
    assert "no cell is done yet" in capsys.readouterr().out
    assert read_rows(tmp_path / "domains.jsonl") == []
