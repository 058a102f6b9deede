"""Three hundred configurations that were mutated by chance, with one seed: each is refused in one line."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from hostile import MARKER, refused, refused_by_command
from sideagents.config.typed import key_paths
from sideagents.jobs.job import JOBS
from sideagents_policies.config import AgentConfig

NEEDED = {"pretrain": {"task": "depth", "data": "nowhere"}, "relevance": {"bases": ["random", "curvature"]}}
KINDS: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "agent": (AgentConfig, {"model": {"base": "random"}}),
    **{kind: (JOBS.get(kind).config, {"kind": kind, **NEEDED.get(kind, {})}) for kind in JOBS.names()},
}
WRONG = (  # as they stand in YAML; no key takes one of them
    "!!int abc", "!!bool x", '!!int ""', "!!float 1e", "!!timestamp 2026-13-45",
    f"!!python/object/apply:open [{MARKER}, w]",
    "9" * 5000, "-" + "9" * 30, "0x" + "f" * 3000, "1e400", ".nan", "-.inf", '"a\\0b"', '"\\ud800"',
    "[[[[3]]]]", "{a: {b: 3}}", "${nothing}", "${oc.env:HOME}", "*nothing", "&a [*a]", "[" * 2000,
    "!!timestamp 2026-99-99T", "'unfinished", "- 1: 2\n- 3",
)  # fmt: skip
WHOLE = {
    "42": "not a int", "[]": "not a list", "text": "not a text", "'\\0'": "not a text", "\x00": "YAML",
    "\ufeff[": "YAML",
    "{" * 3000: "YAML", "- " * 3000: "YAML", "a: " * 50: "YAML", "? [1]\n: 2": "YAML", "{1: 2}": "keys must be text",
    "{true: 2}": "keys must be text", "a: 1\na: 2": "duplicate key", "%TAG x": "YAML", "seed: 1\n---\nseed: 2": "YAML",
    f"{'k' * 500}: 1": "is no key", '"a\\0b": 1': "is no key", "x" * 300_000: "characters", "seed: *a": "YAML",
    "\n".join(f"k{n}: 1" for n in range(12_000)): "values", f"!!python/object/apply:open [{MARKER}, w]": "YAML",
    "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]): "values",
    "\n".join(["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 60))]): "values",
    "\n".join(["a0: x", *(f"a{n}: ${{a{n - 1}}}${{a{n - 1}}}" for n in range(1, 60))]): "references",
    "\n".join(["a0: {x: 1}", *(f"a{n}: {{x: '${{a{n - 1}}}', y: '${{a{n - 1}}}'}}" for n in range(1, 60))]): "re",
    "a: ${b}\nb: ${a}": "YAML", "a: ${a}": "YAML",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    kind: str
    text: str
    overrides: tuple[str, ...] = ()
    message: str = ""


def bounds(owner: type[Any]) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, a number beyond its limits) of every number in a configuration."""
    for path in key_paths(owner):
        *sections, name = path.split(".")
        cls: Any = owner
        for section in sections:
            fields = cls.model_fields if issubclass(cls, BaseModel) else cls.__dataclass_fields__
            annotation = fields[section].annotation if issubclass(cls, BaseModel) else fields[section].type
            cls = annotation if isinstance(annotation, type) else type(fields[section].default)
        if issubclass(cls, BaseModel):
            for rule in cls.model_fields[name].metadata:
                for key, beyond in (("ge", -1), ("gt", 0), ("le", 1), ("lt", 0)):
                    if hasattr(rule, key):
                        limit = getattr(rule, key)
                        yield path, type(limit)(limit + beyond * max(1, abs(limit) // 1000))
        elif name in getattr(cls, "MOST", {}):
            yield path, type(cls.MOST[name])(cls.MOST[name] * 2)


def written(kind: str, key: str, value: str) -> str:
    """Return a configuration in which one key has a value, given as YAML."""
    base = KINDS[kind][1]
    *sections, name = key.split(".")
    plain = {k: v for k, v in base.items() if k != (sections or [name])[0]}
    text = yaml.safe_dump(plain) if plain else ""
    for depth, section in enumerate(sections):
        text += f"{'  ' * depth}{section}:\n"
    pad = "  " * len(sections)
    return text + f"{pad}{name}: " + value.replace("\n", f"\n{pad}  ") + "\n"


def cases() -> dict[str, Case]:
    """Return the configurations by name: numbers beyond their limits, wrong values, files that are no configuration."""
    chance = random.Random(20)
    found = {
        f"whole {number}": Case("agent", text, (), message) for number, (text, message) in enumerate(WHOLE.items())
    }
    every = [(kind, *beyond) for kind, (owner, _) in KINDS.items() for beyond in bounds(owner)]
    for number, (kind, key, value) in enumerate(chance.sample(every, 130)):
        last = key.rpartition(".")[2]
        if number % 2:
            found[f"limit {number} {kind} {key}"] = Case(
                kind, yaml.safe_dump(KINDS[kind][1]), (f"{key}={value!r}",), last
            )
        else:
            found[f"limit {number} {kind} {key}"] = Case(kind, written(kind, key, repr(value)), (), last)
    for number in range(150):
        kind, value = chance.choice(list(KINDS)), WRONG[number % len(WRONG)]
        key = chance.choice([key for key in key_paths(KINDS[kind][0]) if key not in ("kind", "extends")])
        if value == "{a: {b: 3}}" and key.endswith("options"):
            continue  # a free mapping
        name = f"wrong {number} {kind} {key}"
        if number % 3:
            found[name] = Case(kind, written(kind, key, value))
        else:
            found[name] = Case(kind, yaml.safe_dump(KINDS[kind][1]), (f"{key}={value}",))
    return found


CASES = cases()


def words(case: Case, here: Path) -> list[str]:
    (here / "mine.yaml").write_text(case.text, errors="surrogatepass")
    return ["check", "mine.yaml", *case.overrides]


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDEAGENTS_DATA", raising=False)
    case = CASES[name]
    refused(words(case, tmp_path), tmp_path, capfd, case.message)


@pytest.mark.parametrize("name", ["whole 0", "whole 20", "whole 21", "whole 23", "limit 1 ", "wrong 5 "])
def test_as_a_real_command(name: str, tmp_path: Path) -> None:
    case = next(case for known, case in CASES.items() if known.startswith(name))
    refused_by_command(words(case, tmp_path), tmp_path, case.message)


def test_there_are_three_hundred_and_they_are_the_same_each_time() -> None:
    assert len(CASES) >= 300
    assert cases() == CASES


def numbers(owner: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, its limits) of every number in a configuration class."""
    if issubclass(owner, BaseModel):
        for name, field in owner.model_fields.items():
            yield from _number(f"{prefix}{name}", field.annotation, field.metadata)
    else:
        most = owner.MOST if hasattr(owner, "MOST") else {}
        for name, field in owner.__dataclass_fields__.items():
            if name not in ("MOST", "__pydantic_config__"):
                yield from _number(f"{prefix}{name}", type(field.default), [{"most": most.get(name)}])


def _number(key: str, annotation: Any, limits: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or hasattr(annotation, "__dataclass_fields__")
    ):
        yield from numbers(annotation, f"{key}.")
    elif annotation in (int, float, int | None, float | None):
        yield key, limits


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_has_an_upper_bound(kind: str) -> None:
    def bounded(rule: Any) -> bool:
        return (isinstance(rule, dict) and rule["most"] is not None) or hasattr(rule, "le") or hasattr(rule, "lt")

    found = dict(numbers(KINDS[kind][0]))
    free = [key for key, limits in found.items() if not any(map(bounded, limits)) and key != "camera.hfov_deg"]
    assert free == []  # hfov_deg: in [1, 179)
    assert len(found) > 5
