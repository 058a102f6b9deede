"""Settings of the environments: plain dataclasses, units in the names, checked when made."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from sideagents_envs.errors import EnvsError

_STRICT = {"extra": "forbid", "allow_inf_nan": False, "strict": True}  # read by pydantic when a config file is checked

T = TypeVar("T")


def _key(default: T, description: str, **marks: Any) -> T:
    """Return a field that says what its key means; marks: see `sideagents.config.typed`."""
    return field(default=default, metadata={"description": description, **marks})


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

    width: int = _key(64, "pixels, above 0")
    height: int = _key(64, "pixels, above 0")
    hfov_deg: float = _key(90.0, "horizontal field of view in degrees, from 1 to below 179; pixels are square")
    height_m: float = _key(1.25, "of the camera above the floor, metres, above 0")

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

    cell_m: float = _key(0.05, "side of a grid cell, metres, above 0")
    agent_radius_m: float = _key(0.1, "of the agent's cylinder, metres, above 0")
    agent_height_m: float = _key(1.5, "of the agent's cylinder, metres, above 0")
    max_climb_m: float = _key(0.2, "highest step that can be climbed, metres, above 0")
    max_slope_deg: float = _key(45.0, "steepest slope that can be walked on, degrees, above 0")

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

    kind: str = _key(
        "pointnav",
        "`pointnav`: distance and direction tell the goal; `imagenav`: a picture shows it; or your own task",
        neutral=True,
    )
    stop: Literal["auto", "explicit"] = _key(
        "auto", "`auto`: an agent within `success_distance_m` stops by itself; `explicit`: a fourth action stops"
    )
    max_steps: int = _key(500, "after so many steps an episode is truncated; above 0")
    success_distance_m: float = _key(0.2, "geodesic distance below which stopping is a success, metres, above 0")
    forward_m: float = _key(0.25, "length of a forward step, metres, above 0")
    turn_deg: float = _key(10.0, "of a turn to the left or right, degrees, above 0")
    slack_reward: float = _key(-0.01, "of every step")
    distance_reward: float = _key(1.0, "for each metre that the geodesic distance became shorter")
    success_reward: float = _key(10.0, "of the step that ends a successful episode")
    collision_penalty: float = _key(0.0, "subtracted for a forward step that was blocked")
    allow_sliding: bool = _key(True, "whether a blocked step slides along the obstacle or ends at it")
    map_size_m: float = _key(22.0, "side of the square that the occupancy map shows, metres, above 0")
    map_cells: int = _key(84, "side of the occupancy map in cells, above 0; the network needs at least 36")
    rgb: bool = _key(True, "render RGB images")
    depth: bool = _key(False, "render depth images; the network reads them when they are there")

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

    dataset: str = _key(
        "bundled", "`bundled`, or a folder with `train/*.glb`, `val/*.glb`, ... (below `SIDEAGENTS_DATA` too)"
    )
    buildings: int = _key(0, "use the first so many training buildings; 0 = all; at least 0")
    episodes_per_building: int = _key(
        10, "a training environment moves to the next building after so many episodes; above 0"
    )
    episodes: str | None = _key(None, "PointNav-v1 `.json.gz` file; `{split}` in it is replaced by the split's name")
    only: tuple[str, ...] = _key((), "names of the training buildings to use; empty = all", neutral=True)
    up: Literal["auto", "y", "z"] = _key(
        "auto", "axis that points upwards in the files: auto (stage configuration beside, else y), y or z", neutral=True
    )
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

    config: str = _key(
        "benchmark/nav/pointnav/pointnav_gibson.yaml", "a YAML file of habitat-lab, by its name there or a path"
    )
    overrides: tuple[str, ...] = _key((), "words passed on to habitat-lab, e.g. `habitat.seed=3`")
    gpu_device_ids: tuple[int, ...] = _key(
        (), "GPUs of habitat-sim, dealt to the workers; -1: CPU; empty: all there are"
    )

    def __post_init__(self) -> None:
        if any(not -1 <= number < 1024 for number in self.gpu_device_ids):
            raise EnvsError(f"gpu_device_ids must be -1 (CPU) or more, below 1024, got {list(self.gpu_device_ids)}")
