"""The type that networks compute in: asked for or measured, kept, told, and read under its earlier name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from sideagents.adaptation.adapt_config import AdaptConfig
from sideagents.config.typed import config_hash, load_config
from sideagents.errors import ConfigError
from sideagents.jobs.job import JOBS
from sideagents.jobs.pretrain import PretrainConfig
from sideagents.machine import precision as module
from sideagents.machine.devices import processor_name
from sideagents.machine.precision import autocast, base_dtype, resolved, sets_precision, timed, told, with_precision
from sideagents_policies.config import AgentConfig

CONFIGS: list[type[BaseModel]] = [AgentConfig, *(JOBS.get(kind).config for kind in JOBS.names())]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SIDEAGENTS_CACHE", str(tmp_path / "cache"))
    module._fast.cache_clear()
    yield
    module._fast.cache_clear()


@pytest.mark.parametrize(
    ("float32", "bfloat16", "expected"), [(1.0, 0.5, "bfloat16"), (1.0, 0.95, "float32"), (1.0, 8.0, "float32")]
)
def test_auto_is_what_is_fast_here(
    float32: float, bfloat16: float, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[torch.device] = []

    def timing(device: torch.device) -> dict[str, float]:
        asked.append(device)
        return {"float32": float32, "bfloat16": bfloat16}

    monkeypatch.setattr(module, "timed", timing)
    for _ in range(2):
        assert resolved("auto") == expected
    module._fast.cache_clear()  # another process
    assert resolved("auto") == expected
    assert len(asked) == 1  # the answer is kept
    kept = json.loads(next((tmp_path / "cache" / "precision").glob("*.json")).read_text())
    assert kept["device"] == processor_name()
    assert kept["torch"] == torch.__version__
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # other units: another question
    module._fast.cache_clear()
    resolved("auto")
    assert len(asked) == 2


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"seconds": 3}', '{"seconds": {"float32": "x"}}', "\x00"])
def test_a_damaged_answer_is_asked_anew(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "timed", lambda device: {"float32": 1.0, "bfloat16": 0.1})
    resolved("auto")
    file = next((tmp_path / "cache" / "precision").glob("*.json"))
    file.write_text(damage)
    module._fast.cache_clear()
    assert resolved("auto") == "bfloat16"
    assert json.loads(file.read_text())["seconds"]["bfloat16"] == 0.1


def test_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert resolved("auto") in ("float32", "bfloat16")


def test_the_timing_leaves_chance_alone_and_measures_both() -> None:
    before = torch.get_rng_state()
    seconds = timed(torch.device("cpu"))
    assert torch.equal(before, torch.get_rng_state())
    assert set(seconds) == {"float32", "bfloat16"}
    assert all(0 < value < 5 for value in seconds.values())


def test_what_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "timed", lambda device: pytest.fail("nothing is to be measured"))
    net = nn.Linear(4, 4)
    for word, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        assert resolved(word) == word
        with autocast(word):
            assert net(torch.zeros(1, 4)).dtype == dtype
        assert base_dtype(word) == (None if word == "float32" else "bfloat16")
        assert with_precision(AgentConfig(precision=word)).precision == word  # type: ignore[arg-type]
        assert told(AgentConfig(precision=word)) == f"precision: {word} on {processor_name()}"  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_configuration_has_it(kind: type[BaseModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needed = ["task=curvature", "data=x"] if kind is PretrainConfig else []
    config: Any = load_config(kind, None, needed)
    assert config.precision == "auto"
    for word in ("auto", "float32", "bfloat16"):
        config = load_config(kind, None, [*needed, f"precision={word}"])
        assert config.precision == word
    with pytest.raises(ConfigError, match=r"'auto', 'float32' or 'bfloat16'.*did you mean 'bfloat16'"):
        load_config(kind, None, [*needed, "precision=bfloat"])
    # under its earlier name, in a file and behind a command: one line says what it is called now
    file = tmp_path / "old.yaml"
    for value, word in (("true", "bfloat16"), ("false", "float32")):
        file.write_text(f"bf16: {value}\n")
        capsys.readouterr()
        for source, read in (
            (str(file), lambda: load_config(kind, file, needed)),
            (f"override 'bf16={value}'", lambda value=value: load_config(kind, None, [*needed, f"bf16={value}"])),
        ):
            config = read()
            assert config.precision == word
            line = f"{source}: bf16: {value} is called precision: {word} now (auto, bfloat16, float32)\n"
            assert capsys.readouterr().err == line
    file.write_text("bf16: 3\n")
    with pytest.raises(ConfigError, match=r"old.yaml: bf16 is called precision now, one of auto, bfloat16, float32"):
        load_config(kind, file, needed)


def test_digests_are_those_of_the_earlier_name() -> None:
    class Before(BaseModel):
        model_config = ConfigDict(frozen=True)
        seed: int = 1
        bf16: bool = True

    class Now(BaseModel):
        model_config = ConfigDict(frozen=True)
        seed: int = 1
        precision: module.Precision = Field("auto", json_schema_extra=module.WAS_BF16)

    assert config_hash(Now()) == config_hash(Now(precision="bfloat16")) == config_hash(Before())
    assert config_hash(Now(precision="float32")) == config_hash(Before(bf16=False))


def test_sections_are_looked_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("distil: {bf16: false}\n")
    assert load_config(AdaptConfig, file).distil.precision == "float32"
    assert "distil.bf16: false is called distil.precision: float32 now" in capsys.readouterr().err


def test_words_of_a_command() -> None:
    assert sets_precision(["seed=1", "precision=auto"])
    assert sets_precision(["bf16=true"])
    assert not sets_precision(["seed=1", "model.base=precision"])
