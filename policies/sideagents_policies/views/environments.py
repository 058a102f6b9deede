"""The environments of an agent: wrapped so that they show what its network reads."""

from __future__ import annotations

import functools
import sys
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

import sideagents_envs
from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError, nearest
from sideagents_envs.config import TaskConfig
from sideagents_envs.sensors.sensor import Sensor
from sideagents_policies.config import AgentConfig
from sideagents_policies.parallel import ALONE, World
from sideagents_policies.views.encode import EncodeOnce
from sideagents_policies.views.plan import agent_base, plan_of
from sideagents_policies.views.stack import (
    Observation,
    StackKeys,
    StepReturn,
    dict_space,
)


class _ChangedKeys(VecEnvWrapper):
    """Show observations as `shown` changes them, those in `terminal_observation` too."""

    @abstractmethod
    def shown(self, observation: Any) -> Observation:
        """Return the changed observation, of all environments or of one."""

    def reset(self) -> Observation:
        """Reset all environments."""
        return self.shown(self.venv.reset())

    def step_wait(self) -> StepReturn:
        """Return the step's result, changed."""
        observation, rewards, dones, infos = self.venv.step_wait()
        for env in np.flatnonzero(dones):
            if infos[env].get("terminal_observation") is not None:
                infos[env]["terminal_observation"] = self.shown(infos[env]["terminal_observation"])
        return self.shown(observation), rewards, dones, infos


class DropKeys(_ChangedKeys):
    """Leave out observation keys that the agent's network does not read, so that no buffer stores them."""

    def __init__(self, venv: VecEnv, keys: Sequence[str]) -> None:
        kept = {key: space for key, space in dict_space(venv, "DropKeys").spaces.items() if key not in keys}
        super().__init__(venv, observation_space=spaces.Dict(kept))
        self._keys = tuple(kept)

    def shown(self, observation: Any) -> Observation:
        """Return the kept keys."""
        return {key: observation[key] for key in self._keys}


class BlankKeys(_ChangedKeys):
    """Show some keys as an environment without an episode has them: nothing is seen, nothing is known.

    Raises `SideAgentsError` for a key that is not in the observation.
    """

    def __init__(self, venv: VecEnv, keys: Sequence[str]) -> None:
        sensors = venv.get_attr("task")[0].sensors
        check_blanks(keys, sensors)
        blanks = {sensor.key: sensor.blank for sensor in sensors}
        super().__init__(venv)
        self._blanks = {key: blanks[key] for key in keys}

    def shown(self, observation: Any) -> Observation:
        """Return the observation with empty keys."""
        return {**observation, **{key: np.full_like(observation[key], blank) for key, blank in self._blanks.items()}}


def check_blanks(keys: Sequence[str], sensors: Sequence[Sensor]) -> None:
    """Raise `SideAgentsError` for a key of `eval.blank` that no sensor has."""
    known = [sensor.key for sensor in sensors]
    for key in keys:
        if key not in known:
            raise SideAgentsError(f"eval.blank: no key {key!r}{nearest(key, known)} in the observation {known}")


def seen_task(config: AgentConfig, images: bool) -> TaskConfig:
    """Return the task as an agent meets it: without cameras where none is read."""
    return config.task if images else replace(config.task, rgb=False, depth=False)


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
    blank: Sequence[str] = (),
) -> VecEnv:
    """Make the environments of one process and the wrappers of the agent.

    n_envs: by default `vec.n_envs`. base: from `agent_base`, loaded when needed and not given. episodes_file: a fixed
    list in place of the split's own. world: this process among those that train together. With `perceive=False` the
    environments come bare, for agents that are no networks, and render nothing unless `images` asks for it. blank: keys
    that are shown empty.
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
        task=seen_task(config, seeing),
        scenes=config.scenes,
        episodes_file=episodes_file,
        first_env=world.rank * count,
        total_envs=world.size * count,
        workers=count if alone else min(config.vec.processes, count),
        habitat=config.habitat if config.env == "habitat" else None,
        habitat_simulator=config.habitat_simulator,
    )
    try:
        if blank:
            venv = BlankKeys(venv, blank)
        return with_views(venv, config, base, world) if perceive else venv
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


def with_views(venv: VecEnv, config: AgentConfig, base: FrozenBase | None, world: World) -> VecEnv:
    """Wrap environments so that they show what the agent's network reads."""
    plan = plan_of(config, base if base is not None else agent_base(config))
    if plan.base is not None:
        venv = EncodeOnce(venv, plan.base, keep_rgb=plan.keep_rgb, device=world.device)
    venv = StackKeys(venv, plan.stacks, plan.strides)
    return DropKeys(venv, plan.drops) if plan.drops else venv
