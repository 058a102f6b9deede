"""What a configuration will ask of memory and disk, told before anything is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sideagents.bases import load_base
from sideagents.bases.taskonomy_base import TaskonomyEncoder
from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError
from sideagents.ram import memory_line
from sideagents_policies.config import FRAMES_PER_TRAJECTORY, AgentConfig
from sideagents_policies.demos.collect import collecting_line
from sideagents_policies.demos.store import FrameStore, room_line
from sideagents_policies.train.dagger import kept_frames
from sideagents_policies.train.summary import reading_bytes, rollout_bytes, size_text
from sideagents_policies.views.plan import observation_space, stacked_keys


def estimates(config: AgentConfig, base: FrozenBase | None = None) -> Iterator[str]:
    """Yield a line on memory for PPO, for cloning, and on disk for demonstrations; none when the base is not known.

    base: the configuration's own, where it is loaded already.
    """
    try:
        base = _stand_in(config) if base is None else base
        space, stacks = observation_space(config, base), stacked_keys(config, base)
    except SideAgentsError:
        return
    each = f" in each of {config.workers} processes" if config.workers > 1 else ""
    yield f"memory of PPO's rollout: {size_text(rollout_bytes(config, space, stacks))}{each}"
    frames = config.demos.trajectories * FRAMES_PER_TRAJECTORY
    total = size_text(_kept(config) * FrameStore.frame_bytes(space, stacks))
    place = "disk for" if config.clone.frames_in == "disk" else "memory of"
    yield f"{place} cloning's frames: about {total}{each}"
    camera = config.camera
    image = 3 * camera.width * camera.height if config.demos.images else 0
    yield f"disk for demonstrations: at most {size_text(frames * (image + 48))}, before compression"


def _kept(config: AgentConfig) -> int:
    """Return about how many frames each process keeps in cloning: it knows when it has the demonstrations."""
    frames = config.demos.trajectories * FRAMES_PER_TRAJECTORY
    return kept_frames(config, frames // config.workers, config.workers)


def cloning_too_large(config: AgentConfig, base: FrozenBase | None = None) -> Iterator[str]:
    """Yield a line for each buffer of cloning, collecting included, that memory (or the disk) here does not hold.

    base: as in `estimates`. Of demonstrations the usual length is taken: cloning itself asks again when it has them.
    """
    if (line := collecting_line(config)) is not None:
        yield line
    try:
        base = _stand_in(config) if base is None else base
        space, stacks = observation_space(config, base), stacked_keys(config, base)
    except SideAgentsError:
        return
    folder = Path(config.runs) if config.clone.frames_in == "disk" else None
    line = room_line(space, _kept(config), stacks, config.vec.n_envs, folder, config.workers)
    if line is not None:
        yield line


def too_large(config: AgentConfig, base: FrozenBase | None = None) -> Iterator[str]:
    """Yield a line for each buffer of PPO that this machine's memory does not hold, in all its processes.

    base: as in `estimates`.
    """
    try:
        base = _stand_in(config) if base is None else base
        space, stacks = observation_space(config, base), stacked_keys(config, base)
    except SideAgentsError:
        return
    lines = (
        memory_line(
            config.workers * rollout_bytes(config, space, stacks),
            "PPO's rollout",
            "fewer vec.n_envs or ppo.n_steps, smaller images or maps take less",
        ),
        memory_line(
            config.workers * config.vec.n_envs * reading_bytes(config),
            "one reading of all environments",
            "fewer vec.n_envs, smaller images or maps take less",
        ),
    )
    yield from (line for line in lines if line is not None)


def _stand_in(config: AgentConfig) -> FrozenBase | None:
    """Return the base, or one with its shapes where its published weights are not there yet."""
    model = config.model
    if not model.use_rgb:
        return None
    try:
        return load_base(model.base, weights=model.base_weights)
    except (SideAgentsError, OSError):
        if not model.base.startswith("taskonomy:"):
            raise
        return FrozenBase(TaskonomyEncoder(), model.base, (256, 256))
