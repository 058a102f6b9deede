"""Configurations: the bundled ones, where data is looked for, what check says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file

from sideagents.bases import load_base
from sideagents.bases.saved import save_base
from sideagents.config.extends import lineage
from sideagents.config.typed import dump_config, load_config
from sideagents.core.methods import build_perception
from sideagents.data.taskonomy_folder import data_root
from sideagents.errors import ConfigError
from sideagents.jobs.job import JOBS
from sideagents_policies import paths
from sideagents_policies.agent import checks
from sideagents_policies.cli.main import main
from sideagents_policies.config import AgentConfig
from sideagents_policies.paths import config_names, config_path
from small_agent import dataset_of

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*"))


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.is_file()], ids=lambda path: path.stem)
def test_every_bundled_file_is_a_complete_configuration(path):
    assert path.suffix == ".yaml"
    assert path.read_text().startswith("# ")
    if paths.config_kind(path) in JOBS.names():
        return  # tests/policies/test_jobs.py reads it
    config = checks.read_config(str(path))
    assert config.name in (path.stem, f"{path.parent.name}_{path.stem}")
    assert config.scenes.dataset == ("data/scene_datasets" if path.parent.name == "habitat" else "bundled")
    assert config.vec.n_envs * config.ppo.n_steps % config.ppo.batch_size == 0


def test_resolved_configuration_reads_back_equal(tmp_path):
    config = checks.read_config("pointnav/paper", ["model.base=denoising"])
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(AgentConfig, tmp_path / "again.yaml", []) == config
    assert yaml.safe_load(dump_config(config))["model"]["base"] == "denoising"


def test_paper_preset():
    config = checks.read_config("pointnav/paper")
    assert config.task.collision_penalty == 0.0
    assert (config.vec.n_envs, config.ppo.n_steps, config.ppo.clip_range) == (5, 512, 0.1)
    assert (config.ppo.vf_coef, config.ppo.ent_coef, config.ppo.amsgrad) == (1e-3, 1e-4, True)
    assert (config.clone.learning_rate, config.clone.weight_decay, config.clone.batch_size) == (2e-4, 3.8e-7, 64)


def test_short_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "pointnav/demo", "configs/pointnav/demo.yaml"):
        assert paths.config_path(name) == ROOT / "configs" / "pointnav" / "demo.yaml"
    with pytest.raises(ConfigError, match="did you mean 'pointnav/blind'"):
        paths.config_path("pointnav/blnid")
    with pytest.raises(ConfigError, match="is a folder"):
        paths.config_path(str(ROOT))


def test_data_below_the_data_root(homes, tmp_path, monkeypatch):
    folder = dataset_of(homes)
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "homes").symlink_to(folder)
    overrides = [word for word in homes if not word.startswith("scenes.dataset=")]
    overrides += ["scenes.dataset=homes", "scenes.episodes=homes/episodes/{split}.json.gz"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDEAGENTS_DATA", raising=False)
    assert len(list(checks.missing_data(checks.default_config(overrides)))) == 2
    monkeypatch.setenv("SIDEAGENTS_DATA", str(tmp_path / "roots"))
    config = checks.default_config(overrides)
    assert list(checks.missing_data(config)) == []
    assert config.scenes.dataset == str(tmp_path / "roots" / "homes")
    assert config.scenes.episodes == str(tmp_path / "roots" / "homes" / "episodes" / "{split}.json.gz")


def test_data_in_the_home_folder(homes, tmp_path, monkeypatch):
    folder = dataset_of(homes)
    (tmp_path / "homes").symlink_to(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    overrides = [word for word in homes if not word.startswith("scenes.dataset=")]
    overrides += ["scenes.dataset=~/homes", "scenes.episodes=~/homes/episodes/{split}.json.gz"]
    assert list(checks.missing_scenes(checks.default_config(overrides))) == []


def test_every_path_may_begin_in_the_home_folder(homes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_base(tmp_path / "mine.safetensors", load_base("random"), "midlevel", {}, {})
    config = checks.default_config([*homes, "model.base=~/mine.safetensors", "runs=~/runs"])
    assert (config.model.base, config.runs) == (str(tmp_path / "mine.safetensors"), str(tmp_path / "runs"))
    weights = checks.default_config([*homes, "model.base=curvature", "model.base_weights=~/mine.safetensors"])
    assert list(checks.missing_data(weights)) == []
    assert main(["demos", "pointnav/demo", *homes, "demos.trajectories=2", "--out=~/shards"]) == 0
    assert (tmp_path / "shards" / "demos.json").is_file()
    assert main(["clone", "pointnav/demo", *homes, "--demos=~/none"]) == 2
    assert f"{tmp_path / 'none'}" in capsys.readouterr().err
    (tmp_path / "images").mkdir()
    assert data_root("~/images") == tmp_path / "images"


def test_weights_files_below_the_data_root(homes, tmp_path, monkeypatch):
    (tmp_path / "roots").mkdir()
    save_base(tmp_path / "roots" / "mine.safetensors", load_base("random"), "midlevel", {}, {})
    side = build_perception("sidetune", load_base("random"), input_size=(32, 32)).side
    save_file(side.state_dict(), tmp_path / "roots" / "student.safetensors")
    monkeypatch.chdir(tmp_path)
    overrides = [*homes, "model.base=mine.safetensors", "model.side_init=student.safetensors"]
    monkeypatch.delenv("SIDEAGENTS_DATA", raising=False)
    assert len(list(checks.missing_data(checks.default_config(overrides)))) == 2
    monkeypatch.setenv("SIDEAGENTS_DATA", str(tmp_path / "roots"))
    config = checks.default_config(overrides)
    assert list(checks.missing_data(config)) == []
    assert config.model.base == str(tmp_path / "roots" / "mine.safetensors")
    assert config.model.side_init == str(tmp_path / "roots" / "student.safetensors")


def test_a_package_that_is_not_installed_is_absent(homes, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    config = checks.default_config([*homes, "model.base=timm:resnet18"])
    assert any("model.base: 'timm:resnet18' needs timm" in line for line in checks.missing_data(config))
    with pytest.raises(ConfigError, match=r"pip install 'sideagents\[vision\]'"):
        checks.require_networks(config)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model.base=taskonomy:curvature", "model.base_weights=nowhere.pth"], r"model\.base_weights: no such file"),
        (["scenes.dataset=nowhere"], r"scenes\.dataset: no such folder nowhere"),
        (["scenes.episodes=nowhere/{split}.json.gz"], r"scenes\.episodes: no such file nowhere/\{split\}\.json\.gz"),
        (["model.base=nowhere.safetensors"], r"model\.base: no such file"),
        (["model.side_init=nowhere.safetensors"], r"model\.side_init: no such file nowhere"),
    ],
)
def test_absent_data_is_listed_and_required(homes, overrides, line):
    config = checks.default_config([*homes, *overrides])
    assert any(re.match(line, found) for found in checks.missing_data(config))
    with pytest.raises(ConfigError, match=line):
        checks.require_data(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.base=randon"], r"model\.base: unknown base 'randon', did you mean 'random'"),
        (["model.method=sidetun"], r"model\.method: unknown method .* did you mean 'sidetune'"),
        (["model.merge=alpa"], r"model\.merge: unknown merge .* did you mean 'alpha'"),
        (["model.side=con"], r"model\.side: unknown side .* did you mean 'conv'"),
        (["model.alpha=fixed:2"], r"model\.alpha: alpha lies in \[0, 1\]"),
        (["model.alpha=lerned"], r"model\.alpha: unknown alpha .* did you mean 'learned'"),
        (["model.side=fcn4"], r"model: side 'fcn4' must map"),
        (["model.base=torch.nn:Linear"], r"model\.base: .*cannot be built"),
        (["model.use_rgb=false", "model.use_map=false"], "nothing would be seen"),
        (["ppo.batch_size=24"], r"ppo\.batch_size=24 must divide"),
    ],
)
def test_wrong_parts_are_told_with_their_key(homes, overrides, message):
    with pytest.raises(ConfigError, match=message):
        checks.try_networks(checks.default_config([*homes, *overrides]))


def test_what_may_change_on_resume(homes):
    before = checks.default_config(homes)
    checks.refuse_changes(before, checks.default_config([*homes, "ppo.frames=999", "eval.episodes=1", "threads=2"]))
    with pytest.raises(ConfigError, match=r"model\.hidden: the run has 32, now it is 64"):
        checks.refuse_changes(before, checks.default_config([*homes, "model.hidden=64"]))


def leaves(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return the values of a tree by their dotted keys; a mapping of names of the user's own is one value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inside = isinstance(value, dict) and key not in ("options", "side_options")
        found |= leaves(value, f"{above}{key}.") if inside else {f"{above}{key}": value}
    return found


def test_a_bundled_variant_holds_only_what_differs() -> None:
    """So that a number of a recipe stands in one file."""
    variants = 0
    for name in config_names():
        own, *below = (tree for _, tree in lineage(config_path(name), config_path))
        for key, value in leaves(own).items() if below else ():
            said = [leaves(tree)[key] for tree in below if key in leaves(tree)]
            assert not said or said[0] != value, f"{name}: {key} is said by what it extends"
        variants += bool(below)
    assert variants >= 15
