"""Opening runs: their configuration, their checkpoints, the agent that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sideagents.config.typed import config_hash, load_config
from sideagents.core.base import FrozenBase
from sideagents.errors import ConfigError
from sideagents.machine.devices import device_here
from sideagents.machine.precision import sets_precision
from sideagents.run.checkpoint import Checkpoint, check_tensors, load_checkpoint
from sideagents.run.folder import RunFolder
from sideagents_policies.agent import checks
from sideagents_policies.agent.build import build_policy
from sideagents_policies.agent.policy import SideTunedPolicy
from sideagents_policies.config import AgentConfig
from sideagents_policies.parallel import World
from sideagents_policies.views.plan import agent_base


@dataclass(frozen=True)
class LoadedAgent:
    """A trained policy on its device, with what it was made from."""

    run: RunFolder
    config: AgentConfig
    base: FrozenBase | None
    policy: SideTunedPolicy
    checkpoint: Checkpoint

    @property
    def world(self) -> World:
        """This process alone, on the policy's device."""
        return World(device=self.policy.device)


def open_run(
    path: Path, overrides: Sequence[str] = (), trusted: bool = False, to_use: bool = False
) -> tuple[RunFolder, AgentConfig]:
    """Open a run and its configuration, with overrides; raises `CheckpointError` or `ConfigError`.

    Networks that the run names by a dotted path are imported only when `overrides` name them too, or when the run is
    `trusted`, as one that this program has just begun. A run that is opened `to_use` what it has learnt, not to go on,
    computes in what is fast here, whatever it was trained in, unless `overrides` say a precision.
    """
    run = RunFolder.open(path)
    config = load_config(AgentConfig, run.config_path, list(overrides))
    if to_use and not sets_precision(overrides):
        config = config.model_copy(update={"precision": "auto"})
    if not trusted:
        checks.refuse_foreign_code(run.path, config, overrides)
    try:
        return run, checks.checked(config)
    except ConfigError as error:
        if forgotten := run.forgotten_imports():
            words = " ".join(f"--import {name}" for name in forgotten)
            raise ConfigError(f"{error}; {run.path} was made with {words}: if you trust it, give that again") from None
        raise


def load_agent(path: Path, overrides: Sequence[str] = ()) -> LoadedAgent:
    """Load the policy of a run, or of one of its checkpoints (`RUN/checkpoints/step_...`).

    It computes on the configured device where that exists, else on the CPU.
    The base is loaded by the name in the run's configuration and must have the fingerprint of the one trained with.
    Neither the buildings trained in nor the device trained on need be here.
    Raises `CheckpointError` when checkpoint, base and configuration do not belong together.
    """
    run, config = open_run(path, overrides, to_use=True)
    checks.require_networks(config)
    checkpoint = load_checkpoint(run.checkpoint())
    base = agent_base(config)
    policy = build_policy(config, base, device_here(config.device))
    load_weights(policy, checkpoint)
    policy.set_training_mode(False)
    return LoadedAgent(run, config, base, policy, checkpoint)


def load_weights(policy: SideTunedPolicy, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's tensors into a policy; raises `CheckpointError` for another model or another base."""
    own = policy.state_dict()
    for name in own:
        if name.endswith("_extra_state"):  # a fingerprint must be there; what it says load_state_dict compares
            own[name] = checkpoint.tensors.get(name, own[name])
    check_tensors(checkpoint.tensors, own, checkpoint.path)
    policy.load_state_dict(checkpoint.tensors)


def identity(config: AgentConfig, base: FrozenBase | None) -> dict[str, str]:
    """Return what `save_checkpoint` records of configuration and base."""
    return {
        "config_hash": config_hash(config),
        "base": config.model.base if base is not None else "",
        "fingerprint": base.fingerprint if base is not None else "",
    }
