"""DAgger's rounds: the policy acts, the expert labels, the frames stay on disk for as long as training needs them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.vec_env import VecEnv

from sideagents.errors import CheckpointError
from sideagents.storage.arrays import read_npz
from sideagents_envs.cache import atomic_path
from sideagents_envs.sensors.spaces import NO_ACTION
from sideagents_policies import parallel
from sideagents_policies.agent.policy import PerEnvNoise, SideTunedPolicy
from sideagents_policies.config import AgentConfig
from sideagents_policies.demos.store import Arrays, Frames, FrameStore
from sideagents_policies.parallel import World
from sideagents_policies.rewards import check_rewards
from sideagents_policies.train.session import StopRequest
from sideagents_policies.views.stack import environment_state, restore_environment

_ASK_EVERY = 32  # steps between asking the peers whether to stop
_SEED = 104729  # episodes and sampled actions are others than those that PPO draws from the same seed


def dagger_seed(config: AgentConfig) -> int:
    """Return the seed of DAgger's environments and sampled actions."""
    return int(np.random.SeedSequence([_SEED, config.seed]).generate_state(1)[0])


def round_steps(config: AgentConfig, processes: int) -> list[int]:
    """Return the steps that every environment takes in each round; the last round is cut to `dagger_frames` in all."""
    clone, together = config.clone, config.vec.n_envs * processes
    total = -(-clone.dagger_frames // together)
    each = max(1, round(clone.dagger_round_frames / together))
    return [min(each, total - taken) for taken in range(0, total, each)]


def window_frames(config: AgentConfig, processes: int) -> int:
    """Return how many of the newest frames each process learns from in DAgger's rounds."""
    return -(-config.clone.dagger_buffer_frames // processes)


def kept_frames(config: AgentConfig, demonstrated: int, processes: int) -> int:
    """Return how many frames a process keeps whose share of the demonstrations has `demonstrated` frames."""
    dagger = sum(round_steps(config, processes)) * config.vec.n_envs
    return max(demonstrated, min(window_frames(config, processes), demonstrated + dagger))


@dataclass(frozen=True)
class Round:
    """Labelled frames of one round, and how the episodes that ended in it went."""

    frames: Frames
    ended: list[Mapping[str, Any]]
    frames_per_second: float

    def scores(self, world: World) -> dict[str, float]:
        """Return success, SPL and return of the round's episodes over all processes."""
        keys = {"success": "is_success", "spl": "spl", "return": "episode_return"}
        sums = [float(len(self.ended)), *(sum(float(info[key]) for info in self.ended) for key in keys.values())]
        episodes, *totals = parallel.all_sum(torch.tensor(sums, dtype=torch.float64, device=world.device)).tolist()
        return (
            {f"rollout/{name}": total / episodes for name, total in zip(keys, totals, strict=True)} if episodes else {}
        )


class Explorer:
    """Lets the policy act in its environments, by sampling, and asks the expert about every state."""

    def __init__(self, config: AgentConfig, venv: VecEnv, policy: SideTunedPolicy, world: World) -> None:
        self._config, self._venv, self._policy, self._world = config, venv, policy, world
        first = world.rank * venv.num_envs
        self._noise = PerEnvNoise(dagger_seed(config), range(first, first + venv.num_envs))
        self._observations: Any = None
        self._ages = np.zeros(venv.num_envs, np.int64)

    def collect(self, steps: int, store: FrameStore, stop: StopRequest) -> Round | None:
        """Take `steps` steps in every environment; None when training was asked to stop."""
        if self._observations is None:
            self._observations = self._venv.reset()
        self._policy.set_training_mode(False)
        frames: list[Arrays] = []
        labels, rewards, dones, ages = [], [], [], []
        ended: list[Mapping[str, Any]] = []
        started = time.perf_counter()
        for step in range(steps):
            if step % _ASK_EVERY == 0 and stop.agreed(self._world.device):
                return None
            frames.append(store.pack(store.newest(self._observations)))
            ages.append(self._ages)
            asked = np.asarray(self._venv.unwrapped.expert_actions(), np.int8)  # type: ignore[attr-defined]
            actions = self._act()
            self._observations, reward, done, infos = self._venv.step(actions)
            check_rewards(reward)
            reward = reward + self._beyond_the_limit(infos)
            for env in np.flatnonzero(done):
                ended.append(infos[env])
                if self._config.task.stop == "auto" and infos[env]["is_success"]:
                    asked[env] = NO_ACTION  # the automatic stop: no action was taken
            labels.append(asked)
            rewards.append(reward)
            dones.append(done)
            self._ages = np.where(done, 0, self._ages + 1)
        seconds = time.perf_counter() - started
        returns = self._returns(np.stack(rewards), np.stack(dones), self._forward(self._observations)[1])
        packed = {key: np.concatenate([frame[key] for frame in frames]) for key in frames[0]}
        n_envs = self._venv.num_envs
        found = Frames(packed, np.concatenate(labels), returns.reshape(-1), np.concatenate(ages), gap=n_envs)
        return Round(found, ended, steps * n_envs / seconds)

    def _act(self) -> NDArray[np.int64]:
        """Return sampled actions (n_envs,)."""
        logits, _ = self._forward(self._observations)
        return np.asarray((logits + self._noise.gumbel(logits.shape[1])).argmax(axis=1), np.int64)

    def _forward(self, observations: Any) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return logits (n, n_actions) and values (n,)."""
        tensors, _ = self._policy.obs_to_tensor(observations)
        with torch.no_grad():
            distribution, values = self._policy.evaluate(tensors)
        assert isinstance(distribution, CategoricalDistribution)
        return distribution.distribution.logits.cpu().double().numpy(), values.float().cpu().numpy()

    def _beyond_the_limit(self, infos: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """Return what is still to come, by the critic, where the time limit cut an episode: (n_envs,), else 0."""
        result = np.zeros(len(infos), np.float32)
        cut = [env for env, info in enumerate(infos) if info.get("TimeLimit.truncated", False)]
        if cut:
            last = [infos[env]["terminal_observation"] for env in cut]
            _, values = self._forward({key: np.stack([seen[key] for seen in last]) for key in last[0]})
            result[cut] = self._config.ppo.gamma * values
        return result

    def _returns(
        self, rewards: NDArray[np.float32], dones: NDArray[np.bool_], last: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return discounted sums (steps, n_envs) to each episode's end, or to the critic's guess at the round's end."""
        result = np.empty_like(rewards)
        following = last.astype(np.float32)
        for t in range(len(rewards) - 1, -1, -1):
            following = rewards[t] + self._config.ppo.gamma * np.where(dones[t], 0.0, following).astype(np.float32)
            result[t] = following
        return result

    def get_state(self) -> dict[str, Any]:
        """Return all that the next round depends on beside the policy: a tree for a checkpoint."""
        observations = self._observations
        return {
            "environments": environment_state(self._venv),
            "noise": self._noise.get_state(),
            "ages": self._ages,
            "observations": None if observations is None else {k: np.array(v) for k, v in observations.items()},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `get_state()`."""
        restore_environment(self._venv, state["environments"])
        self._noise.set_state(state["noise"])
        self._observations = state["observations"]
        self._ages = np.asarray(state["ages"], np.int64)


class RoundFiles:
    """The frames of recent rounds on disk, one file for each process and round: a resumed run needs them again."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self._sizes: dict[int, int] = {}

    def write(self, number: int, frames: Frames) -> None:
        """Keep one round."""
        numbers: Arrays = {"labels": frames.labels, "returns": frames.returns, "ages": frames.ages}
        readings = {f"obs_{key}": values for key, values in frames.packed.items()}
        with atomic_path(self._path(number)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, gap=frames.gap, **numbers, **readings)
        self._sizes[number] = len(frames)

    def keep_for(self, last: int, window: int) -> None:
        """Remove rounds that a run resumed after round `last` does not need: it reads the newest `window` frames."""
        held = 0
        for known in sorted((number for number in self._sizes if number <= last), reverse=True):
            if held >= window:
                self._path(known).unlink(missing_ok=True)
                del self._sizes[known]
            else:
                held += self._sizes[known]

    def read(self, last: int) -> Iterator[Frames]:
        """Yield the rounds up to `last`, oldest first; raises `CheckpointError` when one is missing or cut."""
        for number in self._numbers():
            if number > last:
                continue
            path = self._path(number)
            arrays = read_npz(path, what="a round of DAgger", error=CheckpointError)
            packed = {key.removeprefix("obs_"): arrays[key] for key in arrays if key.startswith("obs_")}
            try:
                frames = Frames(packed, arrays["labels"], arrays["returns"], arrays["ages"], int(arrays["gap"]))
            except (TypeError, ValueError, KeyError) as error:
                raise CheckpointError(f"{path}: is no round of DAgger ({error})") from None
            self._sizes[number] = len(frames)
            yield frames

    def remove_all(self) -> None:
        """Remove every round of this process, and the folder when no other process has any."""
        for number in self._numbers():
            self._path(number).unlink(missing_ok=True)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _numbers(self) -> list[int]:
        pattern = re.compile(rf"process{self._rank}_round(\d+)\.npz")
        names = self._folder.iterdir() if self._folder.is_dir() else ()
        return sorted(int(match[1]) for match in (pattern.fullmatch(path.name) for path in names) if match)

    def _path(self, number: int) -> Path:
        return self._folder / f"process{self._rank}_round{number:05d}.npz"
