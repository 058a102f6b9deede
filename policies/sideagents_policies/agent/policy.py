"""The actor-critic policy of side-tuned agents: initialises its heads only, optimises what is trainable only."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import CategoricalDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import FloatSchedule
from torch import Tensor
from typing_extensions import Self

from sideagents.core.alpha import curricula
from sideagents.core.groups import parameter_groups
from sideagents.errors import DivergedError, SideAgentsError
from sideagents.machine.precision import autocast
from sideagents_policies.agent.extractor import UNREAD, SideTunedExtractor

OWN_RATE = "own_lr"  # key of a parameter group whose learning rate belongs to the group

_Part = TypeVar("_Part")

_GOLDEN, _MIX1, _MIX2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit integers (the finaliser of splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * _MIX1
        x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


class PerEnvNoise:
    """Gumbel noise for sampling actions, one stream for each environment.

    A value depends only on the seed, the environment's number and its step count, so a run samples the same actions
    however its environments are spread over processes.
    """

    def __init__(self, seed: int, env_ids: Sequence[int]) -> None:
        self.seed = int(seed)
        self._ids = np.asarray(env_ids, dtype=np.uint64)
        self._steps = np.zeros(len(self._ids), dtype=np.uint64)

    def gumbel(self, n_actions: int) -> NDArray[np.float64]:
        """Return the next noise, float64 (n_envs, n_actions); argmax(logits + noise) samples the softmax."""
        with np.errstate(over="ignore"):
            stream = _mix(_mix(np.array([self.seed], np.uint64)) + _GOLDEN * (self._ids + np.uint64(1)))
            step = _mix(stream + _GOLDEN * (self._steps + np.uint64(1)))
            bits = _mix(step[:, None] + _GOLDEN * np.arange(1, n_actions + 1, dtype=np.uint64))
        self._steps += np.uint64(1)
        uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # in (0, 1), never 0 or 1
        return np.asarray(-np.log(-np.log(uniform)))

    def get_state(self) -> dict[str, Any]:
        """Return seed, environment numbers and step counts as JSON values."""
        return {"seed": self.seed, "env_ids": self._ids.tolist(), "steps": self._steps.tolist()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore `get_state()`; raises `SideAgentsError` when the environments are others."""
        if list(state["env_ids"]) != self._ids.tolist():
            raise SideAgentsError(f"saved noise of environments {state['env_ids']}, in use are {self._ids.tolist()}")
        self.seed, self._steps = int(state["seed"]), np.asarray(state["steps"], dtype=np.uint64)


class SideTunedPolicy(ActorCriticPolicy):
    """Actor and critic heads on one shared `SideTunedExtractor` (or any other SB3 extractor).

    Differs from SB3's policies where those break a frozen base: orthogonal initialisation touches the heads alone
    (actor gain 0.01, critic 1), and the optimizer holds trainable parameters only, in two groups: all weights, and
    alpha, which keeps its own learning rate `alpha_lr` and has no weight decay. The extractor is registered once, so
    `state_dict()` holds no doubles and nothing of the base.

    Keys that hold labels for losses (`expert`) are no part of what it observes: its space has none, and they are
    ignored in the observations that it is given, so that no extractor can read them.

    The extractor stays in eval mode. Curricula of alpha follow the progress that SB3's algorithms hand to their
    learning-rate schedules.

    `precision` is what the extractor computes in (`float32`, `bfloat16` by autocast, `auto`: what is fast here); heads
    and losses stay float32. `net_arch` adds hidden layers to the heads (none by default). `action_noise`, when set,
    takes the place of torch's generator in sampling; `temperature` applies to `predict` only.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] = SideTunedExtractor,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = True,
        alpha_lr: float = 1e-3,
        precision: str = "float32",
        **kwargs: Any,
    ) -> None:
        if not share_features_extractor:
            raise SideAgentsError("SideTunedPolicy: actor and critic share one extractor, False is not supported")
        self.alpha_lr, self.precision = alpha_lr, precision
        self.action_noise: PerEnvNoise | None = None
        self.temperature = 1.0
        # SB3's epsilon; the fused kernel does the same step several times faster
        defaults = {"eps": 1e-5, "fused": True} if issubclass(optimizer_class, torch.optim.Adam) else {}
        if isinstance(observation_space, spaces.Dict):
            observation_space = spaces.Dict(_without_labels(observation_space.spaces))
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[] if net_arch is None else net_arch,
            features_extractor_class=features_extractor_class,
            optimizer_class=optimizer_class,
            optimizer_kwargs={**defaults, **(optimizer_kwargs or {})},
            **kwargs,
        )
        self._progress: float | None = None  # of training, not yet passed on to curricula
        self._passes = 0.0  # over rollouts
        self._acted = self._learned = 0  # observations since then
        moving = curricula(self)
        if moving and isinstance(lr_schedule, FloatSchedule):
            lr_schedule.value_schedule = _Followed(lr_schedule.value_schedule, self)
            for alpha in moving:
                alpha.set_progress(0.0)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "alpha_lr": self.alpha_lr, "precision": self.precision}

    def _build(self, lr_schedule: Schedule) -> None:
        for alias in ("pi_features_extractor", "vf_features_extractor"):
            del self._modules[alias]  # plain attributes instead: the state dict names each tensor once
            self.__dict__[alias] = self.features_extractor
        orthogonal, self.ortho_init = self.ortho_init, False
        made, self.optimizer_class = self.optimizer_class, _NoOptimizer  # SB3's own would hold what is frozen too
        super()._build(lr_schedule)
        self.ortho_init, self.optimizer_class = orthogonal, made
        del self.optimizer
        self._first_rate = lr_schedule(1)
        if orthogonal:
            for module, gain in ((self.mlp_extractor, np.sqrt(2)), (self.action_net, 0.01), (self.value_net, 1.0)):
                for part in module.modules():
                    self.init_weights(part, gain=float(gain))

    def __getattr__(self, name: str) -> Any:
        """Make the optimizer when it is first asked for: who only acts needs none, and torch loads much for it."""
        if name != "optimizer":
            return super().__getattr__(name)
        groups = parameter_groups(self, alpha_lr=self.alpha_lr)
        for group in groups:
            if group["name"] == "alpha":
                group[OWN_RATE] = self.alpha_lr
        make: Any = self.optimizer_class
        self.optimizer = make(groups, lr=self._first_rate, **self.optimizer_kwargs)
        self.optimizer.register_step_pre_hook(_restore_own_rates)
        return self.optimizer

    def train(self, mode: bool = True) -> Self:
        """Switch the heads' mode; the extractor stays in eval mode, so that acting and learning compute the same.

        Curricula of alpha move here, where acting begins, for the same reason.
        """
        super().train(mode)
        self.features_extractor.eval()
        if not mode and self._progress is not None:
            moving = curricula(self)
            self._passes = max(self._passes, *(alpha.epochs_done() for alpha in moving))
            self._passes += self._learned / max(self._acted, 1)
            for alpha in moving:
                alpha.set_progress(self._progress, self._passes)
            self._progress, self._acted, self._learned = None, 0, 0
        return self

    def obs_to_tensor(self, observation: NDArray[Any] | dict[str, NDArray[Any]]) -> tuple[PyTorchObs, bool]:
        """Return the observation as tensors with a batch dimension, and whether it had one; labels are left out."""
        return super().obs_to_tensor(_without_labels(observation) if isinstance(observation, dict) else observation)

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor | None = None) -> Tensor:
        """Return float32 features (B, features_dim).

        A `SideTunedExtractor` gets the observation as it is stored (uint8 images) and normalises it itself; any other
        extractor gets SB3's preprocessing. Raises `SideAgentsError` when features are not finite, naming the cause.
        """
        extractor = self.features_extractor if features_extractor is None else features_extractor
        obs = _without_labels(obs) if isinstance(obs, dict) else obs
        with autocast(self.precision, self.device):
            if isinstance(extractor, SideTunedExtractor):
                features: Tensor = extractor(obs)
            else:
                features = super(ActorCriticPolicy, self).extract_features(obs, extractor)
        features = features.float()
        if not torch.isfinite(features).all():
            raise _blame(obs)
        return features

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """Return the distribution of actions for a batch of observations."""
        return self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(self.extract_features(obs)))

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Return the critic's values, float32 (B, 1)."""
        return self._value(self.mlp_extractor.forward_critic(self.extract_features(obs)))

    def evaluate(self, obs: PyTorchObs, critic_only: bool = False) -> tuple[Distribution, Tensor]:
        """Return distribution and values (B,); with `critic_only` the values train the critic's head alone."""
        features = self.extract_features(obs)
        distribution = self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(features))
        critic = self.mlp_extractor.forward_critic(features.detach() if critic_only else features)
        return distribution, self._value(critic).flatten()

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions, values (B, 1) and log-probabilities (B,) for collecting rollouts."""
        distribution, values = self.evaluate(obs)
        self._acted += len(values)
        actions = self._choose(distribution, deterministic, temperature=1.0)
        log_prob = distribution.log_prob(actions)
        return actions.reshape((-1, *(self.action_space.shape or ()))), values.unsqueeze(1), log_prob

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values (B, 1), log-probabilities and entropies (B,) of actions, for learning."""
        self._learned += len(actions)
        return super().evaluate_actions(obs, actions)

    def logits(self, observations: Mapping[str, NDArray[Any]] | NDArray[Any]) -> NDArray[np.float32]:
        """Return action scores, float32 (n_envs, n_actions), for numpy observations; discrete actions only."""
        tensor, _ = self.obs_to_tensor(observations)  # type: ignore[arg-type]
        self.set_training_mode(False)
        with torch.no_grad():
            scores: NDArray[np.float32] = _categorical(self.get_distribution(tensor)).logits.cpu().numpy()
        return scores

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self._choose(self.get_distribution(observation), deterministic, self.temperature)

    def _choose(self, distribution: Distribution, deterministic: bool, temperature: float) -> Tensor:
        """Pick actions: most likely, or sampled from `action_noise` where it is set."""
        if deterministic or (self.action_noise is None and temperature == 1.0):
            return distribution.get_actions(deterministic=deterministic)
        logits = _categorical(distribution).logits / temperature
        if self.action_noise is None:
            return torch.multinomial(logits.softmax(dim=1), 1).flatten()
        noise = torch.from_numpy(self.action_noise.gumbel(logits.shape[1])).to(logits.device)
        if noise.shape != logits.shape:
            raise SideAgentsError(f"action_noise serves {len(noise)} environments, but {len(logits)} observations came")
        return (logits.double() + noise).argmax(dim=1)

    def _value(self, latent: Tensor) -> Tensor:
        values: Tensor = self.value_net(latent)
        return values


def _without_labels(parts: Mapping[str, _Part]) -> dict[str, _Part]:
    return {key: part for key, part in parts.items() if key not in UNREAD}


def _blame(obs: PyTorchObs) -> SideAgentsError:
    """Return the error that says why features are not finite: a part of the observation, or the weights."""
    parts = obs if isinstance(obs, dict) else {"observation": obs}
    bad = [key for key, part in parts.items() if not torch.isfinite(part).all()]
    if bad:
        return SideAgentsError(f"the environment gave nan or infinity in the observation: {', '.join(bad)}")
    return DivergedError("the network's features are not finite: training has diverged, lower the learning rate")


def _categorical(distribution: Distribution) -> torch.distributions.Categorical:
    if not isinstance(distribution, CategoricalDistribution):
        raise SideAgentsError("action scores, action_noise and temperature need discrete actions")
    categorical: torch.distributions.Categorical = distribution.distribution
    return categorical


class _NoOptimizer(torch.optim.Optimizer):
    """Stands for the optimizer that stable-baselines3 makes of all weights; it takes none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


class _Followed:
    """A learning-rate schedule that tells a policy how much of training is done; saved as the schedule alone.

    SB3's algorithms ask for the rate at the beginning of each update; alpha moves with the next rollout.
    """

    def __init__(self, schedule: Schedule, policy: SideTunedPolicy) -> None:
        self.schedule, self._policy = schedule, weakref.ref(policy)

    def __call__(self, progress_remaining: float) -> float:
        """Return the learning rate."""
        policy = self._policy()
        if policy is not None:
            policy._progress = 1.0 - progress_remaining
        return float(self.schedule(progress_remaining))

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.schedule,)  # the policy that is loaded follows its own


def _itself(schedule: Schedule) -> Schedule:
    return schedule


def _restore_own_rates(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Undo SB3's setting of one learning rate on all groups at each update, just before the step."""
    for group in optimizer.param_groups:
        if OWN_RATE in group:
            group["lr"] = group[OWN_RATE]
