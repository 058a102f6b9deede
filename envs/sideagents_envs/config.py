"""Settings of the environments: plain dataclasses, units in the names, checked when made."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from sideagents_envs.errors import EnvsError

_STRICT = {"extra": "forbid", "allow_inf_nan": False, "strict": True}  # read by pydantic when a config file is checked


def _positive(owner: Any, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not (math.isfinite(value) and value > 0):
            raise EnvsError(f"{name} must be a positive number, got {value!r}")


def _at_most(owner: Any) -> None:
    """Hold the numbers named in `MOST` to their limits, whatever their sign."""
    for name, most in owner.MOST.items():
        if not abs(getattr(owner, name)) <= most:
            raise EnvsError(f"{name} must be at most {most:g}, got {getattr(owner, name)!r}")


@dataclass(frozen=True)
class CameraConfig:
    """The agent's camera: a pinhole at `height_m` above the floor, looking along the heading.

    `hfov_deg` is the horizontal field of view; pixels are square.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    MOST: ClassVar[dict[str, float]] = {"width": 4096, "height": 4096, "height_m": 100.0}

    width: int = 64
    height: int = 64
    hfov_deg: float = 90.0
    height_m: float = 1.25

    def __post_init__(self) -> None:
        _positive(self, "width", "height", "height_m")
        _at_most(self)
        if not 1.0 <= self.hfov_deg < 179.0:
            raise EnvsError(f"hfov_deg must lie in [1, 179), got {self.hfov_deg!r}")


@dataclass(frozen=True)
class NavMeshConfig:
    """Walkable space: Habitat's navmesh defaults, on a grid of `cell_m`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    MOST: ClassVar[dict[str, float]] = {
        "cell_m": 10.0, "agent_radius_m": 10.0, "agent_height_m": 100.0, "max_climb_m": 50.0, "max_slope_deg": 90.0
    }  # fmt: skip

    cell_m: float = 0.05
    agent_radius_m: float = 0.1
    agent_height_m: float = 1.5
    max_climb_m: float = 0.2
    max_slope_deg: float = 45.0

    def __post_init__(self) -> None:
        _positive(self, *(f.name for f in fields(self)))
        _at_most(self)
        if self.agent_radius_m < self.cell_m:
            raise EnvsError(f"agent_radius_m ({self.agent_radius_m}) must be at least cell_m ({self.cell_m})")
        if self.agent_height_m <= 2 * self.max_climb_m:
            raise EnvsError(
                f"agent_height_m ({self.agent_height_m}) must exceed twice max_climb_m ({self.max_climb_m})"
            )


@dataclass(frozen=True)
class TaskConfig:
    """Navigation as in the side-tuning paper (automatic stop) or with Habitat's own stop action; `kind` names the task.

    Reward of a step: `slack_reward + distance_reward * (previous - current geodesic distance)`, plus `success_reward`
    on the step that ends a successful episode, minus `collision_penalty` for a blocked forward step (0 in the paper).
    `rgb` and `depth` choose the images; without both nothing is rendered.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    MOST: ClassVar[dict[str, float]] = {
        "max_steps": 10**6, "success_distance_m": 1e4, "forward_m": 1e3, "turn_deg": 360.0, "slack_reward": 1e6,
        "distance_reward": 1e6, "success_reward": 1e6, "collision_penalty": 1e6, "map_size_m": 1e4, "map_cells": 1024,
    }  # fmt: skip

    kind: str = field(default="pointnav", metadata={"neutral": True})
    stop: Literal["auto", "explicit"] = "auto"
    max_steps: int = 500
    success_distance_m: float = 0.2
    forward_m: float = 0.25
    turn_deg: float = 10.0
    slack_reward: float = -0.01
    distance_reward: float = 1.0
    success_reward: float = 10.0
    collision_penalty: float = 0.0
    allow_sliding: bool = True
    map_size_m: float = 22.0
    map_cells: int = 84
    rgb: bool = True
    depth: bool = False

    def __post_init__(self) -> None:
        _positive(self, "max_steps", "success_distance_m", "forward_m", "turn_deg", "map_size_m", "map_cells")
        _at_most(self)
        if self.stop not in ("auto", "explicit"):
            raise EnvsError(f"stop must be 'auto' or 'explicit', got {self.stop!r}")


@dataclass(frozen=True)
class ScenesConfig:
    """Where buildings and episodes come from.

    `dataset` is `bundled` (procedural buildings, made on first use) or a folder with `{split}/*.glb`.
    `buildings` limits how many of the training buildings are used (0 = all), the first ones of the dataset; a building
    is switched every `episodes_per_building` episodes, as in the paper. `episodes` optionally names a PointNav-v1
    `.json.gz` file (`{split}` is filled in); without it training episodes are drawn at random and held-out ones come
    from the dataset. With both, only the listed episodes in the first `buildings` of the dataset are trained on.
    `only` names the training buildings; empty: all that there are.
    A leading `~` in `dataset` and `episodes` is the home folder. `up` is the axis that points upwards in the files:
    `auto` reads Habitat's `NAME.stage_config.json` beside a building and takes Y, glTF's own convention, without one;
    the files of Gibson, Matterport3D and HM3D have Z up.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    MOST: ClassVar[dict[str, float]] = {"buildings": 10**6, "episodes_per_building": 10**9}

    dataset: str = "bundled"
    buildings: int = 0
    episodes_per_building: int = 10
    episodes: str | None = None
    only: tuple[str, ...] = field(default=(), metadata={"neutral": True})
    up: Literal["auto", "y", "z"] = field(default="auto", metadata={"neutral": True})
    navmesh: NavMeshConfig = NavMeshConfig()

    def __post_init__(self) -> None:
        _positive(self, "episodes_per_building")
        _at_most(self)
        if self.buildings < 0:
            raise EnvsError(f"buildings must be 0 (all) or more, got {self.buildings}")

    @property
    def folder(self) -> Path | None:
        """The dataset's folder, None for the bundled buildings."""
        return None if self.dataset == "bundled" else Path(os.path.expanduser(self.dataset))

    def episodes_path(self, split: str) -> Path | None:
        """Return the episode file that `episodes` names for a split, None when it names none."""
        return None if self.episodes is None else Path(os.path.expanduser(self.episodes.replace("{split}", split)))


HabitatSimulator = Literal["auto", "habitat_sim", "sideagents"]


@dataclass(frozen=True)
class HabitatConfig:
    """How habitat-lab is set up where `env` is `habitat`; camera, task and scenes are the same keys as elsewhere.

    `config` is a YAML file of habitat-lab, by its name there or a path; `overrides` are passed on to it as they are,
    behind ours. `gpu_device_ids` are dealt to the worker processes in turn; empty: all GPUs of the machine, or -1,
    which renders on the CPU, where there is none.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    config: str = "benchmark/nav/pointnav/pointnav_gibson.yaml"
    overrides: tuple[str, ...] = ()
    gpu_device_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(not -1 <= number < 1024 for number in self.gpu_device_ids):
            raise EnvsError(f"gpu_device_ids must be -1 (CPU) or more, below 1024, got {list(self.gpu_device_ids)}")
