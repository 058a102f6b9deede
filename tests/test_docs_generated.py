"""What stands in the documentation of the code and of results: generated anew, it is the same."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from doc_pages import ROOT, pages, quoted
from make_bases import SETTINGS, VIEWS
from sideagents import FrozenBase, save_base
from sideagents.bases.encoder import MidLevelEncoder
from sideagents.config.sections import fields_of
from sideagents.config.typed import key_paths
from sideagents.jobs.job import JOBS
from sideagents.lifelong.metrics import average_rank
from sideagents_envs.config import TaskConfig
from sideagents_envs.versions import LISTS_VERSION
from sideagents_policies.config import AgentConfig, PPOConfig
from studies.cells import newest_rows


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configuration_page_is_what_the_code_says():
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == script("document_config").page(), "run: python scripts/document_config.py > docs/configuration.md"
    assert all(f"`{key}`" in page for key in key_paths(AgentConfig) if key != "scenes.navmesh")
    for config in (JOBS.get(kind).config for kind in JOBS.names()):
        sections = [name for name, section in fields_of(config).items() if section is not None]
        assert all(f"`{key}`" in page for key in key_paths(config) if key not in sections)


def test_a_key_without_meaning_is_noticed(monkeypatch):
    generator = script("document_config")
    with monkeypatch.context() as patched:
        patched.setattr(PPOConfig.model_fields["gamma"], "description", None)
        with pytest.raises(ValueError, match=r"ppo\.gamma: needs a description"):
            generator.page()
    with monkeypatch.context() as patched:
        patched.setattr(TaskConfig.__dataclass_fields__["stop"], "metadata", {})
        with pytest.raises(ValueError, match=r"task\.stop: needs a description"):
            generator.page()
    monkeypatch.delitem(generator.JOBS_IN_ORDER, "nlp")
    with pytest.raises(ValueError, match="nlp: belongs into JOBS_IN_ORDER"):
        generator.page()


def test_bases_page_shows_the_cards():
    page = (ROOT / "docs" / "bases.md").read_text()
    assert page == script("document_bases").rendered(page), "run: python scripts/document_bases.py"


def test_a_base_by_hand_is_made_as_all_are():
    lines = [" ".join(words) for words in quoted(ROOT / "docs" / "bases.md")]
    for split, views in VIEWS.items():
        assert any(f"render --split {split} " in line and line.endswith(f"--views {views}") for line in lines), split
    settings = " ".join(f"{key}={value}" for key, value in SETTINGS["curvature"].items())
    assert any(line.startswith("pretrain task=curvature ") and line.endswith(settings) for line in lines)


def test_table_of_bases_from_cards_and_probe(tmp_path):
    generator = script("document_bases")
    torch.manual_seed(0)
    base = FrozenBase(MidLevelEncoder(width=16), "depth")
    card = {"data": {"images": 1200, "buildings": ["a", "b"]}, "held_out_loss": 0.01234, "mean_image_loss": 0.05}
    card |= {"reduction_percent": 75.3, "weights": 53_000, "multiply_adds": 4_700_000}
    save_base(tmp_path / "depth", base, "midlevel", {"width": 16}, card)
    rows = [
        {"cell": {"code": "goal"}, "config_hash": "goal", "accuracy": 0.5},
        {
            "cell": {"code": "depth"},
            "config_hash": f"{base.fingerprint[:12]} {LISTS_VERSION}",
            "accuracy": 0.7125,
            "lists": LISTS_VERSION,
        },
        {"cell": {"code": "pixels"}, "config_hash": "of other weights", "accuracy": 0.9},
    ]
    probe = tmp_path / "probe.jsonl"
    probe.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = generator.rendered("above\n<!-- bases -->\nold\n<!-- /bases -->\nbelow\n", tmp_path, probe)
    assert page.startswith("above\n<!-- bases -->\n")
    assert page.endswith("<!-- /bases -->\nbelow\n")
    assert "old" not in page
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:3] == "| `"]
    size = f"{(tmp_path / 'depth.safetensors').stat().st_size / 1e6:.2f} MB"
    assert cells == [
        ["`depth`", "1,200", "2", "0.0123", "0.0500", "75.3 %", "0.05 M", "4.7 M", size],
        ["`goal` †", "0.500"],  # its row says nothing of the lists
        ["`depth`", "0.713"],
    ]
    with pytest.raises(ValueError, match="markers"):
        generator.rendered("no markers", tmp_path, probe)


@pages([ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "ladder.md"])
def test_tables_show_the_committed_results(page):
    text = page.read_text()
    assert text == script("document_results").rendered(text), "run: python scripts/document_results.py"


def test_blocks_of_results(tmp_path):
    generator = script("document_results")
    stat = {"mean": 0.25, "low": 0.125, "high": 0.5}
    result = {"episodes": 7, "lists": LISTS_VERSION, "metrics": dict.fromkeys(generator.METRICS, stat)}
    (tmp_path / "val").mkdir()
    for name in ("expert", "agent"):
        (tmp_path / "val" / f"{name}.json").write_text(json.dumps(result))
    page = generator.rendered("a\n<!-- val -->\nold\n<!-- /val -->\nb\n<!-- env --><!-- /env -->", tmp_path)
    assert page.startswith("a\n<!-- val -->\n\n| agent ")
    assert page.index("| agent  | -         | 7 ") < page.index("| expert | -         | 7 ")  # baselines come last
    assert "0.250 [0.125, 0.500]" in page
    assert page.endswith("\n<!-- /val -->\nb\n<!-- env -->\n\nNot measured yet.\n\n<!-- /env -->")
    with pytest.raises(ValueError, match="<!-- val --> has no <!-- /val -->"):
        generator.rendered("<!-- val -->")


RESULTS = ROOT / "docs" / "results"
FIVE = ("finetune", "ewc", "psp", "pnn", "sidetune")  # the side-tuning paper's Table 2


def after_blocks(page: Path) -> dict[str, str]:
    """Return what follows each generated block of a page, up to the next block or title, on one line."""
    found = re.findall(r"<!-- /(\w+) -->\n(.*?)(?=\n<!-- |\n#|\Z)", page.read_text(), re.S)
    return {name: " ".join(text.split()) for name, text in found}


def test_beside_each_table_stands_what_the_papers_say():
    beside = after_blocks(ROOT / "docs" / "results.md") | after_blocks(ROOT / "docs" / "ladder.md")
    assert set(beside) == set(script("document_results").BLOCKS) - {"val"}
    assert [name for name, text in beside.items() if "**Paper**" not in text] == []
    judged = re.compile(r"\*\*Here\*\*.*\b(agrees?|contradicts|told|tell|finding)\b")
    compared = {name for name, text in beside.items() if not re.search(r"\*\*Paper\*\*: (no|ST gives no)", text)}
    assert {"bc", "ppo", "demos", "icifar", "simtaskonomy", "transfer", "domains", "glue", "squad"} < compared
    assert [name for name in compared if not judged.search(beside[name])] == []


def errors_of(name: str, *tables: str) -> dict[str, list[float]]:
    """Return the mean error of each task by method, from the rows of `scripts/reproduce_lifelong.py`."""
    rows = [row for table in tables for row in newest_rows(RESULTS / f"{name}_{table}.jsonl")]
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        wrong = [1 - value for value in row["per_task"]] if "mean_accuracy" in row else row["per_task"]
        found.setdefault(row["cell"]["method"], []).append(wrong)
    return {method: np.mean(values, axis=0).tolist() for method, values in found.items()}


def ranks_of(errors: dict[str, list[float]], members: Sequence[str]) -> dict[str, str]:
    ranks = average_rank({name: errors[name] for name in members}, higher_is_better=False)
    return {name: f"{rank:.2f}" for name, rank in ranks.items()}


@pytest.mark.parametrize("table", ["icifar", "simtaskonomy"])
def test_ranks_beside_the_tables_follow_from_the_rows(table):
    said = after_blocks(ROOT / "docs" / "results.md")[table].partition("**Here**")[2]
    names = {"finetune": "fine-tuning", "ewc": "EWC", "psp": "PSP", "pnn": "PNN", "sidetune": "side-tuning"}
    for method, rank in ranks_of(errors_of(table, "methods"), FIVE).items():
        assert f"{names[method]} {rank}" in said, method
    if table == "simtaskonomy":
        errors = errors_of(table, "methods", "variants")
        merges = ranks_of(errors, ("product", "sidetune", "mlp", "film"))
        assert f"MLP {merges['mlp']}, FiLM {merges['film']}, alpha {merges['sidetune']}" in said
        assert f"product {merges['product']}" in said
        parts = ranks_of(errors, ("features", "side", "sidetune"))
        assert f"side alone {parts['side']}, side-tuning {parts['sidetune']}, base alone {parts['features']}" in said


def test_means_over_domains_follow_from_the_rows():
    said = after_blocks(ROOT / "docs" / "results.md")["domains"].partition("**Here**")[2]
    found: dict[str, dict[str, list[float]]] = {}
    for row in newest_rows(RESULTS / "domains.jsonl"):
        found.setdefault(row["cell"]["method"], {}).setdefault(row["cell"]["domain"], []).append(row["accuracy"])
    means = {name: f"{100 * np.mean([np.mean(v) for v in domains.values()]):.1f}" for name, domains in found.items()}
    taps = f"TAPS {means['taps_0.25']}, {means['taps_0.5']} and {means['taps_1']}"
    assert f"fine-tuning {means['finetune']}, series {means['series']}, {taps}" in said
    assert f"parallel {means['parallel']}, SVD {means['svd']}, features {means['features']}" in said
