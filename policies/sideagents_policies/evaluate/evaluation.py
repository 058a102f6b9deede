"""Evaluation on a fixed list: a row for each episode, means with bootstrap intervals over buildings and episodes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from sideagents.config.typed import config_hash, differences, load_config
from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError
from sideagents.machine.devices import processor_name
from sideagents.machine.seeding import untouched_rng
from sideagents.run.progress import Progress, Show
from sideagents.run.stats import bootstrap_interval
from sideagents.storage.files import write_json, write_text
from sideagents_envs.config import TaskConfig
from sideagents_envs.episodes.bundled import dataset_name
from sideagents_envs.episodes.sources import Name
from sideagents_envs.versions import LISTS_VERSION
from sideagents_policies.agent.policy import SideTunedPolicy
from sideagents_policies.agent.runs import LoadedAgent, load_agent, open_run
from sideagents_policies.config import AgentConfig
from sideagents_policies.evaluate.agents import Agent, PolicyAgent, baseline
from sideagents_policies.evaluate.tables import results_table
from sideagents_policies.parallel import ALONE, World
from sideagents_policies.paths import locate
from sideagents_policies.views.environments import build_venv, simulator_of

Row = dict[str, Any]
_REWARD = ("slack_reward", "distance_reward", "success_reward", "collision_penalty")
# settings that are in the folder's name themselves, or that results do not depend on
_WITHOUT_EFFECT = ("eval.", "device", "precision", "threads", "runs", "workers")
METRICS = ("success", "spl", "soft_spl", "nav_reward", "steps", "collisions", "distance_to_goal")


@dataclass(frozen=True)
class EpisodesFrom:
    """Which episodes: a split's, or those of a file with buildings in `scenes_dir`; the first `count` (0: all).

    A list is played round its buildings, so that any `count` visits them evenly.
    """

    split: str
    count: int = 0
    file: Path | None = None
    scenes_dir: Path | None = None

    @property
    def label(self) -> str:
        """A short name, fit for a folder."""
        return self.file.name.split(".")[0] if self.file is not None else self.split

    def applied_to(self, config: AgentConfig) -> AgentConfig:
        """Return the configuration with the buildings' folder of these episodes."""
        if self.scenes_dir is None:
            return config
        return config.model_copy(update={"scenes": replace(config.scenes, dataset=str(self.scenes_dir))})


def run_episodes(venv: VecEnv, agent: Agent, count: int = 0, title: str = "episodes", show: Show = "auto") -> list[Row]:
    """Let `agent` play the environments' fixed list, or its first `count` episodes; return rows in the list's order."""
    inner: Any = venv.unwrapped
    names: list[Name] = inner.episode_names[: count or None]
    # the list visits its buildings in turn; played one after the other, few of them have to be held in memory
    first_seen = {scene_id: i for i, scene_id in enumerate(dict.fromkeys(scene_id for scene_id, _ in names))}
    inner.entries = sorted(range(len(names)), key=lambda number: first_seen[names[number][0]])
    rows: dict[int, Row] = {}
    observations: Any = venv.reset()
    playing = inner.tickets.copy()

    def begin(env: int) -> None:
        playing[env] = inner.tickets[env]
        # an idle environment's actions do nothing, but the agent has to give some
        agent.begin(env, *(names[playing[env]] if playing[env] >= 0 else ("", "")))

    for env in range(venv.num_envs):
        begin(env)
    with Progress(len(names), title, unit="episode", show=show) as progress:
        while len(rows) < len(names):
            observations, _, dones, infos = venv.step(agent.act(observations))
            for env in np.flatnonzero(dones):  # an idle environment is never done
                rows[int(playing[env])] = _row(int(playing[env]), infos[env])
                progress.update(1, success=float(np.mean([row["success"] for row in rows.values()])))
                begin(int(env))
    return [rows[i] for i in sorted(rows)]


def _row(number: int, info: Mapping[str, Any]) -> Row:
    return {
        "number": number,
        "scene_id": info["scene_id"],
        "episode_id": info["episode_id"],
        "success": float(info["is_success"]),
        "spl": float(info["spl"]),
        "soft_spl": float(info["soft_spl"]),
        "nav_reward": float(info["episode_return"]),
        "steps": int(info["steps"]),
        "collisions": int(info["collisions"]),
        "distance_to_goal": float(info["distance_to_goal"]),
        "start_geodesic": float(info["start_geodesic"]),
    }


def summarise(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return metric -> {"mean", "low", "high"}: the mean over episodes and its 95 % bootstrap interval.

    Buildings are resampled, then episodes within them; episodes alone where all are of one building.
    """
    buildings = [row["scene_id"] for row in rows]
    return {
        metric: bootstrap_interval([row[metric] for row in rows], buildings=buildings)._asdict() for metric in METRICS
    }


def means_by_building(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return scene_id -> {"episodes": how many were played there, metric: their mean}, in the list's order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["scene_id"], []).append(row)
    return {
        scene_id: {"episodes": len(group)} | {m: float(np.mean([row[m] for row in group])) for m in METRICS}
        for scene_id, group in groups.items()
    }


def evaluate_run(
    run: Path,
    split: str | None = None,
    episodes: int | None = None,
    json_path: Path | None = None,
    episodes_file: Path | None = None,
    scenes_dir: Path | None = None,
    deterministic: bool | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate a run, or one of its checkpoints, print the table and write rows below RUN/eval; return the result.

    The result is `{"episodes": n, "metrics": {...}, ...}`, also written to `json_path`. What is None comes from the
    run's own configuration. Raises `SideAgentsError` or `EnvsError` for what cannot be read or does not fit.
    """
    played = play_run(run, split, episodes, episodes_file, scenes_dir, deterministic, overrides)
    _deliver(played.result, json_path)
    print(f"wrote {played.folder}")
    return played.result


def evaluate_runs(
    runs: Sequence[Path],
    split: str | None = None,
    episodes: int | None = None,
    episodes_file: Path | None = None,
    scenes_dir: Path | None = None,
    deterministic: bool | None = None,
    overrides: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Evaluate several runs as `evaluate_run` does, and print one table with a row for each; return their results."""
    runs = list(dict.fromkeys(runs))
    for run in runs:
        open_run(run, overrides)[0].checkpoint()  # a wrong name is told before the first of them plays
    results = []
    for run in runs:
        played = play_run(run, split, episodes, episodes_file, scenes_dir, deterministic, overrides)
        print(f"wrote {played.folder}")
        results.append(played.result)
    names = [result["agent"] for result in results]
    labels = names if len(set(names)) == len(names) else [str(run) for run in runs]
    print(results_table(dict(zip(labels, results, strict=True))))
    return results


@dataclass(frozen=True)
class Played:
    """What came of an evaluation: its result, a row for each episode, and the folder that both were written to."""

    result: dict[str, Any]
    rows: list[Row]
    folder: Path


def play_run(
    run: Path,
    split: str | None = None,
    episodes: int | None = None,
    episodes_file: Path | None = None,
    scenes_dir: Path | None = None,
    deterministic: bool | None = None,
    overrides: Sequence[str] = (),
) -> Played:
    """Let a run play its episodes as `evaluate_run` does, write rows and result below RUN/eval, and print nothing."""
    loaded = load_agent(run, overrides)
    torch.set_num_threads(loaded.config.threads)
    chosen, config = choose_episodes(loaded.config, split, episodes, episodes_file, scenes_dir)
    greedy = config.eval.deterministic if deterministic is None else deterministic
    venv = _venv(config, chosen, base=loaded.base, perceive=True, world=loaded.world)
    try:
        agent = PolicyAgent(loaded.policy.logits, config.seed, greedy, config.eval.temperature)
        rows = run_episodes(venv, agent, chosen.count, f"{loaded.run.path.name} on {chosen.label}")
    finally:
        venv.close()
    mode = "argmax" if greedy else "sampled"
    result = {
        "agent": loaded.run.path.name,
        "checkpoint": loaded.run.checkpoint().name,
        "actions": mode,
        "temperature": config.eval.temperature,
        "precision": config.precision,
        "processor": processor_name(),
        "config_hash": config_hash(loaded.config),
        "overrides": list(overrides),
        **_result(rows, chosen, config),
    }
    folder = loaded.run.subfolder("eval") / _folder_name(loaded, chosen, config, mode)
    shared = {"buildings": result["buildings"], "lists": result["lists"]}
    lines = [json.dumps(row | shared) + "\n" for row in rows]
    write_text(folder / "episodes.jsonl", "".join(lines))
    write_json(folder / "metrics.json", result)
    return Played(result, rows, folder)


def _folder_name(loaded: LoadedAgent, chosen: EpisodesFrom, config: AgentConfig, mode: str) -> str:
    """Return the name of the folder of an evaluation: list, mode, checkpoint, and what is not as in the run."""
    parts = [chosen.label, mode, f"step{loaded.checkpoint.step}"]
    if chosen.count:
        parts.append(f"first{chosen.count}")
    if mode == "sampled" and config.eval.temperature != 1.0:
        parts.append(f"temperature{config.eval.temperature:g}")
    if config.eval.blank:
        parts.append(f"without-{'-'.join(config.eval.blank)}")
    own = load_config(AgentConfig, loaded.run.config_path)
    changed = differences(locate(own), loaded.config)
    if any(not key.startswith(_WITHOUT_EFFECT) for key in changed):
        parts.append(config_hash(loaded.config)[:8])
    return "_".join(parts)


def evaluate_baseline(
    name: str,
    config: AgentConfig,
    split: str | None = None,
    episodes: int | None = None,
    json_path: Path | None = None,
    episodes_file: Path | None = None,
    scenes_dir: Path | None = None,
    show: bool = True,
) -> dict[str, Any]:
    """Evaluate `expert`, `random`, `forward` or `straight` on the same episodes; otherwise as `evaluate_run`.

    show: print the table.
    """
    chosen, config = choose_episodes(config, split, episodes, episodes_file, scenes_dir)
    make = baseline(name)  # an unknown name is told before buildings are made
    venv = _venv(config, chosen, base=None, perceive=False)
    try:
        agent = make(venv, config.task, config.seed)
        rows = run_episodes(venv, agent, chosen.count, f"{name} on {chosen.label}")
    finally:
        venv.close()
    result = {"agent": name, **_result(rows, chosen, config)}
    return _deliver(result, json_path) if show else result


class TrainingEvaluation:
    """Evaluates a policy while it is trained, in environments of its own, without a trace in the training.

    The episodes are the first `eval.during_episodes` of the list of `eval.split`. Raises as `choose_episodes`, and
    `EnvsError` when the environments cannot be made.
    """

    def __init__(self, config: AgentConfig, base: FrozenBase | None, world: World) -> None:
        self._chosen, self._config = choose_episodes(config, None, config.eval.during_episodes, None, None)
        with untouched_rng():
            self._venv = _venv(self._config, self._chosen, base=base, perceive=True, world=World(device=world.device))

    def measure(self, policy: SideTunedPolicy) -> dict[str, float]:
        """Return the means of success, SPL and Nav. Rew."""
        settings = self._config.eval
        agent = PolicyAgent(policy.logits, self._config.seed, settings.deterministic, settings.temperature)
        with untouched_rng():
            rows = run_episodes(self._venv, agent, self._chosen.count, show="off")
        return {metric: float(np.mean([row[metric] for row in rows])) for metric in ("success", "spl", "nav_reward")}

    def close(self) -> None:
        """Close the environments."""
        self._venv.close()


def choose_episodes(
    config: AgentConfig, split: str | None, episodes: int | None, file: Path | None, scenes_dir: Path | None
) -> tuple[EpisodesFrom, AgentConfig]:
    """Return which episodes are meant, and the configuration with their buildings; None is as configured.

    Raises `SideAgentsError` when they have no fixed list or no folder of buildings.
    """
    if scenes_dir is not None and not scenes_dir.is_dir():
        raise SideAgentsError(f"--scene-dir {scenes_dir}: no such folder")
    count = config.eval.episodes if episodes is None else episodes
    chosen = EpisodesFrom(split or config.eval.split, count, file, scenes_dir)
    if chosen.split == "train" and file is None:
        raise SideAgentsError("--split train has no fixed list of episodes: name one with --episodes-file")
    return chosen, chosen.applied_to(config)


def _venv(
    config: AgentConfig, chosen: EpisodesFrom, base: FrozenBase | None, perceive: bool, world: World = ALONE
) -> VecEnv:
    n_envs = min(config.eval.n_envs, chosen.count) if chosen.count else config.eval.n_envs
    # what training is rewarded for is its own affair; Nav. Rew. is the paper's reward for every agent
    config = config.model_copy(
        update={"task": replace(config.task, **{key: getattr(TaskConfig, key) for key in _REWARD})}
    )
    return build_venv(
        config,
        chosen.split,
        n_envs,
        base=base,
        episodes_file=chosen.file,
        perceive=perceive,
        world=world,
        blank=config.eval.blank if perceive else (),
    )


def _result(rows: Sequence[Row], chosen: EpisodesFrom, config: AgentConfig) -> dict[str, Any]:
    by_building = means_by_building(rows)
    return {
        "split": chosen.split,
        "episodes_file": chosen.file.name if chosen.file else None,
        "buildings": dataset_name(chosen.applied_to(config).scenes),
        "simulator": simulator_of(config),
        "seed": config.seed,
        "lists": LISTS_VERSION,
        "episodes": len(rows),
        "buildings_played": len(by_building),
        "metrics": summarise(rows),
        "by_building": by_building,
    }


def _deliver(result: dict[str, Any], json_path: Path | None) -> dict[str, Any]:
    print(results_table({result["agent"]: result}))
    if json_path is not None:
        write_json(json_path, result)
    return result
