"""Looks at a configuration before anything is run: are its names known, do its parts fit, is its data there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from sideagents.bases import loading as bases
from sideagents.config.typed import differences, load_config
from sideagents.core import side
from sideagents.core.alpha import make_alpha
from sideagents.core.base import FrozenBase
from sideagents.core.merge import MERGES
from sideagents.core.methods import METHODS
from sideagents.errors import ConfigError, SideAgentsError
from sideagents.jobs.job import JOBS
from sideagents.machine.devices import missing_device
from sideagents.machine.precision import with_precision
from sideagents.storage.files import require
from sideagents_envs.episodes.files import content_files, read_episodes
from sideagents_envs.errors import EnvsError
from sideagents_envs.habitat import importing
from sideagents_envs.habitat.lab import chosen_simulator
from sideagents_envs.task.tasks import make_task
from sideagents_policies.agent.build import build_policy
from sideagents_policies.agent.policy import SideTunedPolicy
from sideagents_policies.config import AgentConfig, ModelConfig
from sideagents_policies.paths import config_kind, config_path, load_named, locate
from sideagents_policies.views.environments import check_blanks, seen_task
from sideagents_policies.views.plan import agent_base

# What may differ when a run goes on: how long it trains, how often it saves, where and how fast it computes, and where
# its data is: that it is the same, the names of the buildings and the base's fingerprint in the checkpoint tell.
MAY_CHANGE_ON_RESUME = (
    "scenes.dataset",
    "scenes.episodes",
    "habitat.gpu_device_ids",
    "model.base_weights",
    "runs",
    "threads",
    "device",
    "precision",
    "eval.",
    "ppo.frames",
    "ppo.checkpoint_every_frames",
    "clone.checkpoint_every_s",
)


def read_config(name: str, overrides: Sequence[str] = ()) -> AgentConfig:
    """Resolve a configuration, given by file or bundled name, and check it; nothing is built.

    Raises `ConfigError` with the key path for unknown keys, wrong types and unknown names. Whether the networks can be
    built `try_networks` tells, or whoever builds them.
    """
    if (kind := config_kind(config_path(name))) in JOBS.names():
        raise ConfigError(f"{name}: is a configuration of `sideagents {kind}`, an agent's is needed here")
    return checked(load_named(AgentConfig, name, overrides))


def default_config(overrides: Sequence[str] = ()) -> AgentConfig:
    """Return the default configuration with overrides, for commands that need no file."""
    return checked(load_config(AgentConfig, None, list(overrides)))


def checked(config: AgentConfig) -> AgentConfig:
    """Return the configuration with data looked up, Habitat's simulator and the precision chosen.

    Raises `ConfigError` when names or parts are wrong.
    """
    config = with_precision(locate(config))
    if config.env == "habitat" and config.habitat_simulator == "auto":
        config = config.model_copy(update={"habitat_simulator": chosen_simulator("auto")})
    _check_names(config)
    _check_episodes(config)
    return config


def try_networks(config: AgentConfig) -> tuple[FrozenBase | None, SideTunedPolicy | None]:
    """Build an agent once, in about a second: base and policy, both None where its files are not here.

    Raises `ConfigError` for parts that do not fit.
    """
    if any(line.startswith("model.") for line in missing_data(config)):
        return None, None
    base = agent_base(config)
    with torch.random.fork_rng(devices=[]):
        return base, build_policy(config, base)


def missing_data(config: AgentConfig) -> Iterator[str]:
    """Yield one line for everything on disk that the configuration needs and that is not there."""
    if config.model.use_rgb:
        yield from _missing_weights(config.model)
    yield from missing_scenes(config)
    if line := missing_device(config.device):
        yield line


def _missing_weights(model: ModelConfig) -> Iterator[str]:
    kind = bases.kind_of(model.base)
    if model.base_weights is not None and not Path(model.base_weights).exists():
        yield f"model.base_weights: no such file {model.base_weights}"
        return
    if kind is not None and not kind.ready(model.base, model.base_weights):
        yield f"model.base: {model.base!r} needs {kind.needs}"
    if kind is None and model.base.endswith(".safetensors") and not Path(model.base).is_file():
        yield f"model.base: no such file {model.base}"
    if model.side_init.endswith(".safetensors") and not Path(model.side_init).is_file():
        yield f"model.side_init: no such file {model.side_init}"


def remarks(config: AgentConfig) -> Iterator[str]:
    """Yield a line for each setting that is allowed and seldom meant; `check` and `train` show them."""
    if config.ppo.critic_warmup_frames >= config.ppo.frames:
        yield (
            f"ppo.critic_warmup_frames={config.ppo.critic_warmup_frames} covers all of ppo.frames={config.ppo.frames}: "
            "PPO would train the critic alone; lower it, 0 leaves it out"
        )
    base = config.model.base
    if config.model.use_rgb and base.startswith("timm:") and config.model.base_weights is None:
        yield f"model.base={base} without model.base_weights has random weights: nothing is downloaded"
    if config.model.use_rgb and bases.names_code(base) and config.model.base_weights is None:
        yield (
            f"model.base={base} without model.base_weights: unless the class makes the same weights each time, "
            "no later command can load the run"
        )


def missing_scenes(config: AgentConfig) -> Iterator[str]:
    """Yield one line for each building, episode file or simulator that is not there."""
    scenes = config.scenes
    if (root := scenes.folder) is not None:
        if not root.is_dir():
            yield f"scenes.dataset: no such folder {root} (`bundled` makes its own buildings)"
        elif not any(root.rglob("*.glb")):
            yield f"scenes.dataset: no .glb file in {root}"
    if scenes.episodes is not None and not any(path.is_file() for path in _episode_files(config)):
        yield f"scenes.episodes: no such file {scenes.episodes}"
    if config.env == "habitat":
        if not importing.has_habitat_lab():
            yield f"env: habitat-lab is not installed: {importing.INSTALL_LAB}; env: embedded needs nothing"
        if config.habitat_simulator == "habitat_sim" and not importing.has_habitat_sim():
            yield f"habitat_simulator: habitat_sim is not installed: {importing.INSTALL_SIM}; or set it to sideagents"


def require_data(config: AgentConfig, networks: bool = True) -> None:
    """Raise `ConfigError` for the first thing that is not there; bases count only when there are `networks`."""
    require(missing_data(config) if networks else missing_scenes(config))


def require_networks(config: AgentConfig) -> None:
    """Raise `ConfigError` for the first file or package that the networks alone need and that is not there."""
    require(_missing_weights(config.model) if config.model.use_rgb else ())


def own_code(config: AgentConfig) -> dict[str, str]:
    """Return the keys whose values are dotted paths of networks, which are imported when the agent is built."""
    model = config.model
    named = {"model.base": model.base} if model.use_rgb and bases.names_code(model.base) else {}
    return named | ({"model.side": model.side} if side.names_code(model.side) else {})


def refuse_foreign_code(run: Path, config: AgentConfig, overrides: Sequence[str]) -> None:
    """Raise `ConfigError` when a run's own configuration names code to import that the command does not name too.

    A run may come from anyone: looking at it must not run what it names.
    """
    given = {word for override in overrides for word in re.findall(r"[\w.:]+", override.partition("=")[2])}
    for key, path in own_code(config).items():
        if path not in given:
            raise ConfigError(
                f"{run / 'config.yaml'}: {key} names code to import; if you trust it, say so behind the command: "
                f"{key}={path}"
            )


def refuse_changes(before: AgentConfig, now: AgentConfig) -> None:
    """Raise `ConfigError` when a run is continued with a configuration that makes it another run."""
    for key, (old, new) in differences(before, now).items():
        if not key.startswith(MAY_CHANGE_ON_RESUME):
            raise ConfigError(
                f"{key}: the run has {old!r}, now it is {new!r}; a resumed run keeps it "
                "(start a new run with --init to change it)"
            )


def _check_names(config: AgentConfig) -> None:
    model = config.model
    try:
        check_blanks(config.eval.blank, make_task(config.camera, seen_task(config, model.use_rgb)).sensors)
    except (EnvsError, SideAgentsError) as error:
        raise ConfigError(str(error)) from None
    for key, look in (("model.method", METHODS.get), ("model.merge", MERGES.get), ("model.alpha", make_alpha)):
        _under(key, look, getattr(model, key.removeprefix("model.")))
    if not MERGES.get(model.merge).modeless:
        remedy = f"use {model.merge.removesuffix('_batchnorm')!r}"
        raise ConfigError(
            f"model.merge: {model.merge!r} is not the same in train and eval mode, agents act in one and learn in the "
            f"other: {remedy}"
        )
    if not side.names_code(model.side):
        _under("model.side", side.SIDES.get, model.side)


def _under(key: str, look: object, value: str) -> None:
    assert callable(look)
    try:
        look(value)
    except SideAgentsError as error:
        raise ConfigError(f"{key}: {error}") from None


def _episode_files(config: AgentConfig) -> list[Path]:
    splits = dict.fromkeys((config.eval.split, "train", "val", "test"))
    return [path for split in splits if (path := config.scenes.episodes_path(split)) is not None]


def _check_episodes(config: AgentConfig) -> None:
    for path in _episode_files(config) if config.scenes.episodes is not None else ():
        if path.is_file():
            try:
                content = content_files(path)
                read_episodes(next(iter(content.values()), path))  # of many files one: they are read when entered
            except EnvsError as error:
                raise ConfigError(f"scenes.episodes: {error}") from None
