"""How fast agents train: PPO with codes computed once, with the base inside, and the limit that the parts allow."""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.bases import BASES, benchmark_base
from benchmarks.timing import PARTS, Parts, Seconds, Trainer, timed
from sideagents.config.typed import dump_config
from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError, nearest
from sideagents.machine.precision import resolved
from sideagents.storage.files import read_json, write_text
from sideagents_envs.buildings.generator import GENERATOR_VERSION
from sideagents_envs.config import ScenesConfig, TaskConfig
from sideagents_policies.config import AgentConfig, ModelConfig, PPOConfig, VecConfig
from sideagents_policies.parallel import launch
from sideagents_policies.views.encode import EncodeOnce
from sideagents_policies.views.environments import build_venv
from sideagents_policies.views.stack import StackKeys, layers

WORKER = Path(__file__).parents[1] / "benchmark_worker.py"
CHOICES = (*BASES, "workers")
EPOCHS = 10
# An untrained agent wanders until the time limit. This one makes episodes about as long as a trained agent's, so that
# new episodes, new buildings and SB3's bootstrap at time limits have their usual share.
MAX_STEPS = 100
BUILDINGS = 8
Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is timed: `n_envs * n_steps` frames an update, `batch_size` a mini-batch, `repeats` updates."""

    n_envs: int
    n_steps: int
    batch_size: int
    repeats: int


SIZES = {
    "bundled": Size(16, 64, 256, 5),
    "resnet18": Size(16, 32, 256, 4),
    "resnet50": Size(16, 16, 256, 3),
    "workers": Size(16, 64, 256, 3),
}
QUICK = Size(4, 8, 16, 1)


def benchmark_train(
    only: Sequence[str] = CHOICES,
    *,
    quick: bool = False,
    scenes: ScenesConfig | None = None,
    progress: Callable[[str], None] = print,
) -> list[Row]:
    """Measure frames per second of PPO, wall clock, one torch thread, 10 epochs on each rollout.

    For each base in `only` an agent whose base runs once a frame (`EncodeOnce`) and one with the base inside the
    extractor take turns, an update each, and after each turn the parts are timed alone. The limit is what the parts
    add up to: a step of the environment, a forward pass of base and policy for each frame, and 10 times the network's
    forward and backward pass with the optimizer's step. `workers`: two training processes against one.
    Rows hold medians over the repeats. `quick` shows that all of it runs; its figures mean nothing.

    Raises:
        SideAgentsError: an unknown name in `only`, or a worker failed.
        EnvsError: `scenes` cannot be used.
    """
    for name in only:
        if name not in CHOICES:
            raise SideAgentsError(f"unknown benchmark {name!r}{nearest(name, CHOICES)} (known: {', '.join(CHOICES)})")
    only = list(dict.fromkeys(only))
    scenes = ScenesConfig(buildings=BUILDINGS) if scenes is None else scenes
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[Row] = []
    contests: list[_Contest] = []
    try:
        for name in only:
            size = QUICK if quick else SIZES[name]
            config = benchmark_config(size, scenes)
            if name == "workers":
                fresh = _workers(config, size)
            else:
                contests.append(_compete(config, name, size.repeats))
                fresh = _contest_rows(name, contests[-1], _about(config, size))
            if contests and name == only[-1]:
                fresh.append(_forwards_row(contests))
            for row in fresh:
                progress(f"{row['name']}: {row['value']:.4g} {row['unit']}".rstrip())
            rows += fresh
    finally:
        torch.set_num_threads(threads)
    return rows


def benchmark_config(size: Size, scenes: ScenesConfig) -> AgentConfig:
    """Return the configuration that is timed: the default network with map and goal, in bfloat16."""
    return AgentConfig(
        name="benchmark",
        device="cpu",
        task=TaskConfig(max_steps=MAX_STEPS),
        scenes=scenes,
        vec=VecConfig(n_envs=size.n_envs),
        model=ModelConfig(base="random"),
        ppo=PPOConfig(n_steps=size.n_steps, batch_size=size.batch_size, n_epochs=EPOCHS),
    )


@dataclass(frozen=True)
class _Contest:
    """Seconds per frame and repeat of both ways and of the parts; what the base was run on while codes came once.

    images: all that the base saw, counted at the base itself; forwards, steps: `EncodeOnce`'s own counters.
    """

    samples: Mapping[str, Sequence[Seconds]]
    images: int
    forwards: int
    steps: int


def _compete(config: AgentConfig, name: str, repeats: int) -> _Contest:
    """Time both ways and the parts in turns, in one process."""
    base = benchmark_base(name, precision=config.precision)
    with ExitStack() as stack:

        def trainer(venv: VecEnv) -> Trainer:
            made = stack.enter_context(closing(Trainer(config, venv, base)))
            made.warm_up()
            return made

        once, model = trainer(build_venv(config, base=base)), trainer(build_venv(config, base=base))
        inside = trainer(
            StackKeys(build_venv(config, perceive=False, images=True), {"goal": config.model.goal_history})
        )
        bare = stack.enter_context(closing(build_venv(config, perceive=False, images=True)))
        parts = Parts(config, model, base, bare)
        encoder = next(layer for layer in layers(once.venv) if isinstance(layer, EncodeOnce))
        steps, forwards, images = encoder.env_steps, encoder.base_forwards, 0
        samples: dict[str, list[Seconds]] = defaultdict(list)
        for _ in range(repeats):
            with counted(base) as seen:
                samples["once"].append(timed(once.update) / once.frames)
            images += sum(seen)
            samples["inside"].append(timed(inside.update) / inside.frames)
            for part, seconds in parts.measure().items():
                samples[part].append(seconds)
        return _Contest(samples, images, encoder.base_forwards - forwards, encoder.env_steps - steps)


@contextmanager
def counted(base: FrozenBase) -> Iterator[list[int]]:
    """Note how many images each forward pass of the base gets."""
    seen: list[int] = []
    hook = base.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    try:
        yield seen
    finally:
        hook.remove()


def _contest_rows(name: str, contest: _Contest, about: Row) -> list[Row]:
    """Turn seconds per frame into rows; ratios are those of the medians that the rows hold."""
    medians: dict[str, Seconds] = {key: np.median(seconds, axis=0) for key, seconds in contest.samples.items()}
    medians["limit"] = np.sum([medians[part] for part in PARTS], axis=0)
    once, inside, limit = medians["once"], medians["inside"], medians["limit"]
    rows = [
        _row(f"ppo_encode_once_fps_{name}", 1.0 / once, "frames/s", about, **_spread(contest.samples["once"])),
        _row(f"ppo_base_inside_fps_{name}", 1.0 / inside, "frames/s", about, **_spread(contest.samples["inside"])),
        _row(f"ppo_limit_fps_{name}", 1.0 / limit, "frames/s", about),
        _row(f"ppo_fraction_of_limit_{name}", limit / once, "", about),
        _row(f"ppo_speedup_{name}", inside / once, "", about),
    ]
    for part, seconds in [*((part, medians[part]) for part in PARTS), ("rest", once - limit)]:
        rows.append(_row(f"ppo_milliseconds_{part}_{name}", 1e3 * seconds, "ms/frame", about))
    return rows


def _forwards_row(contests: Sequence[_Contest]) -> Row:
    steps = sum(contest.steps for contest in contests)
    return {
        "name": "base_forwards_per_env_step",
        "value": sum(contest.forwards for contest in contests) / steps,
        "unit": "",
        "env_steps": steps,
        "generator_version": GENERATOR_VERSION,
        # counted at the base itself, whoever calls it; the terminal images of episodes are the difference
        "images_per_env_step": sum(contest.images for contest in contests) / steps,
    }


def _workers(config: AgentConfig, size: Size) -> list[Row]:
    """Time one training process against two, of one thread each, in turns."""
    samples: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder, _one_thread_each():
        settings, out = Path(folder) / "config.yaml", Path(folder) / "seconds.json"
        write_text(settings, dump_config(config))
        for _ in range(1 if size == QUICK else 2):
            for workers, speeds in samples.items():
                arguments = [str(WORKER), str(settings), str(size.repeats), str(out)]
                if launch(workers, arguments):
                    raise SideAgentsError(f"benchmark: {workers} training process(es) failed")
                timing = read_json(out)
                speeds += [timing["frames"] / seconds for seconds in timing["seconds"]]
    about = _about(config, size)
    medians = {workers: float(np.median(speeds)) for workers, speeds in samples.items()}
    rows: list[Row] = [
        {
            "name": f"ppo_workers_{workers}_fps",
            "value": medians[workers],
            "unit": "frames/s",
            "low": min(speeds),
            "high": max(speeds),
            **about,
        }
        for workers, speeds in samples.items()
    ]
    return [*rows, {"name": "ppo_workers_speedup", "value": medians[2] / medians[1], "unit": "", **about}]


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes started in the block use one thread, in every library."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _row(name: str, value: Seconds, unit: str, about: Row, **more: float) -> Row:
    """Make a row of a figure by the wall clock, with the same by processor time, which other programs disturb less."""
    return {"name": name, "value": float(value[0]), "unit": unit, "by_processor": float(value[1]), **more, **about}


def _spread(samples: Sequence[Seconds]) -> dict[str, float]:
    walls = [float(seconds[0]) for seconds in samples]
    return {"low": 1.0 / max(walls), "high": 1.0 / min(walls)}


def _about(config: AgentConfig, size: Size) -> Row:
    return {
        **asdict(size),
        "epochs": config.ppo.n_epochs,
        "threads": config.threads,
        "precision": resolved(config.precision, config.device),
        "buildings": config.scenes.buildings,
        "image": f"{config.camera.width}x{config.camera.height}",
        "max_steps": config.task.max_steps,
        "seed": config.seed,
        "generator_version": GENERATOR_VERSION,
    }
