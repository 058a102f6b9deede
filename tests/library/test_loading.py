"""Configuration: values and overrides arrive typed, and each mistake is one line with its remedy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sideagents.config.typed import config_hash, differences, dump_config, key_paths, load_config
from sideagents.errors import ConfigError


@dataclass(frozen=True)
class Mesh:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False, "strict": True}
    cell_m: float = 0.05
    levels: int = 2


@dataclass(frozen=True)
class World:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False, "strict": True}
    dataset: str = "bundled"
    stop: Literal["auto", "explicit"] = "auto"
    slack: float = -0.01
    mesh: Mesh = Mesh()

    def __post_init__(self) -> None:
        if self.slack > 0:
            raise ValueError(f"slack must not be above 0, got {self.slack}")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Optimizer(Section):
    frames: int = Field(100, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    target_kl: float | None = None


class Config(Section):
    name: str = Field("agent", pattern="^[a-z]+$")
    seed: int = 1
    bf16: bool = True
    note: str | int = "none"
    world: World = World()
    ppo: Optimizer = Optimizer()
    widths: list[int] = Field(default=[1, 2])
    extras: dict[str, int] = Field(default={})

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.seed == 13:
            raise ValueError("seed and luck do not go together")
        return self


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.yaml"
    path.write_text(text)
    return path


def fault(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(Config, path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_file_then_overrides_from_left_to_right(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 4\nppo: {frames: 7, learning_rate: 1e-3}\nworld:\n  mesh:\n    levels: 3\n")
    config = load_config(Config, path, ["ppo.frames=8", "world.mesh.cell_m=1", "ppo.frames=9", "extras.mine=2"])
    assert (config.seed, config.ppo.frames, config.ppo.learning_rate) == (4, 9, 1e-3)
    assert config.world.mesh == Mesh(cell_m=1.0, levels=3)
    assert isinstance(config.world.mesh.cell_m, float)
    assert config.extras == {"mine": 2}


def test_a_mapping_override_merges_and_null_stays_null() -> None:
    config = load_config(Config, None, ["ppo={frames: 3}", "ppo.target_kl=null", "widths=[4,5,6]"])
    assert config.ppo == Optimizer(frames=3)
    assert config.widths == [4, 5, 6]


def test_a_mapping_override_replaces_one_whose_keys_are_the_users_own(tmp_path: Path) -> None:
    path = write(tmp_path, "extras: {side: 1, width: 2}")
    assert load_config(Config, path, ["extras={}"]).extras == {}
    assert load_config(Config, path, ["extras={rank: 3}", "extras.scale=4"]).extras == {"rank": 3, "scale": 4}
    assert load_config(Config, path, ["extras.width=5"]).extras == {"side": 1, "width": 5}


def test_no_file_and_an_empty_file_give_the_defaults(tmp_path: Path) -> None:
    assert load_config(Config, None) == load_config(Config, write(tmp_path, "# nothing\n")) == Config()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ppo: {framse: 3}", ["agent.yaml", "ppo.framse", "'ppo.frames'"]),
        ("world: {mesh: {cell: 1.0}}", ["agent.yaml", "world.mesh.cell", "'world.mesh.cell_m'"]),
        ("world: {dataste: x}", ["world.dataste", "'world.dataset'"]),
        ("learning_rate: 0.1", ["unknown key 'learning_rate'", "'ppo.learning_rate'"]),
        ("zzz: 1", ["unknown key 'zzz'", "known: name, seed"]),
        ('seed: "12"', ["seed must be a valid integer", "'12'"]),
        ("seed: 1.5", ["seed must be a valid", "1.5"]),
        ("bf16: 1", ["bf16 must be a valid boolean"]),
        ("ppo: {learning_rate: true}", ["ppo.learning_rate must be a valid number", "True"]),
        ("ppo: {learning_rate: .nan}", ["ppo.learning_rate must be a finite number", "nan"]),
        ("ppo: {learning_rate: -.inf}", ["ppo.learning_rate must be a finite number", "-inf"]),
        ("ppo: {frames: 0}", ["ppo.frames must be greater than or equal to 1", "got 0"]),
        ("ppo: 3", ["ppo must be a section with the keys frames, learning_rate", "3"]),
        ("world: [1]", ["world must be a section with the keys dataset, stop", "[1]"]),
        ("world: {stop: explicti}", ["world.stop must be 'auto' or 'explicit'", "did you mean 'explicit'?"]),
        ("world: {slack: 1}", ["world: slack must not be above 0, got 1"]),
        ("note: 1.5", ["note must be a valid string", "or note must be a valid integer"]),
        ("widths: [1, x]", ["widths[1] must be a valid integer", "'x'"]),
        ("name: Bad Name", ["name must match pattern '^[a-z]+$'"]),
        ("seed: 13", ["agent.yaml: seed and luck do not go together"]),
        ("seed: x\nbf16: 3", ["seed must be", "(and 1 more)"]),
        ("1: 2", ["keys must be text, got 1"]),
        ("- 1\n- 2", ["must hold `key: value` lines, not a list"]),
        ("ppo:\n  frames: [1\nseed: 2\n", ["agent.yaml, line 3", "no valid YAML"]),
        ("seed: 1\nseed: 2\n", ["agent.yaml, line 2", "duplicate"]),
        ("seed: ${nothing}\n", ["agent.yaml", "nothing"]),
        ("seed: !!python/object/apply:os.getcwd []\n", ["agent.yaml, line 1", "no valid YAML"]),
        ("name: !!binary aGVsbG8=\n", ["agent.yaml"]),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = fault(write(tmp_path, text))
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("foo", ["override 'foo'", "key.sub=value"]),
        ("=3", ["key.sub=value"]),
        ("a..b=3", ["key.sub=value"]),
        ("ppo.framse=5", ["override 'ppo.framse=5'", "did you mean 'ppo.frames'?"]),
        ("ppo.lr=1e-3", ["override 'ppo.lr=1e-3'", "'ppo.lr', did you mean 'ppo.learning_rate'?"]),
        ("ppo.foo=1", ["unknown key 'ppo.foo' (known: frames, learning_rate, target_kl)"]),
        ("ppo.seed=1", ["did you mean 'seed'?"]),
        ("lr=1e-3", ["did you mean 'ppo.learning_rate'?"]),
        ("learning_rat=1e-3", ["did you mean 'ppo.learning_rate'?"]),
        ("frames=5", ["unknown key 'frames'", "'ppo.frames'"]),
        ("ppo.frames=", ["override 'ppo.frames='", "ppo.frames must be a valid integer", "None"]),
        ("ppo=", ["override 'ppo='", "must be a section"]),
        ("seed.x=1", ["override 'seed.x=1'", "seed is a single value"]),
        ("seed=[1", ["override 'seed=[1'", "no valid YAML"]),
        ("seed='12'", ["override \"seed='12'\"", "valid integer"]),
        ("ppo.learning_rate=nan", ["override 'ppo.learning_rate=nan'", "valid number, got 'nan'"]),
        ("ppo.learning_rate=.nan", ["override 'ppo.learning_rate=.nan'", "finite"]),
        ("ppo={framse: 1}", ["override 'ppo={framse: 1}'", "unknown key 'ppo.framse'", "'ppo.frames'"]),
        ("world.slack=2", ["override 'world.slack=2'", "slack must not be above 0"]),
    ],
)
def test_a_bad_override_is_one_line_that_quotes_it(tmp_path: Path, override: str, parts: list[str]) -> None:
    message = fault(write(tmp_path, "seed: 3\nppo: {frames: 2}\n"), override)
    for part in parts:
        assert part in message


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "seed: 1")
    assert "did you mean 'agent.yaml'?" in fault(tmp_path / "agnet.yaml")
    assert f"the folder {tmp_path / 'no'} does not exist" in fault(tmp_path / "no" / "way" / "agent.yaml")
    assert "is a folder" in fault(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff")
    assert "no UTF-8" in fault(tmp_path / "latin.yaml")


def test_a_required_key_that_is_missing_is_named(tmp_path: Path) -> None:
    class Needs(Section):
        images: str

    with pytest.raises(ConfigError, match=r"agent\.yaml: the key 'images' is missing"):
        load_config(Needs, write(tmp_path, ""))


@pytest.mark.parametrize("note", ["1e-3", "12", "yes", "${x}", "a: b\n#c", "", " ", "null", "ünïcode", "???"])
def test_dump_reads_back_equal_with_the_same_hash(tmp_path: Path, note: str) -> None:
    config = Config(note=note, world=World(slack=-1e-7, mesh=Mesh(cell_m=1 / 3)), extras={"b": 1, "a": 2})
    text = dump_config(config)
    again = load_config(Config, write(tmp_path, text))
    assert again == config
    assert dump_config(again) == text
    assert config_hash(again) == config_hash(config)


def test_dump_keeps_the_order_of_definition_and_the_hash_sees_every_leaf() -> None:
    config = Config()
    keys = [line.partition(":")[0] for line in dump_config(config).splitlines() if line[0].isalpha()]
    assert keys == list(Config.model_fields)
    other = Config(world=World(mesh=Mesh(cell_m=math.nextafter(0.05, 1))))
    assert config_hash(other) != config_hash(config)
    assert differences(config, other) == {"world.mesh.cell_m": (0.05, math.nextafter(0.05, 1))}


def test_neutral_keys_count_when_they_are_set() -> None:
    @dataclass(frozen=True)
    class Part:
        size: int = 1
        later: str = field(default="off", metadata={"neutral": True})

    class Old(Section):
        part: Mesh = Mesh()

    class Plain(Section):
        part: dict[str, int] = Field(default={"size": 1})

    class New(Section):
        part: Part = Part()
        also_later: int = Field(0, json_schema_extra={"neutral": True})

    assert config_hash(New()) == config_hash(Plain())
    for changed in (New(also_later=1), New(part=Part(later="on")), New(part=Part(size=2)), Old()):
        assert config_hash(changed) != config_hash(New())


def test_key_paths_walk_models_and_dataclasses() -> None:
    paths = key_paths(Config)
    assert paths[:4] == ["name", "seed", "bf16", "note"]
    assert {"world.mesh.cell_m", "ppo.target_kl", "world", "extras"} <= set(paths)
