"""From a configuration to environments, networks and learners: the one place train, clone, eval and enjoy share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

import sideagents_envs
from sideagents.bases import load_base
from sideagents.core.base import FrozenBase
from sideagents.core.methods import build_perception
from sideagents.errors import ConfigError
from sideagents.run.checkpoint import Checkpoint, check_tensors, load_checkpoint
from sideagents.run.config import config_hash, load_config
from sideagents.run.devices import device_here
from sideagents.run.folder import RunFolder
from sideagents.run.precision import base_dtype, sets_precision
from sideagents_envs.sensors import spaces as pointnav
from sideagents_policies import checks
from sideagents_policies.config import AgentConfig, ModelConfig, PPOConfig
from sideagents_policies.encode import EncodeOnce
from sideagents_policies.extractor import SideTunedExtractor
from sideagents_policies.parallel import World
from sideagents_policies.policy import PerEnvNoise, SideTunedPolicy
from sideagents_policies.ppo import SideTunedPPO, expert_cross_entropy
from sideagents_policies.rollout import rollout_stacks
from sideagents_policies.stack import (
    ExpertLabels,
    Observation,
    Stacking,
    StackKeys,
    StepReturn,
    dict_space,
    stacked_space,
    stackings,
)

ALONE = World()


class DropKeys(VecEnvWrapper):
    """Leave out observation keys that the agent's network does not read, so that no buffer stores them."""

    def __init__(self, venv: VecEnv, keys: Sequence[str]) -> None:
        kept = {key: space for key, space in dict_space(venv, "DropKeys").spaces.items() if key not in keys}
        super().__init__(venv, observation_space=spaces.Dict(kept))
        self._keys = tuple(kept)

    def reset(self) -> Observation:
        """Reset all environments."""
        return self._keep(self.venv.reset())

    def step_wait(self) -> StepReturn:
        """Return the step's result without the dropped keys, in `terminal_observation` too."""
        observation, rewards, dones, infos = self.venv.step_wait()
        for env in np.flatnonzero(dones):
            if infos[env].get("terminal_observation") is not None:
                infos[env]["terminal_observation"] = self._keep(infos[env]["terminal_observation"])
        return self._keep(observation), rewards, dones, infos

    def _keep(self, observation: Any) -> Observation:
        return {key: observation[key] for key in self._keys}


@dataclass(frozen=True)
class Sight:
    """How an agent's observations are made from the environment's.

    base: the frozen base that encodes each image once; None for agents that are blind, train their base, or have a side
    that reads the base's activations, for which it is run anyway.
    stacks: keys that hold several readings; strides: steps between the readings of a key where they are not 1;
    drops: keys that the network does not read.
    """

    base: FrozenBase | None
    keep_rgb: bool
    stacks: dict[str, int]
    strides: dict[str, int]
    drops: tuple[str, ...]


def agent_base(config: AgentConfig) -> FrozenBase | None:
    """Load the base that the configuration names; None for a blind agent."""
    if not config.model.use_rgb:
        return None
    dtype = base_dtype(config.precision, config.device)
    return load_base(config.model.base, weights=config.model.base_weights, dtype=dtype)


def sight_of(config: AgentConfig, base: FrozenBase | None) -> Sight:
    """Decide what is encoded, stacked and dropped; codes are stacked, or the images of methods that train the base."""
    model = config.model
    drops = () if model.use_map else ("map",)
    stacks = {"goal": model.goal_history}
    if base is None:
        return Sight(None, False, stacks, {}, (*drops, "rgb", "depth"))
    codes, images = _reads(model, base, (config.camera.height, config.camera.width))
    seen = "base" if codes else "rgb"
    stacks[seen] = model.frames
    return Sight(base if codes else None, images, stacks, {seen: model.frame_stride}, drops)


_ASKED: WeakKeyDictionary[FrozenBase, dict[Hashable, tuple[bool, bool]]] = WeakKeyDictionary()


def _reads(model: ModelConfig, base: FrozenBase, size: tuple[int, int]) -> tuple[bool, bool]:
    """Return whether a method reads the frozen base's codes, and whether images; it is built once to be asked."""
    known = _ASKED.setdefault(base, {})
    if (model, size) not in known:
        made = build_perception(
            model.method, base, model.side, model.merge, model.alpha, model.side_init, input_size=size
        )
        known[model, size] = (made.reads_codes, made.needs_images)
    return known[model, size]


def observation_space(config: AgentConfig, base: FrozenBase | None) -> spaces.Dict:
    """Return the space of the observations that `build_venv` makes, without making environments."""
    sight = sight_of(config, base)
    parts = dict(pointnav.observation_space(config.camera, config.task).spaces)
    if sight.base is not None:
        parts["base"] = spaces.Box(-np.inf, np.inf, sight.base.out_shape, np.float32)
        if not sight.keep_rgb:
            del parts["rgb"]
    for key, count in sight.stacks.items():
        box = parts[key]
        if count > 1 and isinstance(box, spaces.Box):
            parts[key] = stacked_space(box, count, axis=2 if key == "rgb" else 0)
    return spaces.Dict({key: space for key, space in parts.items() if key not in sight.drops})


def stacked_keys(config: AgentConfig, base: FrozenBase | None) -> dict[str, Stacking]:
    """Return how the keys of `observation_space` are stacked that hold several readings."""
    sight = sight_of(config, base)
    return stackings(observation_space(config, base), sight.stacks, sight.strides)


def build_venv(
    config: AgentConfig,
    split: str = "train",
    n_envs: int | None = None,
    *,
    base: FrozenBase | None = None,
    episodes_file: Path | None = None,
    seed: int | None = None,
    world: World = ALONE,
    perceive: bool = True,
    images: bool | None = None,
) -> VecEnv:
    """Make the environments of one process and the wrappers of the agent.

    n_envs: by default `vec.n_envs`. base: from `agent_base`, loaded when needed and not given. episodes_file: a fixed
    list in place of the split's own. world: this process among those that train together. With `perceive=False` the
    environments come bare, for agents that are no networks, and render nothing unless `images` asks for it.
    Raises `EnvsError` or `SideAgentsError`.
    """
    count = config.vec.n_envs if n_envs is None else n_envs
    seeing = (perceive and config.model.use_rgb) if images is None else images
    if config.env == "habitat" and world.rank == 0:
        _say_simulator(simulator_of(config))
    # one habitat-sim to a process: two would share one graphics context
    alone = config.env == "habitat" and config.habitat_simulator == "habitat_sim"
    venv: VecEnv = sideagents_envs.make_vec(
        count,
        split=split,
        kind="dummy" if count == 1 else "subproc" if alone else config.vec.kind,
        seed=config.seed if seed is None else seed,
        camera=config.camera,
        task=config.task if seeing else replace(config.task, rgb=False, depth=False),
        scenes=config.scenes,
        episodes_file=episodes_file,
        first_env=world.rank * count,
        total_envs=world.size * count,
        workers=count if alone else min(config.vec.processes, count),
        habitat=config.habitat if config.env == "habitat" else None,
        habitat_simulator=config.habitat_simulator,
    )
    try:
        return with_sight(venv, config, base, world) if perceive else venv
    except BaseException:
        venv.close()
        raise


def simulator_of(config: AgentConfig) -> str:
    """Return the name of the environments' simulator, as results and people are told it."""
    if config.env == "embedded":
        return "embedded"
    return f"habitat-lab on {config.habitat_simulator}"


@functools.cache
def _say_simulator(name: str) -> None:
    print(f"environments: {name}", file=sys.stderr)


def with_sight(venv: VecEnv, config: AgentConfig, base: FrozenBase | None, world: World) -> VecEnv:
    """Wrap environments so that they show what the agent's network reads."""
    sight = sight_of(config, base if base is not None else agent_base(config))
    if sight.base is not None:
        venv = EncodeOnce(venv, sight.base, keep_rgb=sight.keep_rgb, device=world.device)
    venv = StackKeys(venv, sight.stacks, sight.strides)
    return DropKeys(venv, sight.drops) if sight.drops else venv


def policy_kwargs(config: AgentConfig, base: FrozenBase | None) -> dict[str, Any]:
    """Return the arguments of `SideTunedPolicy` beside spaces and learning rate."""
    model = config.model
    return {
        "features_extractor_class": SideTunedExtractor,
        "features_extractor_kwargs": {
            "base": model.base if base is None else base,
            "method": model.method,
            "side": model.side,
            "merge": model.merge,
            "alpha": model.alpha,
            "side_init": model.side_init,
            "hidden": model.hidden,
            "use_rgb": model.use_rgb,
            "use_map": model.use_map,
            "map_channels": pointnav.MAP_CHANNELS,
        },
        "optimizer_kwargs": {"eps": 1e-5, "amsgrad": config.ppo.amsgrad},
        "alpha_lr": config.ppo.alpha_learning_rate,
        "precision": config.precision,
    }


def build_policy(config: AgentConfig, base: FrozenBase | None, device: torch.device | str = "cpu") -> SideTunedPolicy:
    """Build the policy alone, with fresh weights: enough to evaluate, count and clone."""
    rate = config.ppo.learning_rate
    space, actions = observation_space(config, base), pointnav.action_space(config.task)
    return SideTunedPolicy(space, actions, lambda _: rate, **policy_kwargs(config, base)).to(device)


def learning_rate(ppo: PPOConfig, remaining: float) -> float:
    """Return the rate when a share `remaining` of training is left, in [0, 1]."""
    return ppo.learning_rate * (ppo.final_lr_fraction + (1.0 - ppo.final_lr_fraction) * remaining)


def build_agent(config: AgentConfig, venv: VecEnv, base: FrozenBase | None, world: World = ALONE) -> SideTunedPPO:
    """Build PPO with its policy and rollout buffer; seeds every generator from the configuration.

    With `ppo.expert_coef` above 0 the environments are labelled with the expert's actions, which the loss alone reads.
    Actions are sampled from streams of their own for each environment, so that neither the number of processes nor
    what else draws random numbers changes them.
    """
    ppo = config.ppo
    labelled = ppo.expert_coef > 0.0
    agent = SideTunedPPO(
        SideTunedPolicy,
        ExpertLabels(venv) if labelled else venv,
        learning_rate=functools.partial(learning_rate, ppo),
        n_steps=ppo.n_steps,
        batch_size=ppo.batch_size,
        n_epochs=ppo.n_epochs,
        gamma=ppo.gamma,
        gae_lambda=ppo.gae_lambda,
        clip_range=ppo.clip_range,
        ent_coef=ppo.ent_coef,
        final_ent_coef=ppo.final_ent_coef,
        vf_coef=ppo.vf_coef,
        max_grad_norm=ppo.max_grad_norm,
        target_kl=ppo.target_kl,
        auxiliary_loss=expert_cross_entropy(ppo.expert_coef) if labelled else None,
        critic_warmup=ppo.critic_warmup_frames,
        rollout_buffer_kwargs={"stacks": rollout_stacks(stacked_keys(config, base))},
        policy_kwargs=policy_kwargs(config, base),
        seed=config.seed,
        device=world.device,
    )
    first = world.rank * venv.num_envs
    agent.policy.action_noise = PerEnvNoise(config.seed, range(first, first + venv.num_envs))
    return agent


# runs


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
