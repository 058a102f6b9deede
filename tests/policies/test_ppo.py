import copy

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from sideagents.errors import CheckpointError, DivergedError, SideAgentsError
from sideagents.storage.packing import pack_state, unpack_state
from sideagents_policies import EncodeOnce, PerEnvNoise, SideTunedPolicy, SideTunedPPO, StackKeys
from sideagents_policies.agent.ppo import _normalised, check_statistics, expert_cross_entropy
from sideagents_policies.views.stack import ExpertLabels, environment_state, restore_environment
from tiny_env import PlainImageEnv, TinyEnv, TinyVec, tiny_base

ENVS, STEPS = 4, 8


def make(kind=SideTunedPPO, venv=None, policy=None, extractor=None, noise=True, **kwargs):
    base = tiny_base()
    venv = venv or StackKeys(EncodeOnce(TinyVec(ENVS), base), {"goal": 2})
    policy = {"features_extractor_kwargs": {"base": base, "hidden": 16, **(extractor or {})}, **(policy or {})}
    settings = {"n_steps": STEPS, "batch_size": 16, "n_epochs": 2, "seed": 0, "policy_kwargs": policy, **kwargs}
    model = kind(SideTunedPolicy, venv, **settings)
    if noise:
        model.policy.action_noise = PerEnvNoise(0, range(model.n_envs))
    return model


def weights(model):
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def moments(model):
    return {index: state["exp_avg_sq"] for index, state in model.policy.optimizer.state_dict()["state"].items()}


def same(one, two, **tolerance):
    return all(torch.allclose(one[k], two[k], **tolerance) if tolerance else torch.equal(one[k], two[k]) for k in one)


class Recorder(Logger):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__(None, [])
        self.seen = {}

    def record(self, key, value, exclude=None):
        self.seen[key] = value


@pytest.mark.parametrize("options", [{}, {"ent_coef": 0.01, "clip_range_vf": 0.1, "target_kl": 1e-5, "n_epochs": 4}])
def test_an_update_is_sb3s(options):
    # small steps: Adam blows the rounding of gradients near zero up to the size of a step
    full = {"batch_size": ENVS * STEPS, "learning_rate": 0.003, "n_epochs": 3, **options}
    ours, theirs = make(**full), make(PPO, **full)
    for model in (ours, theirs):
        model.set_logger(Recorder())
        model.learn(2 * ENVS * STEPS)
    assert ours.logger.seen["train/n_updates"] == theirs.logger.seen["train/n_updates"]
    assert same(weights(ours), weights(theirs), atol=2e-5)
    for key in ("train/approx_kl", "train/value_loss", "train/entropy_loss", "train/policy_gradient_loss"):
        assert ours.logger.seen[key] == pytest.approx(float(theirs.logger.seen[key]), rel=1e-2, abs=1e-6), key


def test_advantages_are_normalised_by_hand():
    assert _normalised(torch.tensor([1.0, 2.0, 3.0])).tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert _normalised(torch.tensor([5.0])).tolist() == [5.0]


def test_alpha_keeps_its_rate_and_is_logged():
    model = make(policy={"alpha_lr": 0.07}, learning_rate=lambda left: 0.01 * left)
    model.set_logger(Recorder())
    model.learn(2 * ENVS * STEPS)
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
    assert model.policy.optimizer.param_groups[1]["lr"] == 0.07
    assert model.logger.seen["train/alpha"] == model.policy.features_extractor.alpha_value() != 0.5


@pytest.mark.parametrize(("final", "expected"), [(None, [0.01] * 4), (0.002, [0.008, 0.006, 0.004, 0.002])])
def test_the_weight_of_the_entropy_by_hand(final, expected):
    model = make(ent_coef=0.01, final_ent_coef=final, vf_coef=1.0, batch_size=ENVS * STEPS, n_epochs=1)
    weights_seen = []

    class Each(Recorder):
        def record(self, key, value, exclude=None):
            super().record(key, value, exclude)
            if key == "train/ent_coef":
                weights_seen.append(value)
                parts = {name: self.seen[f"train/{name}"] for name in ("policy_gradient_loss", "value_loss")}
                bonus = self.seen["train/loss"] - sum(parts.values())
                assert bonus == pytest.approx(value * self.seen["train/entropy_loss"], rel=1e-2)

    model.set_logger(Each())
    model.learn(4 * ENVS * STEPS)
    assert weights_seen == pytest.approx(expected)


def test_schedules_end_at_zero_when_the_last_rollout_goes_beyond():
    rates, entropies = [], []
    model = make(ent_coef=0.01, final_ent_coef=0.0, learning_rate=lambda left: 0.01 * left)

    class Each(Recorder):
        def record(self, key, value, exclude=None):
            rates.append(value) if key == "train/learning_rate" else None
            entropies.append(value) if key == "train/ent_coef" else None

    model.set_logger(Each())
    model.learn(2 * ENVS * STEPS + 1)  # three rollouts
    assert model.num_timesteps == 3 * ENVS * STEPS
    assert rates == pytest.approx([0.01 * 33 / 65, 0.01 * 1 / 65, 0.0])
    assert entropies == pytest.approx(rates)


def test_the_curriculum_moves_before_each_rollout():
    model = make(extractor={"alpha": "linear"})
    seen = []
    perception = model.policy.features_extractor.perception
    model.policy.features_extractor.register_forward_hook(lambda *_: seen.append(perception.alpha_value()))
    model.learn(4 * ENVS * STEPS)
    assert sorted(set(seen), reverse=True) == [1.0, 0.75, 0.5, 0.25]


def test_divergence_stops_an_update_before_its_step():
    model = make(target_kl=1e-9, learning_rate=0.05, n_epochs=10)
    model.set_logger(Recorder())
    model.learn(ENVS * STEPS)
    assert model.logger.seen["train/n_updates"] == 1


def test_only_the_value_head_learns_during_the_critics_warm_up():
    model = make(critic_warmup=ENVS * STEPS)
    before = weights(model)
    model.learn(ENVS * STEPS)
    changed = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    assert changed == {"value_net.weight", "value_net.bias"}
    model.learn(ENVS * STEPS, reset_num_timesteps=False)
    changed = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    assert {"action_net.weight", "features_extractor.perception.alpha.raw_alpha"} < changed


def test_an_auxiliary_loss_pulls_towards_the_expert():
    class Always(TinyVec):
        def expert_actions(self):
            return np.full(self.num_envs, 2)

    def probability(coefficient):
        model = make(
            venv=ExpertLabels(EncodeOnce(Always(ENVS), tiny_base())),
            auxiliary_loss=expert_cross_entropy(coefficient),
            learning_rate=0.01,
            n_epochs=4,
        )
        model.set_logger(Recorder())
        model.learn(2 * ENVS * STEPS)
        assert model.logger.seen["train/auxiliary_loss"] == pytest.approx(coefficient, abs=coefficient)
        obs = model.policy.obs_to_tensor(model._last_obs)[0]
        return model.policy.get_distribution(obs).distribution.probs[:, 2].mean().item()

    assert probability(5.0) > 0.8 > probability(0.0)


def test_training_state_goes_on_bit_for_bit_through_a_checkpoints_tree():
    def rounds(model, n):
        model.learn(n * ENVS * STEPS, reset_num_timesteps=False)

    straight = make()
    rounds(straight, 3)
    first = make()
    rounds(first, 1)
    tree, tensors = pack_state({"ppo": first.get_training_state(), "env": environment_state(first.get_env())})
    saved, parameters = unpack_state(tree, tensors), weights(first)
    rounds(first, 1)  # uses up the generators that the next model must get back
    second = make(seed=99)
    second.policy.load_state_dict(parameters)
    restore_environment(second.get_env(), saved["env"])
    second.set_training_state(saved["ppo"])
    assert second.num_timesteps == ENVS * STEPS
    rounds(second, 2)
    assert same(weights(second), weights(straight))
    assert same(
        *(
            {str(i): s["exp_avg"] for i, s in m.policy.optimizer.state_dict()["state"].items()}
            for m in (second, straight)
        )
    )
    assert list(second.ep_info_buffer) == list(straight.ep_info_buffer)
    assert second.num_timesteps == straight.num_timesteps


def test_a_state_of_other_environments_is_refused():
    model = make()
    model.learn(ENVS * STEPS)
    state = model.get_training_state()
    other = make(venv=StackKeys(EncodeOnce(TinyVec(2), tiny_base()), {"goal": 2}))
    with pytest.raises(CheckpointError, match="other keys, shapes or environments"):
        other.set_training_state(state)
    broken = copy.deepcopy(state)
    broken["optimizer"]["param_groups"].pop()
    with pytest.raises(CheckpointError, match="groups"):
        model.set_training_state(broken)


def test_bfloat16_trains_to_nearly_the_same_weights():
    exact, rough = make(noise=True), make(policy={"precision": "bfloat16"})
    for model in (exact, rough):
        model.learn(ENVS * STEPS)
    assert not same(weights(exact), weights(rough))
    assert same(weights(exact), weights(rough), atol=0.02)


def test_plain_images_and_single_environments_train_too():
    model = make(venv=PlainImageEnv(), n_steps=16)
    model.learn(16)
    state = model.get_training_state()
    model.set_training_state(state)
    assert state["last_obs"]["observation"].shape == (1, 3, 32, 32)
    model.learn(16, reset_num_timesteps=False)


def test_models_are_saved_and_loaded_as_sb3s(tmp_path):
    settings = {"n_steps": 8, "batch_size": 8, "policy_kwargs": {"features_extractor_kwargs": {"base": "random"}}}
    model = SideTunedPPO(SideTunedPolicy, TinyEnv(), critic_warmup=5, **settings)
    model.learn(8)
    model.save(tmp_path / "model")
    loaded = SideTunedPPO.load(tmp_path / "model", env=TinyEnv())
    assert loaded.critic_warmup == 5
    assert same(weights(model), weights(loaded))


def test_other_policies_are_refused():
    with pytest.raises(SideAgentsError, match="trains a SideTunedPolicy, got MultiInputActorCriticPolicy"):
        SideTunedPPO("MultiInputPolicy", TinyVec(2, keys=("goal",)), n_steps=8, batch_size=16)


def test_it_learns():
    """Action 0 brings the goal nearer, the others do not: the mean reward must rise clearly."""
    venv = EncodeOnce(TinyVec(ENVS, keys=("rgb", "goal")), tiny_base())
    model = make(venv=venv, learning_rate=2e-3, n_epochs=6, gamma=0.9)

    def share_of_good_actions():
        obs = model.policy.obs_to_tensor(model._last_obs)[0]
        return model.policy.get_distribution(obs).distribution.probs[:, 0].mean().item()

    model.learn(ENVS * STEPS)
    before = share_of_good_actions()
    model.learn(25 * ENVS * STEPS, reset_num_timesteps=False)
    assert share_of_good_actions() > max(0.7, before + 0.2)


def test_weights_that_diverge_end_an_update():
    for options in ({"vf_coef": 1e308}, {"learning_rate": 1e38}):
        model = make(**options)
        with pytest.raises(DivergedError, match="diverged") as caught:
            model.learn(4 * ENVS * STEPS)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), float("-inf")])
def test_rewards_that_are_no_numbers_are_the_environments_fault(reward):
    model = make()
    step = model.env.step_wait

    def broken():
        observations, rewards, dones, infos = step()
        rewards = np.array(rewards)
        rewards[2] = reward
        return observations, rewards, dones, infos

    model.env.step_wait = broken
    before = weights(model)
    with pytest.raises(SideAgentsError, match=f"the environment gave a reward of {reward} .2 of {ENVS}.: the fault is"):
        model.learn(ENVS * STEPS)
    assert same(before, weights(model))


COUNTED = ("num_timesteps", "episodes", "progress_remaining", "episode_infos", "episode_successes")


@pytest.mark.parametrize("key", COUNTED)
def test_damaged_statistics_are_known_at_once(key):
    model = make()
    model.learn(ENVS * STEPS)
    good = model.get_training_state()
    check_statistics(good)
    for wrong in (None, "x", [{"r": "x", "l": 1, "t": 2}], {}):
        with pytest.raises(CheckpointError, match="damaged"):
            model.set_training_state({**good, key: wrong})
