"""The documentation says what the code does: quoted commands, links, examples, names."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from doc_pages import DOCS, FENCE, PAGES, ROOT, blocks, pages, quoted, shell_lines
from sideagents import ALPHAS, MERGES, METHODS, SIDES, list_bases
from sideagents.adaptation import ADAPTATIONS
from sideagents.bases import SHIPPED
from sideagents.config.typed import load_config
from sideagents.jobs.job import JOBS
from sideagents.language.glue import TASKS
from sideagents.language.nlp_methods import METHODS as LANGUAGE_METHODS
from sideagents.lifelong.learners import LEARNERS
from sideagents_envs.config import TaskConfig
from sideagents_policies.cli.common import OVERRIDE, Parser
from sideagents_policies.cli.main import build_parser
from sideagents_policies.config import AgentConfig
from sideagents_policies.evaluate.agents import BASELINES
from sideagents_policies.paths import config_kind, config_names, config_path

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


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
    if words[0] in JOBS.names():
        job = JOBS.get(words[0])
        assert {config_kind(config_path(name)) for name in targets} <= {job.kind}, line
        needed = [] if job.needs_file else ["task=depth", "data=x"]
        load_config(job.config, config_path(targets[0]) if targets else None, [*needed, *overrides], config_path)
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
