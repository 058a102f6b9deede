"""The same episodes through every stack that is installed: does the expert end alike, and how fast does each go."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sideagents_envs.batch.navigation_batch import NavigationBatch
from sideagents_envs.bodies.bodies import Bodies
from sideagents_envs.bodies.embedded_bodies import EmbeddedBodies
from sideagents_envs.config import CameraConfig, HabitatConfig, NavMeshConfig, ScenesConfig, TaskConfig
from sideagents_envs.episodes.bundled import scenes_root
from sideagents_envs.episodes.files import generate_episodes
from sideagents_envs.episodes.listed import building_name
from sideagents_envs.episodes.sources import EpisodeList
from sideagents_envs.errors import EnvsError
from sideagents_envs.habitat.importing import INSTALL_LAB, has_habitat_lab, has_habitat_sim
from sideagents_envs.habitat.lab_bodies import HabitatBodies
from sideagents_envs.simulators.embedded import EmbeddedWorld
from sideagents_envs.task.tasks import make_task
from sideagents_envs.walk.navmesh import cached_navmesh

Row = dict[str, Any]


def benchmark_stacks(
    scenes: Sequence[Path] = (),
    *,
    sizes: Sequence[int] = (64, 256),
    episodes: int = 20,
    seed: int = 1,
    progress: Callable[[str], None] = print,
) -> list[Row]:
    """Play the expert's episodes in the first bundled `val` building and in `scenes`, one environment at a time.

    Rows hold environment steps per second, observations included, with the expert's success and SPL. Stacks:
    `embedded`; `habitat_lab`, habitat-lab on our simulator; `habitat_sim`, habitat-lab on habitat-sim.

    Raises:
        SceneError: a building cannot be used.
        EnvsError: habitat-lab is not installed, or a number is out of range.
    """
    if not has_habitat_lab():
        raise EnvsError(f"habitat-lab is not installed: {INSTALL_LAB}")
    if episodes < 1 or not sizes or min(sizes) < 1:
        raise EnvsError(f"sizes and episodes must be at least 1, got {list(sizes)} and {episodes}")
    stacks = ("embedded", "habitat_lab", *(("habitat_sim",) if has_habitat_sim() else ()))
    rows: list[Row] = []
    for path in (scenes_root(ScenesConfig(), "val")[0], *scenes):
        for size in sizes:
            for stack in stacks:
                row = _play(stack, path, CameraConfig(size, size), episodes, seed)
                progress(
                    f"{row['name']}: {row['value']:.0f} steps/s, success {row['success']:.2f}, SPL {row['spl']:.3f}"
                )
                rows.append(row)
    return rows


def _play(stack: str, path: Path, camera: CameraConfig, count: int, seed: int) -> Row:
    task = TaskConfig(stop="explicit")
    world = EmbeddedWorld([path], camera, NavMeshConfig())
    listed = generate_episodes(cached_navmesh(path), path.name, count, seed)
    source = EpisodeList(world, [(0, episode) for episode in listed], str(path))
    bodies: Bodies
    if stack == "embedded":
        bodies = EmbeddedBodies(world, 1, task)
    else:
        simulator: Any = "sideagents" if stack == "habitat_lab" else "habitat_sim"
        bodies = HabitatBodies(world, 1, camera, task, HabitatConfig(), simulator)
    batch = NavigationBatch(bodies, source, 1, make_task(camera, task))
    _episode(batch, 0)  # opens the building, compiles
    played = [_episode(batch, number) for number in range(count)]
    batch.close()
    rates = [steps / seconds for steps, seconds, _ in played]
    return {
        "name": f"stack_steps_per_second_{stack}_{camera.width}_{building_name(path.name)}",
        "value": float(np.median(rates)),
        "unit": "steps/s",
        "low": min(rates),
        "high": max(rates),
        "stack": stack,
        "pixels": camera.width,
        "building": building_name(path.name),
        "episodes": count,
        "success": float(np.mean([info["is_success"] for *_, info in played])),
        "spl": float(np.mean([info["spl"] for *_, info in played])),
        "steps_per_episode": float(np.mean([steps for steps, *_ in played])),
        "triangles": world.triangles(0),
    }


def _episode(batch: NavigationBatch, number: int) -> tuple[int, float, dict[str, Any]]:
    """Return steps, seconds of stepping and observing, and the measures of one episode."""
    batch.begin(0, number)
    steps, seconds = 0, 0.0
    while batch.active[0]:
        action = batch.expert_actions()
        begin = time.perf_counter()
        result = batch.step(action)
        batch.observe()
        seconds += time.perf_counter() - begin
        steps += 1
    return steps, seconds, result.infos[0]
