"""PPO for side-tuned policies: SB3's algorithm, in parallel processes, in bfloat16, resumable to the bit."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn import functional

from sideagents.errors import CheckpointError, DivergedError, SideAgentsError
from sideagents.machine.seeding import capture_rng, restore_rng
from sideagents.run.checkpoint import check_finite, flatten_optimizer, pack_state, restore_optimizer, unpack_state
from sideagents_policies import parallel
from sideagents_policies.agent.extractor import SideTunedExtractor
from sideagents_policies.agent.policy import SideTunedPolicy
from sideagents_policies.agent.rollout import DictRollout, Rollout
from sideagents_policies.rewards import FiniteRewards

AuxiliaryLoss = Callable[[Mapping[str, Tensor], Distribution], Tensor]
_LOGGED = ("approx_kl", "policy_gradient_loss", "value_loss", "entropy_loss", "clip_fraction", "loss", "auxiliary_loss")


def expert_cross_entropy(coefficient: float) -> AuxiliaryLoss:
    """Return a loss that pulls the policy towards obs["expert"] (see `ExpertLabels`): coefficient * cross-entropy."""

    def loss(observations: Mapping[str, Tensor], distribution: Distribution) -> Tensor:
        return -coefficient * distribution.log_prob(observations["expert"].flatten().long()).mean()

    return loss


class SideTunedPPO(PPO):
    """SB3's PPO with the same arguments, objective and defaults, for a `SideTunedPolicy`.

    Added: under torch.distributed the processes collect from their own environments and take every step together:
    gradients, advantage statistics and the early stop on `target_kl` are those of all processes, as of one process
    with the union of the environments; `num_timesteps` counts the frames of all.
    `ent_coef` moves linearly to `final_ent_coef`, where that is given, as training progresses.
    `auxiliary_loss(observations, distribution)` is added to the objective. During the first `critic_warmup` frames
    only the value head learns. `get_training_state()` holds what a resumed run needs beside weights and environments.
    """

    policy: SideTunedPolicy

    def __init__(
        self,
        *args: Any,
        auxiliary_loss: AuxiliaryLoss | None = None,
        critic_warmup: int = 0,
        final_ent_coef: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.auxiliary_loss = auxiliary_loss
        self.critic_warmup = critic_warmup
        self.final_ent_coef = final_ent_coef
        self._row_due: int | None = None
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = DictRollout if is_dict else Rollout
        super()._setup_model()
        if not isinstance(self.policy, SideTunedPolicy):
            raise SideAgentsError(f"SideTunedPPO trains a SideTunedPolicy, got {type(self.policy).__name__}")
        parallel.require_equal("n_steps * n_envs", self.n_steps * self.n_envs)
        parallel.share_parameters(self.policy)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        # the last rollout may go beyond the frames asked for: rates and coefficients end at their final values
        self._current_progress_remaining = max(0.0, self._current_progress_remaining)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the buffer from this process's environments; count the frames of all processes.

        Raises `SideAgentsError` where an environment gives a reward that is not finite.
        """
        if isinstance(self.policy.features_extractor, SideTunedExtractor):
            # before the rollout, so that acting and learning see the same alpha; the policy would not know of the
            # progress of a resumed run before its first update
            self.policy.features_extractor.set_progress(self.num_timesteps / self._total_timesteps, self._n_updates)
        # SB3 transposes images by strides; another memory layout means other roundings, and saving loses the strides
        last = {key: np.ascontiguousarray(array) for key, array in _named(self._last_obs).items()}
        self._last_obs = last if isinstance(self.observation_space, spaces.Dict) else last["observation"]
        before = self.num_timesteps
        go_on = super().collect_rollouts(FiniteRewards(env), callback, rollout_buffer, n_rollout_steps)
        self.num_timesteps = before + (self.num_timesteps - before) * parallel.world_size()
        return go_on

    def dump_logs(self, iteration: int = 0) -> None:
        """Have a row of the log written after the coming update, so that it holds rollout and update."""
        self._row_due = iteration  # `learn` calls this between the two

    def train(self) -> None:
        """Update the policy on the rollout: SB3's `n_epochs` passes, every step agreed between the processes.

        Raises `DivergedError` where the loss or a weight is no longer finite.
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        history: list[Tensor] = []
        stopped = False
        for _ in range(self.n_epochs):
            first = len(history)
            for batch in self.rollout_buffer.get(self.batch_size):
                statistics = self._backward(batch)
                statistics = parallel.average_gradients(self._trained(), statistics)
                history.append(statistics)
                # after the backward pass, so that one all-reduce carries gradients and divergence
                stopped = self.target_kl is not None and float(statistics[0]) > 1.5 * self.target_kl
                if stopped:
                    break
                torch.nn.utils.clip_grad_norm_(self._trained(), self.max_grad_norm)
                self.policy.optimizer.step()
            self._n_updates += 1
            if stopped:
                break
        means = torch.stack(history).mean(dim=0)
        self._check_finite(means)
        means[0] = torch.stack(history[first:])[:, 0].mean()  # the divergence of the last epoch, as SB3 reports it
        self._log(means)
        if self._row_due is not None:
            super().dump_logs(self._row_due)
            self._row_due = None

    def _check_finite(self, statistics: Tensor) -> None:
        for name, value in zip(_LOGGED, statistics.tolist(), strict=True):
            if not math.isfinite(value):
                raise DivergedError(
                    f"training has diverged, {name} was {value} in the update at {self.num_timesteps} frames: lower "
                    "the learning rate, or the coefficients of the loss"
                )
        check_finite(dict(self.policy.named_parameters()), self.num_timesteps)

    def _trained(self) -> list[Tensor]:
        return [p for group in self.policy.optimizer.param_groups for p in group["params"]]

    def _backward(self, batch: Any) -> Tensor:
        """Compute the gradients of one mini-batch's loss; return what `_LOGGED` names, for logging and stopping."""
        warmup = self.num_timesteps <= self.critic_warmup
        clip = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        actions = batch.actions
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        distribution, values = self.policy.evaluate(batch.observations, critic_only=warmup)
        log_prob = distribution.log_prob(actions)
        entropy = distribution.entropy()
        advantages = _normalised(batch.advantages) if self.normalize_advantage else batch.advantages
        log_ratio = log_prob - batch.old_log_prob
        ratio = log_ratio.exp()
        policy_loss = -torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)).mean()
        value_loss = functional.mse_loss(batch.returns, self._clipped(values, batch.old_values))
        entropy_loss = -(entropy if entropy is not None else -log_prob).mean()
        auxiliary = torch.zeros((), device=values.device)
        if self.auxiliary_loss is not None:
            auxiliary = self.auxiliary_loss(batch.observations, distribution)
        loss = self.vf_coef * value_loss
        if not warmup:
            loss = loss + policy_loss + self._entropy_weight() * entropy_loss + auxiliary
        self.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            kl = (ratio - 1 - log_ratio).mean()
            clipped = ((ratio - 1).abs() > clip).float().mean()
            return torch.stack([kl, policy_loss, value_loss, entropy_loss, clipped, loss, auxiliary]).detach()

    def _entropy_weight(self) -> float:
        if self.final_ent_coef is None:
            return self.ent_coef
        return self.final_ent_coef + (self.ent_coef - self.final_ent_coef) * self._current_progress_remaining

    def _clipped(self, values: Tensor, old: Tensor) -> Tensor:
        if self.clip_range_vf is None:
            return values
        limit = self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
        return old + (values - old).clamp(-limit, limit)

    def _log(self, statistics: Tensor) -> None:
        for name, value in zip(_LOGGED, statistics.tolist(), strict=True):
            if name != "auxiliary_loss" or self.auxiliary_loss is not None:
                self.logger.record(f"train/{name}", value)
        buffer = self.rollout_buffer
        variance = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", float(variance))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", self.clip_range(self._current_progress_remaining))  # type: ignore[operator]
        self.logger.record("train/ent_coef", self._entropy_weight())
        if isinstance(self.policy.features_extractor, SideTunedExtractor):
            self.logger.record("train/alpha", self.policy.features_extractor.alpha_value())

    def get_training_state(self) -> dict[str, Any]:
        """Return what, beside the weights and the environments' state, makes a run go on: a tree for `pack_state`.

        To be taken between updates: optimizer, counters, all random generators, the last observation, and the
        episode statistics that the logs average.
        """
        moments, groups = flatten_optimizer(self.policy.optimizer)
        return {
            "optimizer": unpack_state(groups, moments),
            "num_timesteps": self.num_timesteps,
            "n_updates": self._n_updates,
            "episodes": self._episode_num,
            "progress_remaining": self._current_progress_remaining,
            "last_obs": {key: np.array(array) for key, array in _named(self._last_obs).items()},
            "episode_starts": np.array(self._last_episode_starts),
            "rng": capture_rng(),
            "action_noise": self.policy.action_noise.get_state() if self.policy.action_noise else None,
            "episode_infos": [{k: float(v) for k, v in info.items()} for info in self.ep_info_buffer or ()],
            "episode_successes": [float(value) for value in self.ep_success_buffer or ()],
        }

    def set_training_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `get_training_state()`; then call `learn(..., reset_num_timesteps=False)`.

        Raises `CheckpointError` when the state belongs to another network, observation or number of environments.
        """
        check_statistics(state)
        observation = {key: np.array(array) for key, array in state["last_obs"].items()}
        expected = {key: (self.n_envs, *(space.shape or ())) for key, space in _named(self.observation_space).items()}
        if {key: array.shape for key, array in observation.items()} != expected:
            raise CheckpointError("the saved observation has other keys, shapes or environments than the run")
        groups, moments = pack_state(state["optimizer"])
        restore_optimizer(self.policy.optimizer, moments, groups)
        self._last_obs = observation if isinstance(self.observation_space, spaces.Dict) else observation["observation"]
        self._last_episode_starts = np.array(state["episode_starts"])
        self.num_timesteps, self._n_updates = state["num_timesteps"], state["n_updates"]
        self._episode_num, self._current_progress_remaining = state["episodes"], state["progress_remaining"]
        restore_rng(state["rng"])
        if self.policy.action_noise is not None and state["action_noise"] is not None:
            self.policy.action_noise.set_state(state["action_noise"])
        self.ep_info_buffer = deque(state["episode_infos"], maxlen=self._stats_window_size)
        self.ep_success_buffer = deque(state["episode_successes"], maxlen=self._stats_window_size)


def check_statistics(state: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` unless counters and episode statistics of a training state are those that are saved.

    They are read at the end of the next rollout only: what is wrong must be known before.
    """
    counts = all(type(state.get(key)) is int and state[key] >= 0 for key in ("num_timesteps", "n_updates", "episodes"))
    infos, successes = state.get("episode_infos"), state.get("episode_successes")
    whole = counts and isinstance(state.get("progress_remaining"), int | float) and isinstance(infos, list)
    whole = whole and all(
        isinstance(info, dict) and _are_numbers(info.get(key) for key in "rlt") for info in infos or []
    )
    if not (whole and isinstance(successes, list) and _are_numbers(successes)):
        raise CheckpointError("its counters or the statistics of its episodes are damaged")


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _named(value: Any) -> dict[str, Any]:
    """Return a dict of observations or spaces; a single one is named "observation"."""
    if isinstance(value, spaces.Dict):
        return dict(value.spaces)
    return dict(value) if isinstance(value, dict) else {"observation": value}


def _normalised(advantages: Tensor) -> Tensor:
    """Return the mini-batch's advantages with mean 0 and standard deviation 1 over all processes."""
    wide = advantages.double()
    count, total = parallel.all_sum(torch.stack([torch.ones_like(wide).sum(), wide.sum()])).tolist()
    if count < 2:
        return advantages
    centred = wide - total / count
    squares = float(parallel.all_sum(centred.square().sum()))
    deviation = math.sqrt(squares / (count - 1)) + 1e-8
    normal: Tensor = (centred / deviation).float()
    return normal
