"""Film an agent: its view, what the base makes of it, the occupancy map, the path from above, alpha."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from stable_baselines3.common.vec_env import VecEnv

from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError
from sideagents_envs.cache import atomic_path
from sideagents_envs.sensors.pointgoal import goal_readings
from sideagents_envs.walk.navmesh import NavMesh, cached_navmesh
from sideagents_policies.agent.runs import LoadedAgent, load_agent
from sideagents_policies.config import AgentConfig
from sideagents_policies.evaluate.agents import Agent, PolicyAgent, baseline
from sideagents_policies.evaluate.evaluation import EpisodesFrom, choose_episodes
from sideagents_policies.evaluate.panels import CodePalette, Image8, TopDown, compose
from sideagents_policies.views.environments import build_venv

FRAMES_PER_SECOND = 12
GIF_FRAMES = 100  # at about 20 KB each
_GIF_COLOURS = 128
_GIF_FASTEST = 50  # frames a second; viewers slow down what asks for more
_PLAN_M = 0.05


class Scene:
    """What does not move in an episode's pictures: the plan, the goal, the shortest path."""

    def __init__(self, navmesh: NavMesh, start: NDArray[np.float64], goal: NDArray[np.float64]) -> None:
        free, origin = navmesh.topdown(_PLAN_M, float(start[1]))
        self.plan = TopDown(free, origin, _PLAN_M)
        self.goal = (float(goal[0]), float(goal[2]))
        self.shortest = np.asarray(navmesh.distance_field(goal).path(start))[:, [0, 2]]

    def draw(self, track: NDArray[np.float64], yaw: float) -> Image8:
        """Return the plan with the path walked so far."""
        return self.plan.draw(track, yaw, self.goal, self.shortest)


@dataclass(frozen=True)
class Look:
    """One step of a filmed episode: the path (T, 2) and the yaw, what the agent has of the rest, a header."""

    track: NDArray[np.float64]
    yaw: float
    occupancy: Image8
    view: Image8 | None
    pictures: list[tuple[str, Image8]]
    code: NDArray[np.floating[Any]] | None
    header: str


def record(
    run: Path,
    episode: int = 0,
    out: Path | None = None,
    split: str | None = None,
    episodes_file: Path | None = None,
    scenes_dir: Path | None = None,
    deterministic: bool | None = None,
    overrides: Sequence[str] = (),
    fps: int = FRAMES_PER_SECOND,
) -> Path:
    """Play episode number `episode` of a list and write a video (.mp4 or .gif) or one of its pictures (.png).

    Returns the path; the picture is the one two thirds into the episode.

    Raises `SideAgentsError` for an episode that the list does not have or another file type.
    """
    _check_type(out)
    loaded = load_agent(run, overrides)
    chosen, config = choose_episodes(loaded.config, split, 0, episodes_file, scenes_dir)
    frames, row = film_of(loaded, chosen, config, episode, deterministic)
    if out is None:
        out = loaded.run.subfolder("videos") / f"{chosen.label}_{episode:04d}.mp4"
    return _write(out, frames, row, fps)


def film_of(
    loaded: LoadedAgent,
    chosen: EpisodesFrom,
    config: AgentConfig,
    episode: int,
    deterministic: bool | None = None,
    most: int | None = None,
) -> tuple[list[Image8], dict[str, Any]]:
    """Let a loaded agent play an episode of what `choose_episodes` returned; return as `film` does."""
    greedy = config.eval.deterministic if deterministic is None else deterministic
    agent = PolicyAgent(loaded.policy.logits, config.seed, greedy, config.eval.temperature)
    alpha = float(getattr(loaded.policy.features_extractor, "alpha_value", lambda: float("nan"))())
    venv = build_venv(config, chosen.split, 1, base=loaded.base, episodes_file=chosen.file, world=loaded.world)
    return film(config, venv, agent, episode, loaded.base, alpha, most)


def record_baseline(
    name: str,
    config: AgentConfig,
    episode: int = 0,
    out: Path | None = None,
    split: str | None = None,
    episodes_file: Path | None = None,
    scenes_dir: Path | None = None,
    fps: int = FRAMES_PER_SECOND,
) -> Path:
    """Film `expert`, `random`, `forward` or `straight`, without a base's panel; otherwise as `record`."""
    _check_type(out)
    make = baseline(name)
    chosen, config = choose_episodes(config, split, 0, episodes_file, scenes_dir)
    venv = build_venv(config, chosen.split, 1, episodes_file=chosen.file, perceive=False, images=config.task.rgb)
    frames, row = film(config, venv, make(venv, config.task, config.seed), episode)
    return _write(out or Path(f"{name}_{chosen.label}_{episode:04d}.mp4"), frames, row, fps)


def film(
    config: AgentConfig,
    venv: VecEnv,
    agent: Agent,
    episode: int,
    base: FrozenBase | None = None,
    alpha: float = float("nan"),
    most: int | None = None,
) -> tuple[list[Image8], dict[str, Any]]:
    """Play one episode in a single environment and close it; return the frames (H, W, 3) and the episode's measures.

    most: of a longer episode, so many pictures, evenly chosen.
    """
    inner: Any = venv.unwrapped
    try:
        if not 0 <= episode < inner.episode_count:
            raise SideAgentsError(f"--episode {episode}: the list has episodes 0 to {inner.episode_count - 1}")
        observations: Any = _skip_to(venv, episode)
        agent.begin(0, *inner.episode_names[episode])
        path, present = inner.present()[0]
        scene = Scene(cached_navmesh(path, config.scenes.navmesh), inner.poses()[0, :3], np.asarray(present.goal))
        blend = "" if alpha != alpha else f"   alpha {alpha:.2f}"
        shown = [sensor.key for sensor in inner.task.sensors if sensor.fixed and sensor.camera]
        looks: list[Look] = []
        done = False
        while not done:
            pose, track = inner.poses()[0], inner.tracks()[0]
            raw = inner.observe()
            away = float(goal_readings(pose[None], np.asarray(present.goal)[None])[0, 0])
            header = f"step {len(looks):3d}   goal {away:4.1f} m{blend}   {path.stem}"
            view = raw["rgb"][0] if "rgb" in raw else None
            code = observations["base"][0][-base.out_shape[0] :] if base and "base" in observations else None
            pictures = [(key.replace("_", " "), raw[key][0]) for key in shown]
            looks.append(Look(track.copy(), float(pose[3]), raw["map"][0], view, pictures, code, header))
            observations, _, dones, infos = venv.step(agent.act(observations))
            done = bool(dones[0])
        count = min(len(looks), most or len(looks))
        kept = [looks[i] for i in np.linspace(0, len(looks) - 1, count).round().astype(int)]
        return _compose(kept, scene, base), infos[0]
    finally:
        venv.close()


def _skip_to(venv: Any, episode: int) -> Any:
    """Return the observations of the episode, which begins as any other does: it is the only one of its list."""
    venv.unwrapped.entries = [episode]
    return venv.reset()


def _compose(looks: list[Look], scene: Scene, base: FrozenBase | None) -> list[Image8]:
    codes = [look.code for look in looks if look.code is not None and look.code.ndim == 3]
    palette = CodePalette(np.stack(codes)) if codes else None
    frames = []
    for look in looks:
        panels: list[tuple[str, Image8]] = []
        if look.view is not None:
            panels.append(("the agent's view", look.view))
        panels += look.pictures
        if palette is not None and look.code is not None and base is not None and not look.pictures:
            panels.append((f"base: {base.name}", palette.paint(look.code)))
        panels += [
            ("visited places" if look.pictures else "visited places and goal", look.occupancy),
            ("from above", scene.draw(look.track, look.yaw)),
        ]
        frames.append(compose(panels, look.header))
    return frames


def _check_type(out: Path | None) -> None:
    if out is not None and out.suffix not in (".mp4", ".gif", ".png"):
        raise SideAgentsError(f"--out {out}: a video is a .mp4 or a .gif, a picture a .png")


def _write(out: Path, frames: list[Image8], row: dict[str, Any], fps: int) -> Path:
    """Tell how the episode ended, write its video or picture, return the path."""
    ending = "reached the goal" if row["is_success"] else "did not reach the goal"
    print(f"{row['scene_id']} episode {row['episode_id']}: {ending} in {row['steps']} steps, SPL {row['spl']:.2f}")
    if out.suffix == ".png":
        with atomic_path(out) as temporary:
            Image.fromarray(frames[2 * len(frames) // 3]).save(temporary)
        return out
    return write_video(out, frames, fps)


def write_video(path: Path, frames: list[Image8], fps: int = FRAMES_PER_SECOND) -> Path:
    """Write frames (H, W, 3) as .mp4 (H.264) or .gif, whole or not at all.

    A .gif takes at most `GIF_FRAMES` of them, evenly chosen, and lasts as long as all would.
    """
    with atomic_path(path) as temporary:
        if path.suffix == ".gif":
            _write_gif(temporary, frames, fps)
        else:
            writer: Any = imageio.get_writer(temporary, format="FFMPEG", fps=fps, codec="libx264")
            with writer:
                for frame in frames:
                    writer.append_data(frame)
    return path


def _write_gif(path: Path, frames: list[Image8], fps: int) -> None:
    count = max(1, min(len(frames), GIF_FRAMES, len(frames) * _GIF_FASTEST // fps))
    kept = np.linspace(0, len(frames) - 1, count).round().astype(int)
    # a GIF counts hundredths of a second: rounding the moments, not the durations, keeps the sum
    moments = np.rint(np.linspace(0, len(frames), count + 1) * 100 / fps).astype(int) * 10
    sample = np.concatenate([frames[i] for i in kept[:: max(1, count // 8)]])
    # one palette without dithering: what stands still is then equal in consecutive frames, and written once
    palette = Image.fromarray(sample).quantize(_GIF_COLOURS, Image.Quantize.FASTOCTREE)
    images = [Image.fromarray(frames[i]).quantize(palette=palette, dither=Image.Dither.NONE) for i in kept]
    durations = np.diff(moments).tolist()
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)
