"""`extends`: a configuration holds what differs from another, and faults name the file that has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from sideagents.config.extends import merged
from sideagents.config.typed import load_config
from sideagents.errors import ConfigError


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    low: int = 0
    high: int = 9
    inner: dict[str, int] = {}


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    name: str = "none"
    part: Part = Part()
    options: dict[str, int] = {}
    by_name: dict[str, Part] = {}
    many: list[int] = []


def no_name(name: str) -> Path:
    raise ConfigError(f"{name}: unknown")


def write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_sections_are_merged_and_the_rest_is_replaced(tmp_path: Path) -> None:
    write(
        tmp_path,
        first="name: first\npart: {low: 1, inner: {a: 1}}\noptions: {x: 1}\nby_name: {one: {low: 1}}\nmany: [1, 2]\n",
        second="extends: first\npart: {high: 2}\noptions: {y: 2}\nby_name: {two: {low: 2}}\nmany: [3]\n",
        third="extends: second.yaml\nname: third\npart: {inner: {b: 2}}\n",
    )
    found = load_config(Whole, tmp_path / "third.yaml", ["part.low=5"], no_name)
    assert found == Whole(
        name="third",
        part=Part(low=5, high=2, inner={"b": 2}),
        options={"y": 2},
        by_name={"two": Part(low=2)},
        many=[3],
    )


def test_a_name_that_is_not_beside_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "shelf", known="name: known\n")
    write(tmp_path, own="extends: known\npart: {low: 3}\n")
    found = load_config(Whole, tmp_path / "own.yaml", [], lambda name: tmp_path / "shelf" / f"{name}.yaml")
    assert (found.name, found.part.low) == ("known", 3)


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"own": "extends: known\n"}, "own.yaml: extends: known: unknown"),
        ({"own": "extends: 3\n"}, "own.yaml: extends must be the name or the path of a configuration, got 3"),
        ({"own": "extends:\n"}, "own.yaml: extends must be the name"),
        ({"own": "extends: own\n"}, "own.yaml: extends: more than 10 files extend each other"),
        ({"own": "extends: first\n", "first": "part: {low: a}\n"}, "first.yaml: part.low must be a valid integer"),
        ({"own": "extends: first\npart: {low: a}\n", "first": "part: {low: 1}\n"}, "own.yaml: part.low must"),
        ({"own": "extends: first\n", "first": "part: {lwo: 1}\n"}, "first.yaml: unknown key 'part.lwo'"),
        ({"own": "extends: first\n", "first": "- 1\n"}, "first.yaml: must hold `key: value` lines, not a list"),
        ({"own": "extends: first\n", "first": "a: [\n"}, "first.yaml, line 2"),
    ],
)
def test_a_fault_names_the_file_that_has_it(tmp_path: Path, files: dict[str, str], line: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(ConfigError) as caught:
        load_config(Whole, tmp_path / "own.yaml", [], no_name)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_stands_alone(tmp_path: Path) -> None:
    write(tmp_path, first="name: first\n", config="extends: first\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: extends: is read in configurations that are named"):
        load_config(Whole, tmp_path / "config.yaml")


def test_merging_leaves_both_as_they_were() -> None:
    below, above = {"part": {"low": 1}}, {"part": {"high": 2}}
    assert merged(Whole, below, above) == {"part": {"low": 1, "high": 2}}
    assert (below, above) == ({"part": {"low": 1}}, {"part": {"high": 2}})
