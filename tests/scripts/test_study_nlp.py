"""Tables of language tasks: every cell has a configuration that can run, rates are chosen first, tables by hand."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sideagents.errors import SideAgentsError
from sideagents_policies.jobs import read_job
from studies import nlp as module
from studies.cells import Cell
from studies.nlp import (
    best_rate,
    curves_table,
    designs_table,
    glue_table,
    keys_of,
    main,
    plot,
    settings_of,
    squad_table,
    words_of,
)
from studies.nlp_grid import CURVES, DESIGNS, GLUE, METHODS, RATES
from tiny_bert import tiny_model


def put(results: Path, table: str, key: dict[str, Any], **row: Any) -> None:
    results.mkdir(exist_ok=True)
    about = {"cell": key, "config_hash": settings_of(key, results), "trainable": 1000, "peak_bytes_total": 4_000_000}
    with (results / f"nlp_{table}.jsonl").open("a") as file:
        file.write(json.dumps(about | row) + "\n")


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """Write rows of a search in which the higher rate is the better one."""
    for key in keys_of("search", [1]):
        put(tmp_path, "search", key, held_out=[0.0, float(key["rate"])])
    return tmp_path


def test_every_cell_can_run_and_has_settings_of_its_own(searched: Path) -> None:
    for table in ("search", "glue", "memory", "curves", "designs", "squad"):
        keys = keys_of(table, [1, 2])
        for key in keys:
            read_job("nlp", *words_of(key, searched))
        settings = [settings_of(key, searched) for key in keys]
        assert len(set(settings)) == len(keys)
    assert len(keys_of("search", [1])) == len(GLUE) * sum(map(len, RATES.values()))
    assert len(keys_of("glue", [1, 2, 3])) == len(GLUE) * (len(METHODS) + 2 * 4)
    assert set(RATES) == set(METHODS)


def test_the_rate_is_chosen_by_held_out_data(tmp_path: Path, searched: Path) -> None:
    for method, rates in RATES.items():
        assert best_rate("RTE", method, searched) == max(rates)
    searched_words = words_of({"table": "search", "task": "RTE", "method": "full", "rate": 2e-4, "seed": 1}, searched)
    assert words_of({"table": "glue", "task": "RTE", "method": "full", "seed": 1}, searched) == searched_words
    with pytest.raises(SideAgentsError, match="the rate of full on RTE is not chosen yet: run the table search first"):
        best_rate("RTE", "full", tmp_path / "empty")


def test_tables_by_hand(searched: Path) -> None:
    for seed in (1, 2):
        for method in ("lora", "lst_random"):
            for number, task in enumerate(GLUE):
                key = {"table": "glue", "task": task, "method": method, "seed": seed}
                value = 0.5 + 0.1 * number + 0.02 * seed - 0.01 * (method != "lora")
                put(searched, "glue", key, score=value)
    for key in keys_of("memory", [1]):
        put(searched, "memory", key, peak_bytes_total=10_000_000 if key["method"] == "lora" else 4_000_000)
    for key in keys_of("paired", [1]):
        if key["method"] == "lst_random":
            put(searched, "paired", key, difference=-0.01, low=-0.03, high=0.01)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in glue_table(searched).splitlines()]
    assert lines[2][:3] == ["lora", "53.0 ± 1.4", "63.0 ± 1.4"]
    assert lines[3][6:] == ["72.0", "-1.0 ± 0.9", "1,000", "4", "0.40"]  # 2 / sqrt(5) = 0.89
    assert lines[2][6:] == ["73.0", "-", "1,000", "10", "1.00"]
    with (searched / "nlp_glue.jsonl").open("a") as file:  # a row that was made with other settings
        old = {"cell": {"table": "glue", "task": "RTE", "method": "full", "seed": 1}, "config_hash": "old", "score": 1}
        file.write(json.dumps(old) + "\n")
    assert "full" not in glue_table(searched)
    assert glue_table(searched / "empty") == curves_table(searched / "empty") == squad_table(searched / "empty") == ""


def test_other_sides_stand_below_the_rival_at_its_better_rate(searched: Path) -> None:
    for task in ("CoLA", "MRPC", "STS-B"):
        for rate, value in zip(RATES["lora"], (0.5, 0.4), strict=True):
            key = {"table": "search", "task": task, "method": "lora", "rate": rate, "seed": 1}
            put(searched, "search", key, held_out=[value, 0.1])
    assert designs_table(searched) == ""
    for key in keys_of("designs", [1]):
        if (key["method"], key["task"]) != ("r=2", "MRPC"):
            put(searched, "designs", key, held_out=[0.2, 0.3, 0.1])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in designs_table(searched).splitlines()]
    assert lines[2] == ["lora", "50.0", "50.0", "50.0", "50.0", "1,000"]
    assert lines[3] == ["r=8", "30.0", "30.0", "30.0", "30.0", "1,000"]
    assert len(lines) == 2 + len(DESIGNS)  # one is not whole


def test_pairs_are_resampled_together(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = searched / "glue" / "RTE"
    folder.mkdir(parents=True)
    truths = [number % 2 for number in range(40)]
    rows = "".join(f"{n}\ta\tb\t{('entailment', 'not_entailment')[t]}\n" for n, t in enumerate(truths))
    (folder / "dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n" + rows)
    monkeypatch.setenv("SIDEAGENTS_DATA", str(searched))
    answers = {"lora": [1 - t if n < 10 else t for n, t in enumerate(truths)], "full": truths}
    for method, found in answers.items():
        key = {"table": "glue", "task": "RTE", "method": method, "seed": 1}
        put(searched, "glue", key, score=float(np.mean(np.equal(found, truths))), answers=found)
    key = {"table": "paired", "task": "RTE", "method": "full", "seed": 1}
    row = module.work(Cell(key, "", 0.0), searched)
    assert row["difference"] == pytest.approx(0.25)
    assert 0.1 < row["low"] < 0.25 < row["high"] < 0.45
    assert row["high"] - row["low"] == pytest.approx(4 * (0.25 * 0.75 / 40) ** 0.5, abs=0.05)


def test_curves_are_drawn(searched: Path, tmp_path: Path) -> None:
    with pytest.raises(SideAgentsError, match="nothing of the curves is measured yet"):
        plot(tmp_path, tmp_path / "curves.png")
    for number, method in enumerate(CURVES):
        key = {"table": "curves", "task": "CoLA", "method": method, "seed": 1}
        put(searched, "curves", key, score=0.5, peak_bytes_total=1_000_000 * (number + 1))
    assert plot(searched, tmp_path / "curves.png").stat().st_size > 5000
    assert len(curves_table(searched).splitlines()) == 2 + len(CURVES)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = ["--results", str(tmp_path)]
    assert main(["--show", *results]) == 0
    assert "no cell is done yet" in capsys.readouterr().out
    assert main(["glue", "paired", *results]) == 0
    shown = capsys.readouterr().out
    assert "glue: 85 cells wait for others" in shown
    assert "paired: 70 cells wait for others" in shown
    with pytest.raises(SystemExit):
        main(["glu"])


def test_a_small_table_from_search_to_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed (the `nlp` extra)")
    model = tiny_model(tmp_path / "tiny")
    folder = tmp_path / "glue" / "RTE"
    folder.mkdir(parents=True)
    head = "index\tsentence1\tsentence2\tlabel\n"
    lines = [f"{n}\tthe man\tthe dog\t{('entailment', 'not_entailment')[n % 2]}\n" for n in range(20)]
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text(head + "".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "GLUE", ("RTE",))
    monkeypatch.setattr(module, "METHODS", {name: METHODS[name] for name in ("features", "lora")})
    small = [f"model={model}", "length=32", "epochs=1", f"cache={tmp_path / 'cache'}"]
    words = module.words_of

    def shrunk(key: Any, results: Path) -> tuple[str, list[str]]:
        config, found = words(key, results)
        return config, [*found, *small]

    monkeypatch.setattr(module, "words_of", shrunk)
    results = tmp_path / "results"
    assert main(["search", "glue", "paired", "--seeds", "1", "--results", str(results)]) == 0
    rows = {name: [json.loads(x) for x in (results / f"nlp_{name}.jsonl").read_text().splitlines()] for name in SMALL}
    assert {name: len(found) for name, found in rows.items()} == SMALL
    assert all("score" not in row for row in rows["search"])
    assert len(rows["glue"][0]["answers"]) == 20
    assert len(list((tmp_path / "runs").iterdir())) == 4  # the search's runs were judged, not trained again


SMALL = {"search": 4, "glue": 2, "paired": 1}
