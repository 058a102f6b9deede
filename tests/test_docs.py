"""The documentation says what the code does: generated pages, quoted commands, links, examples, names."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml

from make_bases import SETTINGS, VIEWS
from sideagents import ALPHAS, MERGES, METHODS, SIDES, FrozenBase, list_bases, save_base
from sideagents.adapt import ADAPTATIONS
from sideagents.adapt.adapt_config import AdaptConfig
from sideagents.bases import SHIPPED
from sideagents.bases.encoder import MidLevelEncoder
from sideagents.config.typed import key_paths, load_config
from sideagents.jobs.pretrain import PretrainConfig
from sideagents.jobs.relevance import RelevanceConfig
from sideagents.language.glue import TASKS
from sideagents.language.nlp_config import NlpConfig
from sideagents.language.nlp_methods import METHODS as LANGUAGE_METHODS
from sideagents.lifelong.learners import LEARNERS
from sideagents.lifelong.lifelong_config import LifelongConfig
from sideagents.lifelong.metrics import average_rank
from sideagents_envs.config import TaskConfig
from sideagents_envs.versions import LISTS_VERSION
from sideagents_policies.cli.common import OVERRIDE, Parser
from sideagents_policies.cli.main import build_parser
from sideagents_policies.config import AgentConfig
from sideagents_policies.evaluate.agents import BASELINES
from sideagents_policies.paths import config_kind, config_names, config_path
from studies.cells import newest_rows

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md") if (ROOT / name).is_file())]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PLACEHOLDER = re.compile(r"\[.*|.*\.\.\.")  # of a synopsis such as `sideagents pretrain [CONFIG.yaml] ...`


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text()) if language in languages]


def shell_lines(page: Path) -> Iterator[list[str]]:
    """Yield the words of every command in the page's shell blocks, without comments and prompts."""
    for text in blocks(page, "sh", "bash", "console"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                yield words


def quoted(page: Path) -> Iterator[list[str]]:
    """Yield the words behind `sideagents` of every command line in the page, in blocks and in running text."""
    for words in shell_lines(page):
        if "sideagents" in words:
            yield words[words.index("sideagents") + 1 :]
    for text in INLINE.findall(FENCE.sub("", page.read_text())):
        words = text.split()
        if words[0] == "sideagents" and len(words) > 1:
            yield [word for word in words[1:] if not PLACEHOLDER.fullmatch(word)]


def pages(chosen: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", chosen, ids=lambda page: page.stem)


# generated


def test_configuration_page_is_what_the_code_says():
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == script("document_config").page(), "run: python scripts/document_config.py > docs/configuration.md"
    assert all(f"`{key}`" in page for key in key_paths(AgentConfig) if key != "scenes.navmesh")
    assert all(f"`{key}`" in page for key in key_paths(RelevanceConfig))
    assert all(f"`{key}`" in page for key in key_paths(LifelongConfig) if key not in ("ewc", "psp", "pnn", "distil"))


def test_a_key_without_meaning_is_noticed(monkeypatch):
    generator = script("document_config")
    monkeypatch.delitem(generator.MEANINGS, "ppo.gamma")
    with pytest.raises(ValueError, match=r"ppo\.gamma: needs one description"):
        generator.page()
    monkeypatch.setitem(generator.MEANINGS, "ppo.gamma", "discount")
    monkeypatch.setitem(generator.MEANINGS, "ppo.gama", "discount")
    with pytest.raises(ValueError, match=r"not there: ppo\.gama"):
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


# commands


@pages(PAGES)
def test_quoted_commands_parse(page):
    for words in quoted(page):
        line = shlex.join(["sideagents", *words])
        if words[-1].startswith("-") or len(words) > 2 or not all(word.islower() and word.isalpha() for word in words):
            check_command(words, line)
        else:  # the name of a verb
            with pytest.raises(SystemExit) as leaving:
                build_parser().parse_args([*words, "--help"])
            assert leaving.value.code == 0, line


def check_command(words: list[str], line: str) -> None:
    """Parse a command as the program does, and resolve the configuration that it names, without running it."""
    args, rest = build_parser().parse_known_args(words)
    if "--version" in words:
        return
    args.parser.take_rest(args, rest)
    free = getattr(args, "words", [])
    overrides = [word for word in free if OVERRIDE.match(word)]
    targets = [word for word in free if word not in overrides]
    if words[0] == "pretrain":
        load_config(PretrainConfig, None, ["task=depth", "data=x", *overrides])
    elif words[0] == "lifelong":
        assert set(targets) <= set(config_names()), line
        load_config(LifelongConfig, config_path(targets[0]) if targets else None, overrides, config_path)
    elif words[0] == "relevance":
        assert set(targets) <= set(config_names()), line
        load_config(RelevanceConfig, config_path(targets[0]) if targets else None, overrides, config_path)
    elif words[0] == "adapt":
        assert set(targets) <= set(config_names()), line
        load_config(AdaptConfig, config_path(targets[0]) if targets else None, overrides, config_path)
    elif words[0] == "nlp":
        assert [*map(config_kind, map(config_path, targets))] == ["nlp"], line
        load_config(NlpConfig, config_path(targets[0]), overrides, config_path)
    elif words[0] in ("train", "demos", "clone", "check"):
        bundled = [name for name in targets if name.startswith("pointnav/")]
        assert set(bundled) <= set(config_names()), line
        load_config(AgentConfig, config_path(bundled[0]) if bundled else None, overrides, config_path)
    else:
        load_config(AgentConfig, None, overrides)
    if words[0] == "eval" and args.agent is not None and args.agent.islower():
        assert args.agent in BASELINES.names(), line


@pytest.mark.parametrize(
    "line",
    [
        "train pointnav/sidetune_curvature --inti runs/a",
        "train pointnav/sidetune_curvatur",
        "clone pointnav/sidetune_curvature clone.epoch=3",
        "eval --agent straigth",
        "eval runs/a --episodes many",
        "pretrain task=depht data=x",
        "lifelong lifelong/icifa",
        "lifelong lifelong/icifar stepz=3",
        "nlp nlp/glue learning_rat=1e-3",
        "scenes episodes house.glb",
    ],
)
def test_a_wrong_command_would_be_noticed(line):
    with pytest.raises((ValueError, AssertionError)):
        check_command(shlex.split(line), line)


@pages(PAGES)
def test_scripts_and_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    text = page.read_text()
    named = {words[1] for words in shell_lines(page) if words[0] == "make"} | set(re.findall(r"`make (\w+)`", text))
    assert named <= targets
    for path in re.findall(r"\bscripts/\w+\.py\b|\btests/[\w/]+\.py\b", text):
        assert (ROOT / path).is_file(), path


def verbs_of(parser: Parser) -> dict[str, Parser]:
    """Return the parsers of all verbs by their words, families and their members."""
    found: dict[str, Parser] = {}
    groups = parser._subparsers._group_actions if parser._subparsers is not None else []
    for group in groups:
        for name, verb in group.choices.items():
            found |= {name: verb} | {f"{name} {rest}": member for rest, member in verbs_of(verb).items()}
    return found


def test_every_verb_and_option_is_documented():
    text = "".join(page.read_text() for page in DOCS)
    lines = [" ".join(words) for page in DOCS for words in quoted(page)]
    verbs = verbs_of(build_parser())
    assert {"train", "scenes render"} <= set(verbs)
    for words, verb in verbs.items():
        assert any(f"{line} ".startswith(f"{words} ") for line in lines), words
        options = [option for action in verb._actions for option in action.option_strings if option[:2] == "--"]
        assert [option for option in options if option not in text and option != "--help"] == [], words


# links and examples


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pages(PAGES)
def test_links_and_pictures_exist(page):
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {target}"


EXTRAS = ("transformers", "timm", "peft", "habitat")  # modules that only an extra installs


@pages(PAGES)
def test_python_blocks_compile_and_import(page):
    for text in blocks(page, "python", "py"):
        tree = ast.parse(text)
        compile(tree, f"{page.name}", "exec")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in EXTRAS:
                pytest.importorskip(str(node.module).split(".")[0])
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page.name}: {ast.unparse(node)}"


@pages(PAGES)
def test_yaml_and_json_blocks_are_valid(page, tmp_path):
    for text in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(text), dict)
        file = tmp_path / "config.yaml"
        file.write_text(text)
        load_config(AgentConfig, file, (), config_path)
    for text in blocks(page, "json"):
        json.loads(text)


def test_everything_that_can_be_named_is_named():
    text = (ROOT / "docs" / "perception.md").read_text()
    adapting = (ROOT / "docs" / "adapt.md").read_text()
    assert [name for name in (*ADAPTATIONS.names(), *LEARNERS.names()) if f"`{name}`" not in adapting] == []
    language = (ROOT / "docs" / "language.md").read_text()
    assert [name for name in (*LANGUAGE_METHODS.names(), *TASKS) if f"`{name}`" not in language] == []
    names = {*SHIPPED, *METHODS.names(), *MERGES.names(), *SIDES.names()}
    families = {"published": "taskonomy:TASK", "timm": "timm:MODEL"}
    ours = [row for row in list_bases() if row["kind"] in ("control", "vision", *families)]
    names |= {families.get(row["kind"], row["name"]) for row in ours}
    missing = {name for name in names if f"`{name}`" not in text}
    missing |= {name for name in ALPHAS.names() if f"`{name}" not in text}
    assert not missing
    evaluation = (ROOT / "docs" / "evaluation.md").read_text()
    assert all(f"`{name}`" in evaluation for name in BASELINES.names())


def test_figures_in_the_text_are_the_defaults():
    task = TaskConfig()
    text = (ROOT / "docs" / "environments.md").read_text()
    assert f"forward {task.forward_m:g} m" in text
    assert f"turn left {task.turn_deg:g}°" in text
    assert f"After {task.max_steps} steps" in text
    assert f"{task.map_cells} x {task.map_cells} cells over {task.map_size_m:g} m" in text
    rewards = (task.slack_reward, task.distance_reward, task.success_reward)
    words = ", ".join(f"{reward:g}" for reward in rewards)
    assert f"The defaults are {words} and {task.collision_penalty:g}" in text


@pages(DOCS)
def test_every_page_is_listed_in_the_index(page):
    index = (ROOT / "docs" / "index.md").read_text()
    assert page.name == "index.md" or f"]({page.name})" in index
