"""Demonstrations of the shortest-path expert, on disk.

DIR/
    demos.json          format, seed, camera, task, scenes, counts; `shards` lists the finished files
    shard_00000.npz     up to 500 whole trajectories, compressed, readable with np.load(allow_pickle=False):
        poses           float64 (T, 4)      x, y, z in metres and yaw in radians, before each step
        actions         int8 (T,)           0 forward, 1 left, 2 right, 3 stop; -1: none, the automatic stop
        rewards         float32 (T,)        of each step
        episode_starts  bool (T,)           first step of a trajectory
        goals           float64 (E, 3)      of each trajectory, metres
        scenes          str (E,)            name of its building
        successes       bool (E,)
        rgb             uint8 (T, H, W, 3)  the agent's view; without it (demos.images=false) rendered when read

Goal readings and maps are not stored: they follow from the poses, exactly.
"""

from __future__ import annotations

import dataclasses
import itertools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sideagents.errors import SideAgentsError
from sideagents.ram import memory_line
from sideagents.run.progress import Progress
from sideagents.storage.arrays import read_npz
from sideagents.storage.files import missing_message, read_json, require, write_json
from sideagents.storage.lock import LOCK, locked
from sideagents_envs.cache import atomic_path
from sideagents_envs.episodes.files import Episode
from sideagents_envs.episodes.listed import building_name, count_training_buildings
from sideagents_envs.sensors.spaces import NO_ACTION, STOP
from sideagents_policies.config import FRAMES_PER_TRAJECTORY, AgentConfig
from sideagents_policies.rewards import check_rewards
from sideagents_policies.views.environments import build_venv

FORMAT = 1
PER_SHARD = 500
_SEED = 7919  # demonstrations are other episodes than those that training draws from the same seed
_MUST_AGREE = (  # settings of the task that actions and rewards of a demonstration depend on
    "stop", "forward_m", "turn_deg", "success_distance_m",
    "slack_reward", "distance_reward", "success_reward", "collision_penalty",
)  # fmt: skip

_ARRAYS: dict[str, tuple[type[np.generic], int]] = {
    "poses": (np.float64, 2),
    "actions": (np.int8, 1),
    "rewards": (np.float32, 1),
    "episode_starts": (np.bool_, 1),
    "goals": (np.float64, 2),
    "scenes": (np.str_, 1),
    "successes": (np.bool_, 1),
}


class DemosError(SideAgentsError):
    """Demonstrations cannot be read or do not fit; the message names the file."""


@dataclass(frozen=True)
class Trajectory:
    """One demonstration of T steps: arrays as in the file; `rgb` is None when images were not kept."""

    poses: NDArray[np.float64]
    actions: NDArray[np.int8]
    rewards: NDArray[np.float32]
    goal: NDArray[np.float64]
    scene: str
    success: bool
    rgb: NDArray[np.uint8] | None


# collecting


def collect(config: AgentConfig, folder: Path, title: str = "demonstrations") -> Path:
    """Let the expert act until `folder` holds `demos.trajectories` demonstrations; finished shards are kept.

    The same configuration gives the same demonstrations, however many processes collect them. Raises `DemosError`
    when the folder holds demonstrations of another configuration.
    """
    header = _header(config)
    if folder.exists() and not folder.is_dir():
        raise DemosError(f"{folder}: is a file, demonstrations need a folder")
    if (folder / "demos.json").exists():
        shards = _continue(folder, header)
    elif folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        raise DemosError(f"{folder}: is not empty and holds no demonstrations (no demos.json); choose another folder")
    else:
        shards = []
    count = -(-config.demos.trajectories // PER_SHARD)
    if len(shards) < count:
        require([line] if (line := collecting_line(config)) is not None else [])
        with _working_on(folder):
            _collect_missing(config, folder, header, shards, count, title)
    return folder


def collecting_line(config: AgentConfig) -> str | None:
    """Return the line that says that the images of one file of demonstrations have no room in memory, or None."""
    image = 3 * config.camera.width * config.camera.height if config.demos.images else 0
    images = min(PER_SHARD, config.demos.trajectories) * FRAMES_PER_TRAJECTORY + config.vec.n_envs
    remedy = "smaller images take less, demos.images=false keeps none"
    return memory_line(images * image, "what is collected for one file of demonstrations", remedy)


@contextmanager
def _working_on(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of demonstrations; one that was made for it and is still empty at the end goes."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder):
            yield
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


def _collect_missing(
    config: AgentConfig, folder: Path, header: dict[str, Any], shards: list[dict[str, Any]], count: int, title: str
) -> None:
    total = config.demos.trajectories
    venv = build_venv(
        _expert_config(config), n_envs=min(config.vec.n_envs, total), perceive=False, images=config.demos.images
    )
    try:
        done = count_trajectories(shards)
        with Progress(total, title, unit="trajectory", done=done) as progress:
            for number in range(len(shards), count):
                wanted = min(PER_SHARD, total - number * PER_SHARD)
                arrays = _join(_collect_shard(venv, config, number, wanted, progress))
                _write_npz(folder / _shard_name(number), arrays)
                shards.append({"trajectories": wanted, "frames": _labelled(arrays)})
                write_json(folder / "demos.json", header | {"shards": shards})
    finally:
        venv.close()


def _header(config: AgentConfig) -> dict[str, Any]:
    """Return what makes demonstrations these and no others."""
    return {
        "format": FORMAT,
        "seed": config.seed,
        "trajectories": config.demos.trajectories,
        "images": config.demos.images,
        "n_envs": config.vec.n_envs,
        **_sections(config),
    }


def _sections(config: AgentConfig) -> dict[str, dict[str, Any]]:
    return config.model_dump(mode="json", include={"camera", "task", "scenes"})


def _continue(folder: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    found = read_header(folder)
    for key, default in _sections(AgentConfig()).items():  # a key that came later means its default
        found[key] = default | found[key] if isinstance(found.get(key), dict) else None
    for key, value in header.items():
        if found.get(key) != value:
            raise DemosError(
                f"{folder}: holds demonstrations with {key}={found.get(key)!r}, now {key}={value!r} is asked for; "
                "choose another folder"
            )
    shards: list[dict[str, Any]] = found["shards"]
    return shards


def _expert_config(config: AgentConfig) -> AgentConfig:
    """Return the configuration for collecting: processes in place of training workers, many buildings soon."""
    buildings = count_training_buildings(config.scenes)
    stay = max(1, min(config.scenes.episodes_per_building, config.demos.trajectories // buildings))
    vec = config.vec
    if config.workers > 1:
        vec = vec.model_copy(update={"kind": "subproc", "processes": max(config.workers, vec.processes)})
    return config.model_copy(
        update={
            "vec": vec,
            "scenes": dataclasses.replace(config.scenes, episodes_per_building=stay),
        }
    )


def _collect_shard(venv: Any, config: AgentConfig, number: int, wanted: int, progress: Progress) -> list[Trajectory]:
    """Collect `wanted` trajectories: each environment its fixed share, so that short ones are not preferred."""
    n = venv.num_envs
    shares = [wanted // n + (env < wanted % n) for env in range(n)]
    finished: list[list[Trajectory]] = [[] for _ in range(n)]
    open_steps: list[list[tuple[Any, ...]]] = [[] for _ in range(n)]
    begun: list[tuple[NDArray[np.float64], str]] = [(np.zeros(3), "")] * n
    venv.seed(int(np.random.SeedSequence([_SEED, config.seed, number]).generate_state(1)[0]))
    observations = venv.reset()
    fresh = list(range(n))
    while any(len(done) < share for done, share in zip(finished, shares, strict=True)):
        if fresh:
            state = venv.get_state()
            for env in fresh:
                episode = Episode.from_json(state["episodes"][env], "demonstration")
                begun[env] = (np.asarray(episode.goal, np.float64), building_name(episode.scene_id))
        poses, actions = venv.poses(), venv.expert_actions()
        following, rewards, dones, infos = venv.step(actions)
        check_rewards(rewards)
        fresh = [int(env) for env in np.flatnonzero(dones)]
        for env in range(n):
            if len(finished[env]) == shares[env]:
                continue
            automatic = dones[env] and config.task.stop == "auto" and infos[env]["is_success"]
            rgb = observations["rgb"][env] if config.demos.images else None
            open_steps[env].append((poses[env], NO_ACTION if automatic else actions[env], rewards[env], rgb))
            if dones[env]:
                finished[env].append(_trajectory(open_steps[env], *begun[env], bool(infos[env]["is_success"])))
                open_steps[env] = []
                progress.update()
        observations = following
    return [trajectory for done in finished for trajectory in done]


def _trajectory(steps: list[tuple[Any, ...]], goal: NDArray[np.float64], scene: str, success: bool) -> Trajectory:
    poses, actions, rewards, images = zip(*steps, strict=True)
    rgb = None if images[0] is None else np.stack(images)
    return Trajectory(
        np.stack(poses), np.array(actions, np.int8), np.array(rewards, np.float32), goal, scene, success, rgb
    )


# the files


def _join(trajectories: list[Trajectory]) -> dict[str, NDArray[Any]]:
    starts = [np.arange(len(t.actions)) == 0 for t in trajectories]
    arrays: dict[str, NDArray[Any]] = {
        "poses": np.concatenate([t.poses for t in trajectories]),
        "actions": np.concatenate([t.actions for t in trajectories]),
        "rewards": np.concatenate([t.rewards for t in trajectories]),
        "episode_starts": np.concatenate(starts),
        "goals": np.stack([t.goal for t in trajectories]),
        "scenes": np.array([t.scene for t in trajectories]),
        "successes": np.array([t.success for t in trajectories]),
    }
    if trajectories[0].rgb is not None:
        arrays["rgb"] = np.concatenate([t.rgb for t in trajectories if t.rgb is not None])
    return arrays


def labelled_end(actions: NDArray[np.int8]) -> int:
    """Return how many steps of a trajectory there are up to the last one with a label."""
    labelled = np.flatnonzero(actions != NO_ACTION)
    return int(labelled[-1]) + 1 if len(labelled) else 0


def _labelled(arrays: dict[str, NDArray[Any]]) -> list[int]:
    """Return how many steps of each trajectory are learnt from."""
    starts = np.flatnonzero(arrays["episode_starts"])
    return [labelled_end(actions) for actions in np.split(arrays["actions"], starts[1:])]


def _write_npz(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write an .npz with the fastest compression: np.savez_compressed takes four times as long for a tenth less."""
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)


def _shard_name(number: int) -> str:
    return f"shard_{number:05d}.npz"


def read_header(folder: Path) -> dict[str, Any]:
    """Return demos.json; raises `DemosError` when it is missing or broken."""
    if not folder.is_dir():
        raise DemosError(missing_message(folder).replace("no such file", "no such folder of demonstrations"))
    path = folder / "demos.json"
    found = read_json(path, DemosError)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DemosError(f"{path}: is no header of demonstrations in format {FORMAT}")
    kinds = {"images": bool, "trajectories": int, "task": dict, "shards": list}
    wrong = [key for key, kind in kinds.items() if not isinstance(found.get(key), kind)]
    if not wrong and not (found["shards"] and all(_is_shard(shard) for shard in found["shards"])):
        wrong = ["shards"]
    if wrong:
        raise DemosError(f"{path}: is damaged, {wrong[0]!r} is missing or wrong")
    return dict(found)


def _is_shard(shard: object) -> bool:
    """Return whether demos.json describes a shard as `collect` does: its trajectories and the frames of each."""
    if not isinstance(shard, dict) or not isinstance(shard.get("trajectories"), int):
        return False
    frames = shard.get("frames")
    if not isinstance(frames, list) or not all(isinstance(count, int) and count >= 0 for count in frames):
        return False
    return bool(len(frames) == shard["trajectories"] > 0)


def check_fits(folder: Path, config: AgentConfig) -> dict[str, Any]:
    """Return the header; raises `DemosError` when the demonstrations cannot train an agent of this configuration."""
    header = read_header(folder)
    camera, task = dataclasses.asdict(config.camera), dataclasses.asdict(config.task)
    if header["images"] and header.get("camera") != camera:
        raise DemosError(f"{folder}: was collected with camera {header.get('camera')}, the configuration has {camera}")
    have = count_trajectories(header["shards"])
    if have < header["trajectories"]:
        raise DemosError(
            f"{folder}: holds {have} of {header['trajectories']} trajectories; collecting was interrupted, "
            f"`sideagents demos CONFIG --out {folder}` finishes it"
        )
    for key in _MUST_AGREE:
        if header["task"].get(key) != task[key]:
            raise DemosError(
                f"{folder}: was collected with task.{key}={header['task'].get(key)!r}, "
                f"the configuration has {task[key]!r}"
            )
    return header


def count_trajectories(shards: list[dict[str, Any]]) -> int:
    """Return how many trajectories the finished files of a header hold."""
    return sum(int(shard["trajectories"]) for shard in shards)


def count_frames(header: dict[str, Any], first: int = 0, every: int = 1) -> int:
    """Return the labelled steps of every `every`-th trajectory from `first` on."""
    lengths = [int(length) for shard in header["shards"] for length in shard["frames"]]
    return sum(lengths[first::every])


def read_demos(folder: Path) -> Iterator[Trajectory]:
    """Yield every trajectory; raises `DemosError` for a missing, cut or foreign shard."""
    header = read_header(folder)
    for number, shard in enumerate(header["shards"]):
        path = folder / _shard_name(number)
        arrays = _read_shard(path, bool(header["images"]))
        bounds = [*np.flatnonzero(arrays["episode_starts"]).tolist(), len(arrays["actions"])]
        if len(bounds) - 1 != shard["trajectories"] or bounds[0] != 0:
            raise DemosError(f"{path}: holds {len(bounds) - 1} trajectories, demos.json says {shard['trajectories']}")
        for i, (a, b) in enumerate(itertools.pairwise(bounds)):
            rgb = arrays["rgb"][a:b] if "rgb" in arrays else None
            yield Trajectory(
                arrays["poses"][a:b],
                arrays["actions"][a:b],
                arrays["rewards"][a:b],
                arrays["goals"][i],
                str(arrays["scenes"][i]),
                bool(arrays["successes"][i]),
                rgb,
            )


def _read_shard(path: Path, images: bool) -> dict[str, NDArray[Any]]:
    expected = _ARRAYS | ({"rgb": (np.uint8, 4)} if images else {})
    arrays = read_npz(path, expected, "a shard of demonstrations", DemosError)
    steps, episodes = np.size(arrays["actions"]), len(np.atleast_1d(arrays["goals"]))
    for name, (dtype, dims) in expected.items():
        length = episodes if name in ("goals", "scenes", "successes") else steps
        array = arrays[name]
        if not np.issubdtype(array.dtype, dtype) or array.ndim != dims or len(array) != length or not length:
            raise DemosError(f"{path}: {name} is {array.dtype} {array.shape}, not {np.dtype(dtype)} of {length} rows")
    if not np.isfinite(arrays["poses"]).all() or not np.isfinite(arrays["rewards"]).all():
        raise DemosError(f"{path}: poses or rewards are not finite")
    if arrays["actions"].min() < NO_ACTION or arrays["actions"].max() > STOP:
        raise DemosError(f"{path}: actions must lie from {NO_ACTION} to {STOP}")
    return arrays
