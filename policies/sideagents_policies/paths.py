"""Where configurations and data are: bundled files, and roots from the configuration or `SIDEAGENTS_DATA`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from sideagents.config.extends import lineage
from sideagents.config.typed import ModelT, load_config
from sideagents.errors import ConfigError, nearest
from sideagents.storage.files import find_data

if TYPE_CHECKING:
    from sideagents_policies.config import AgentConfig


def demos_folder(config: AgentConfig) -> Path:
    """Return where `sideagents demos` writes without --out."""
    return Path(config.runs) / f"{config.name}_demos"


def configs_folder() -> Path:
    """Return the folder of the bundled configurations: inside the installed package, or of the source checkout."""
    packaged = Path(str(resources.files("sideagents_policies"))) / "configs"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "configs"


def config_names() -> list[str]:
    """Return the short names of the bundled configurations, such as `pointnav/sidetune_curvature`."""
    root = configs_folder()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def config_path(name: str) -> Path:
    """Return the file of a configuration given by path or bundled name; raises `ConfigError` with the nearest name."""
    if os.path.isfile(name):  # which, unlike pathlib's, says no to a name that is too long
        return Path(name)
    names = config_names()
    short = name.removeprefix("configs/").removesuffix(".yaml")  # a bundled one's own path, from any folder
    matches = [known for known in names if short in (known, known.split("/")[-1])]
    if len(matches) == 1:
        return configs_folder() / f"{matches[0]}.yaml"
    if os.path.isdir(name):
        raise ConfigError(f"{name}: is a folder; a configuration is a YAML file or a name (`sideagents list configs`)")
    hint = nearest(name[:200], [*names, *(short.split("/")[-1] for short in names)])
    raise ConfigError(f"{name[:200]}: neither a file nor a bundled configuration{hint} (see `sideagents list configs`)")


def load_named(model_cls: type[ModelT], name: str, overrides: Sequence[str] = ()) -> ModelT:
    """Read a configuration given by path or bundled name, and what it extends; raises `ConfigError`."""
    return load_config(model_cls, config_path(name), overrides, config_path)


def config_kind(path: Path) -> str:
    """Return what a configuration file is for: its key `kind` or that of what it extends, `agent` without one."""
    try:
        kinds = (tree["kind"] for _, tree in lineage(path, config_path) if "kind" in tree)
        return str(next(kinds, "agent"))
    except ConfigError:
        return "agent"  # who reads the file in earnest says what is wrong with it


def locate(config: AgentConfig) -> AgentConfig:
    """Return the configuration with its data looked up below `SIDEAGENTS_DATA` where it is not here, and `~` gone."""
    scenes, model = config.scenes, config.model
    dataset = scenes.dataset if scenes.dataset == "bundled" else find_data(scenes.dataset)
    episodes = None if scenes.episodes is None else find_data(scenes.episodes)
    weights = None if model.base_weights is None else find_data(model.base_weights)
    base, side_init = (
        find_data(name) if name.endswith(".safetensors") else name for name in (model.base, model.side_init)
    )
    return config.model_copy(
        update={
            "runs": os.path.expanduser(config.runs),
            "scenes": replace(scenes, dataset=dataset, episodes=episodes),
            "model": model.model_copy(update={"base": base, "base_weights": weights, "side_init": side_init}),
        }
    )
