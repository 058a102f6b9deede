"""What an agent reads of its observations: decided once from its configuration, and handed on."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from gymnasium import spaces

from sideagents.bases import load_base
from sideagents.core.base import FrozenBase
from sideagents.core.methods import build_perception
from sideagents.machine.precision import base_dtype
from sideagents_envs.task.tasks import make_task
from sideagents_policies.config import AgentConfig, ModelConfig
from sideagents_policies.views.stack import (
    Stacking,
    stacked_space,
    stackings,
)


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
    sensors = make_task(config.camera, config.task).sensors
    drops = () if model.use_map else ("map",)
    stacks = {"goal": model.goal_history} if any(sensor.key == "goal" for sensor in sensors) else {}
    if base is None:
        return Sight(None, False, stacks, {}, (*drops, *(sensor.key for sensor in sensors if sensor.camera)))
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
    parts = dict(make_task(config.camera, config.task).observation_space.spaces)
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
