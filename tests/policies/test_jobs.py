"""The table of jobs: each kind reads, checks and runs as its verb, and every mistake in naming one is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sideagents.errors import ConfigError
from sideagents.jobs.job import JOBS, Job
from sideagents_policies.cli.job_verbs import JOB_VERBS
from sideagents_policies.cli.main import main
from sideagents_policies.jobs import read_job, ready_job
from sideagents_policies.paths import config_kind, config_names, config_path

KINDS = JOBS.names()
BUNDLED = [(kind, name) for name in config_names() if (kind := config_kind(config_path(name))) in KINDS]
ABSENT = {"pretrain": ["task=depth", "data=nowhere"], "relevance": ["bases=[random, curvature]"]}  # beside the defaults


@pytest.fixture(autouse=True)
def _nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDEAGENTS_DATA", raising=False)


def written(kind: str) -> str:
    """Write a configuration of a kind whose data is not there; return its path."""
    Path("mine.yaml").write_text(f"kind: {kind}\n")
    return "mine.yaml"


def test_every_kind_has_one_job_and_one_verb() -> None:
    jobs = [JOBS.get(kind) for kind in KINDS]
    assert [job.kind for job in jobs] == KINDS == sorted(JOB_VERBS)
    assert [job.config.model_fields["kind"].default for job in jobs] == KINDS
    assert len({job.config for job in jobs}) == len(jobs)
    assert {kind for kind, _ in BUNDLED} == {job.kind for job in jobs if job.needs_file}


@pytest.mark.parametrize(("kind", "name"), BUNDLED, ids=[name for _, name in BUNDLED])
def test_bundled_configurations_read_and_say_what_is_absent(kind: str, name: str) -> None:
    config = read_job(kind, name)
    assert (config.kind, config.name) == (kind, name.split("/")[-1])
    missing = [*JOBS.get(kind).missing(config)]
    assert missing[0].startswith("data: no such f")
    with pytest.raises(ConfigError) as caught:
        ready_job(kind, name)
    assert str(caught.value) == missing[0]


@pytest.mark.parametrize("kind", KINDS)
def test_check_and_the_verb_say_the_same_of_absent_data(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [written(kind), *ABSENT.get(kind, [])]
    assert main(["check", *words]) == 0
    shown = capsys.readouterr().out
    assert f"kind: {kind}\n" in shown
    assert "# precision: " in shown
    missing = [line.removeprefix("# missing: ") for line in shown.splitlines() if line.startswith("# missing: ")]
    assert "no such f" in missing[0]
    assert main([kind, *words]) == 2
    assert capsys.readouterr().err == f"error: {missing[0]}\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_mistaken_kind_is_one_line(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = next(name for name in KINDS if name != kind)
    assert main([kind, written(other)]) == 2
    needed = f"one of `kind: {kind}` is needed here"
    assert capsys.readouterr().err == f"error: mine.yaml: is a configuration of kind {other!r}, {needed}\n"
    assert main(["train", written(kind)]) == 2
    agent = f"is a configuration of `sideagents {kind}`, an agent's is needed here"
    assert capsys.readouterr().err == f"error: mine.yaml: {agent}\n"


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_verb_needs(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("seed: 1\n")
    needs_file = JOBS.get(kind).needs_file
    for words in ([], ["mine.yaml"]):  # no configuration, and one without a kind
        assert main([kind, *words]) == 2
        line = "is missing" if not needs_file else "kind 'agent', one of" if words else f"{kind} needs a CONFIG"
        assert line in capsys.readouterr().err
    assert main([kind, "mine.yaml", "second"]) == 2
    assert "unexpected argument 'second'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="unknown key 'sed', did you mean 'seed'"):
        read_job(kind, written(kind), ["sed=2"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_verb_hands_its_options_on_and_shows_the_result(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job, ran = JOBS.get(kind), []

    def run(config: Any, resume: bool, **options: Any) -> tuple[Path, dict[str, int]]:
        ran.append((config.kind, config.seed, resume, options))
        return Path("runs/a_1"), {"score": 7}

    made: Job[Any] = Job(kind, job.config, lambda config: config, lambda config: (), run, lambda result: "a table")
    monkeypatch.setitem(JOBS._targets, kind, made)
    without = JOB_VERBS[kind].without
    words = [written(kind), *ABSENT.get(kind, []), "seed=3"]
    assert main([kind, *words, "--json", "result.json", "--resume"]) == 0
    assert capsys.readouterr().out == "a table\nwrote runs/a_1\n"
    assert json.loads(Path("result.json").read_text()) == {"score": 7}
    assert main([kind, *words, *(word for word, _ in without.values())]) == 0
    assert ran == [(kind, 3, True, dict.fromkeys(without, True)), (kind, 3, False, dict.fromkeys(without, False))]
