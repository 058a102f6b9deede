"""How fast the environments are: steps per second of one process, everything included, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.batch.navigation_batch import NavigationBatch
from sideagents_envs.batch.shards import LocalShard
from sideagents_envs.batch.vec import PointNavVecEnv
from sideagents_envs.bodies.embedded_bodies import EmbeddedBodies
from sideagents_envs.buildings import GENERATOR_VERSION
from sideagents_envs.config import CameraConfig, NavMeshConfig, ScenesConfig, TaskConfig
from sideagents_envs.episodes.bundled import scenes_root
from sideagents_envs.episodes.sources import Start, TrainingEpisodes
from sideagents_envs.errors import EnvsError, SceneError
from sideagents_envs.scenes.scene import load_scene
from sideagents_envs.sensors.occupancy import draw_maps
from sideagents_envs.simulators.embedded import EmbeddedWorld, Simulator, Walkable
from sideagents_envs.task.tasks import make_task
from sideagents_envs.walk.navmesh import cached_navmesh

SIZES = (64, 84, 128, 256)
MANY_TRIANGLES = 5_000
RANDOM_SHARE = 0.3  # of the actions; the others are the expert's: episodes as long as a trained agent's
Row = dict[str, Any]


class _TimedSimulator:
    """A simulator that adds up the seconds spent rendering."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self.paths = simulator.paths
        self.seconds = 0.0

    def navmesh(self, scene: int) -> Walkable:
        return self._simulator.navmesh(scene)

    def render(
        self, scenes: NDArray[np.int64], poses: NDArray[np.float64], channels: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        begin = time.perf_counter()
        images = self._simulator.render(scenes, poses, channels)
        self.seconds += time.perf_counter() - begin
        return images


class _TimedEpisodes(TrainingEpisodes):
    """Episodes that add up the seconds spent on drawing them and on their distance fields."""

    seconds = 0.0

    def take(self, env: int, ticket: int = 0) -> Start:
        begin = time.perf_counter()
        start = super().take(env, ticket)
        self.seconds += time.perf_counter() - begin
        return start


def benchmark_env(
    *,
    sizes: Sequence[int] = SIZES,
    n_envs: int = 8,
    steps: int = 300,
    repeats: int = 5,
    scene: Path | None = None,
    progress: Callable[[str], None] = print,
) -> list[Row]:
    """Measure environment steps per second, wall clock, one process; `steps` batched steps per repeat.

    Per image size in pixels: all environments in one bundled building of at least 5,000 triangles, and at the first
    size spread over four; with `scene` also in that building. Rows hold the median over the repeats.

    Raises:
        SceneError: `scene` cannot be used.
        EnvsError: a number is out of range.
    """
    cameras = {size: CameraConfig(width=size, height=size) for size in sizes}
    if not cameras or min(n_envs, steps, repeats) < 1:
        raise EnvsError(
            f"sizes, n_envs, steps and repeats must be at least 1, got {sizes}, {n_envs}, {steps}, {repeats}"
        )
    if scene is not None:
        cached_navmesh(scene, NavMeshConfig())
    many = _buildings_of_many_triangles(4)
    setups = [("", many[:1], size) for size in sizes]
    setups.insert(1, ("_4_buildings", many, sizes[0]))
    if scene is not None:
        setups += [(f"_{scene.stem}", [scene], size) for size in sizes]
    rows: list[Row] = []
    for suffix, paths, size in setups:
        measured = _measure(f"{size}{suffix}", paths, cameras[size], n_envs, steps, repeats)
        if scene is None or paths != [scene]:
            measured = [{**row, "generator_version": GENERATOR_VERSION} for row in measured]
        progress("; ".join(f"{row['name']} {row['value']:.4g} {row['unit']}" for row in measured))
        rows += measured
    return rows


def _buildings_of_many_triangles(count: int) -> list[Path]:
    found: list[Path] = []
    for path in scenes_root(ScenesConfig(), "train"):
        if load_scene(path).n_triangles >= MANY_TRIANGLES:
            found.append(path)
        if len(found) == count:
            return found
    raise SceneError(f"fewer than {count} bundled buildings have {MANY_TRIANGLES} triangles")


_PARTS = ("render", "map", "reset", "rest")


def _measure(
    label: str, paths: Sequence[Path], camera: CameraConfig, n_envs: int, steps: int, repeats: int
) -> list[Row]:
    task = TaskConfig()
    simulator = _TimedSimulator(EmbeddedWorld(paths, camera, NavMeshConfig()))
    source = _TimedEpisodes(simulator, [path.stem for path in paths], n_envs, 0)
    batch = NavigationBatch(EmbeddedBodies(simulator, n_envs, task), source, n_envs, make_task(camera, task))
    env = PointNavVecEnv([LocalShard(batch)], batch.task)
    rng = np.random.default_rng(0)
    env.reset()
    _play(env, rng, 20)
    rates, processor_rates, totals, episodes = [], [], dict.fromkeys(_PARTS, 0.0), 0
    for _ in range(repeats):
        simulator.seconds = source.seconds = 0.0
        wall, processor, ended = _play(env, rng, steps)
        rates.append(n_envs * steps / wall)
        processor_rates.append(n_envs * steps / processor)
        episodes += ended
        drawing = _seconds_per_map(batch) * n_envs * steps
        parts = (simulator.seconds, drawing, source.seconds, wall - simulator.seconds - drawing - source.seconds)
        for part, seconds in zip(_PARTS, parts, strict=True):
            totals[part] += seconds
    taken = n_envs * steps * repeats
    about = {
        "n_envs": n_envs,
        "buildings": [path.stem for path in paths],
        "triangles": sum(load_scene(path).n_triangles for path in paths),
        "actions": f"expert, {RANDOM_SHARE:.0%} random",
    }
    rows: list[Row] = [
        {
            "name": f"env_steps_per_second_{label}",
            "value": float(np.median(rates)),
            "unit": "steps/s",
            "low": min(rates),
            "high": max(rates),
            "per_processor_second": float(np.median(processor_rates)),
            "repeats": repeats,
            "steps": taken,
            "steps_per_episode": taken / max(episodes, 1),
            **about,
        }
    ]
    rows += [
        {"name": f"env_milliseconds_{part}_{label}", "value": 1e3 * totals[part] / taken, "unit": "ms/step", **about}
        for part in _PARTS
    ]
    return rows


def _play(env: PointNavVecEnv, rng: np.random.Generator, steps: int) -> tuple[float, float, int]:
    """Return wall and processor seconds of the steps alone (not of the expert), and the episodes that ended."""
    wall = processor = 0.0
    ended = 0
    for _ in range(steps):
        actions = env.expert_actions()
        stray = rng.random(env.num_envs) < RANDOM_SHARE
        actions[stray] = rng.integers(0, 3, int(stray.sum()))
        begin, begin_processor = time.perf_counter(), time.process_time()
        dones = env.step(actions)[2]
        wall += time.perf_counter() - begin
        processor += time.process_time() - begin_processor
        ended += int(dones.sum())
    return wall, processor, ended


def _seconds_per_map(batch: NavigationBatch, repeats: int = 20) -> float:
    """Time the drawing of the maps alone, as they are now."""
    tracks = batch.tracks()
    lengths = np.array([len(track) for track in tracks])
    padded = np.zeros((batch.n_envs, lengths.max(), 2))
    for row, track in zip(padded, tracks, strict=True):
        row[: len(track)] = track
    maps = np.empty((batch.n_envs, *(batch.observation_space["map"].shape or ())), np.uint8)
    begin = time.perf_counter()
    for _ in range(repeats):
        draw_maps(maps, padded, lengths, batch.poses, batch.goals, batch.task.config.map_size_m)
    return (time.perf_counter() - begin) / repeats / batch.n_envs
