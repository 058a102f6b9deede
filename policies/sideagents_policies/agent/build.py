"""From a configuration to networks and learners."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from stable_baselines3.common.vec_env import VecEnv

from sideagents.core.base import FrozenBase
from sideagents.errors import ConfigError, SideAgentsError
from sideagents_envs.sensors import spaces as pointnav
from sideagents_policies.agent.extractor import SideTunedExtractor
from sideagents_policies.agent.policy import PerEnvNoise, SideTunedPolicy
from sideagents_policies.agent.ppo import SideTunedPPO, expert_cross_entropy
from sideagents_policies.agent.rollout import rollout_stacks
from sideagents_policies.config import AgentConfig, PPOConfig
from sideagents_policies.parallel import ALONE, World
from sideagents_policies.views.plan import observation_space, stacked_keys
from sideagents_policies.views.stack import (
    ExpertLabels,
)


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
    """Build the policy alone, with fresh weights: enough to evaluate, count and clone. Raises `ConfigError`."""
    rate = config.ppo.learning_rate
    space, actions = observation_space(config, base), pointnav.action_space(config.task)
    with _as_config_error():
        return SideTunedPolicy(space, actions, lambda _: rate, **policy_kwargs(config, base)).to(device)


@contextmanager
def _as_config_error() -> Iterator[None]:
    """Name the section of the configuration in what cannot be built."""
    try:
        yield
    except SideAgentsError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"model: {error}") from None


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
    with _as_config_error():
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
