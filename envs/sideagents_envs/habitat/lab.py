"""habitat-lab's environment from our settings: its YAML, our camera and task, an episode at a time."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from sideagents_envs.config import CameraConfig, HabitatConfig, HabitatSimulator, NavMeshConfig, TaskConfig
from sideagents_envs.episodes.files import Episode
from sideagents_envs.errors import EnvsError, nearest
from sideagents_envs.habitat.importing import INSTALL_SIM, SIMULATOR_NAME, has_habitat_sim, import_habitat
from sideagents_envs.habitat.registering import register
from sideagents_envs.scenes.stage import is_staged, with_up
from sideagents_envs.sensors.spaces import FURTHEST_DEPTH_M

SIMULATORS = ("auto", "habitat_sim", "sideagents")
_MEASURES = ("distance_to_goal", "success", "spl", "soft_spl", "collisions")
_OFF_FLOOR_M = 0.02
_ACTIONS = ("stop", "move_forward", "turn_left", "turn_right")


def chosen_simulator(name: HabitatSimulator) -> str:
    """Return `habitat_sim` or `sideagents`; `auto` is habitat-sim where it is installed.

    Raises EnvsError for an unknown name, or habitat-sim where it is absent.
    """
    if name not in SIMULATORS:
        known = ", ".join(SIMULATORS)
        raise EnvsError(f"habitat_simulator must be one of {known}, got {name!r}{nearest(name, SIMULATORS)}")
    if name == "habitat_sim" and not has_habitat_sim():
        raise EnvsError(f"habitat_simulator: habitat_sim is not installed: {INSTALL_SIM}; `sideagents` needs nothing")
    if name == "auto":
        return "habitat_sim" if has_habitat_sim() else "sideagents"
    return name


def gpu_of(config: HabitatConfig, worker: int) -> int:
    """Return the GPU on which a worker's habitat-sim renders, -1 for the CPU."""
    ids: Sequence[int] = config.gpu_device_ids or range(len(glob("/dev/nvidia[0-9]*"))) or (-1,)
    return ids[worker % len(ids)]


def lab_config(
    config: HabitatConfig, camera: CameraConfig, task: TaskConfig, navmesh: NavMeshConfig, simulator: str, gpu: int = -1
) -> Any:
    """Return habitat-lab's configuration with our settings in it.

    Raises EnvsError when habitat-lab cannot read or does not know something in `config` and `overrides`, or for an
    angle that is not a whole number of degrees, which habitat-lab asks for.
    """
    import_habitat()
    from habitat.config import read_write

    for key, degrees in (("task.turn_deg", task.turn_deg), ("camera.hfov_deg", camera.hfov_deg)):
        if degrees != int(degrees):
            raise EnvsError(f"{key}: habitat-lab has whole degrees, got {degrees}")
    tree = _read(config, ())
    missing = [name for name in _MEASURES if name not in tree.habitat.task.measurements]
    if missing:
        group = "habitat/task/measurements@habitat.task.measurements"
        tree = _read(config, [f"+{group}.{name}={name}" for name in missing])
    absent = [name for name in _ACTIONS if name not in tree.habitat.task.actions]
    if absent:
        raise EnvsError(f"habitat.config {config.config}: its task has no action {absent[0]!r}, which is needed")
    sensor = tree.habitat.task.lab_sensors.get("pointgoal_with_gps_compass_sensor")
    if sensor is not None and (sensor.goal_format != "POLAR" or sensor.dimensionality != 2):
        raise EnvsError(f"habitat.config {config.config}: the goal's sensor must be POLAR, of dimensionality 2")
    if simulator == "habitat_sim" and not (task.rgb or task.depth):
        # without a camera habitat-sim takes the process with it at the second building: it gets a tiny one
        camera, task = replace(camera, width=4, height=4), replace(task, rgb=True)
    with read_write(tree):
        habitat = tree.habitat
        habitat.environment.max_episode_steps = task.max_steps
        habitat.task.measurements.success.success_distance = task.success_distance_m
        sim = habitat.simulator
        sim.type = SIMULATOR_NAME if simulator == "sideagents" else "Sim-v0"
        sim.forward_step_size = task.forward_m
        sim.turn_angle = int(task.turn_deg)
        sim.habitat_sim_v0.allow_sliding = task.allow_sliding
        sim.habitat_sim_v0.gpu_device_id = gpu
        for agent in sim.agents.values():
            agent.radius, agent.height = navmesh.agent_radius_m, navmesh.agent_height_m
            agent.max_climb, agent.max_slope = navmesh.max_climb_m, navmesh.max_slope_deg
            _set_cameras(agent.sim_sensors, camera, task)
    return tree


def _read(config: HabitatConfig, ours: Sequence[str]) -> Any:
    from habitat.config.default import get_config

    try:
        return get_config(config.config, overrides=[*ours, *config.overrides])
    except Exception as error:  # hydra raises many kinds, all of them about the file or an override
        reason = " ".join(str(error).split())
        raise EnvsError(f"habitat.config {config.config} with {list(config.overrides)}: {reason}") from None


def _set_cameras(sensors: Any, camera: CameraConfig, task: TaskConfig) -> None:
    wanted = {"HabitatSimRGBSensor": task.rgb, "HabitatSimDepthSensor": task.depth}
    for name in list(sensors):
        sensor = sensors[name]
        if not wanted.get(sensor.type, False):
            del sensors[name]
            continue
        del wanted[sensor.type]  # a second camera of the kind would not be looked at
        sensor.width, sensor.height, sensor.hfov = camera.width, camera.height, int(camera.hfov_deg)
        sensor.position, sensor.orientation = [0.0, camera.height_m, 0.0], [0.0, 0.0, 0.0]
        if sensor.type == "HabitatSimDepthSensor":
            sensor.normalize_depth, sensor.min_depth, sensor.max_depth = False, 0.0, FURTHEST_DEPTH_M
    for kind, asked in wanted.items():
        if asked:
            raise EnvsError(f"habitat.config: its agent has no {kind}, which task.rgb or task.depth asks for")


def make_lab_env(tree: Any, first: Any) -> Any:
    """Return a `habitat.Env` with one episode of `navigation_episode`; global random generators stay as they are."""
    habitat = import_habitat()
    if tree.habitat.simulator.type == SIMULATOR_NAME:
        register()
    from habitat.datasets.pointnav.pointnav_dataset import PointNavDatasetV1

    dataset = PointNavDatasetV1()
    dataset.episodes = [first]
    habitat.logger.setLevel(logging.WARNING)  # it tells each environment's parts otherwise
    with _global_generators_kept():  # its episode iterator and seed() seed them
        return habitat.Env(tree, dataset)


def navigation_episode(episode: Episode, scene: Path) -> Any:
    """Return an episode as habitat-lab has it, in the building of the file `scene`."""
    import_habitat()
    from habitat.tasks.nav.nav import NavigationEpisode, NavigationGoal

    return NavigationEpisode(
        episode_id=episode.episode_id,
        scene_id=str(scene_file(scene)),
        start_position=[float(v) for v in episode.start_position],
        start_rotation=[float(v) for v in episode.start_rotation],
        goals=[NavigationGoal(position=[float(v) for v in episode.goal], radius=episode.radius)],
    )


def move_to_floor(episode: Any, pathfinder: Any) -> bool:
    """Move start and goal of habitat-lab's episode onto habitat-sim's walkable space; tell whether they were off it.

    It lies up to 0.2 m, a cell's height, above the floor. Episodes made with habitat-sim are on it already; from one
    that is not, a goal on the floor would be further away than counts as success.
    """
    moved = False
    for holder, name in ((episode, "start_position"), *((goal, "position") for goal in episode.goals)):
        point = np.asarray(getattr(holder, name), np.float32)
        there = np.array(pathfinder.snap_point(point), np.float64)
        if np.isfinite(there).all() and abs(there[1] - point[1]) > _OFF_FLOOR_M:
            setattr(holder, name, [float(v) for v in there])
            moved = True
    return moved


def make_follower(sim: Any, radius_m: float) -> Any:
    """Return habitat-lab's shortest-path follower on habitat-sim: `get_next_action(goal)` gives its action number."""
    from habitat.tasks.nav.shortest_path_follower import ShortestPathFollower

    return ShortestPathFollower(sim, goal_radius=radius_m, return_one_hot=False)


def scene_file(path: Path) -> Path:
    """Return the file that Habitat opens the way we do: without a stage configuration it would put Z up."""
    return path if is_staged(path) else with_up(path, "y")


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
