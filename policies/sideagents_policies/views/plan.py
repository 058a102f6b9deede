"""What an agent reads of its observations: decided once from its configuration, and handed on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from sideagents.bases import load_base
from sideagents.core.base import FrozenBase
from sideagents.core.methods import what_is_read
from sideagents.errors import ConfigError, SideAgentsError
from sideagents.machine.precision import base_dtype
from sideagents_envs.task.tasks import make_task
from sideagents_policies.config import AgentConfig
from sideagents_policies.views.stack import (
    Stacking,
    stacked_space,
    stackings,
)


@dataclass(frozen=True)
class Plan:
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
    """Load the base that the configuration names; None for a blind agent. Raises `ConfigError` where that fails."""
    if not config.model.use_rgb:
        return None
    dtype = base_dtype(config.precision, config.device)
    try:
        return load_base(config.model.base, weights=config.model.base_weights, dtype=dtype)
    except SideAgentsError as error:
        raise ConfigError(f"model.base: {error}") from None


def plan_of(config: AgentConfig, base: FrozenBase | None) -> Plan:
    """Decide what is encoded, stacked and dropped; codes are stacked, or the images of methods that train the base."""
    model = config.model
    sensors = make_task(config.camera, config.task).sensors
    drops = () if model.use_map else ("map",)
    stacks = {"goal": model.goal_history} if any(sensor.key == "goal" for sensor in sensors) else {}
    if base is None:
        return Plan(None, False, stacks, {}, (*drops, *(sensor.key for sensor in sensors if sensor.camera)))
    codes, images = what_is_read(model.method, model.side)
    seen = "base" if codes else "rgb"
    stacks[seen] = model.frames
    return Plan(base if codes else None, images, stacks, {seen: model.frame_stride}, drops)


def observation_space(config: AgentConfig, base: FrozenBase | None) -> spaces.Dict:
    """Return the space of the observations that `build_venv` makes, without making environments."""
    plan = plan_of(config, base)
    parts = dict(make_task(config.camera, config.task).observation_space.spaces)
    if plan.base is not None:
        parts["base"] = spaces.Box(-np.inf, np.inf, plan.base.out_shape, np.float32)
        if not plan.keep_rgb:
            del parts["rgb"]
    for key, count in plan.stacks.items():
        box = parts[key]
        if count > 1 and isinstance(box, spaces.Box):
            parts[key] = stacked_space(box, count, axis=2 if key == "rgb" else 0)
    return spaces.Dict({key: space for key, space in parts.items() if key not in plan.drops})


def stacked_keys(config: AgentConfig, base: FrozenBase | None) -> dict[str, Stacking]:
    """Return how the keys of `observation_space` are stacked that hold several readings."""
    plan = plan_of(config, base)
    return stackings(observation_space(config, base), plan.stacks, plan.strides)
