"""The policy: modes, initialisation, files, SB3's own methods and algorithms."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor

from sideagents.errors import CheckpointError, SideAgentsError
from sideagents_policies import SideTunedExtractor, SideTunedPolicy, SideTunedPPO
from sideagents_policies.views.encode import EncodeOnce
from small_policy import SPACE, make_policy, observations, tensors
from tiny_env import PlainImageEnv, TinyEnv, TinyVec, tiny_base


class Sentinel(BaseFeaturesExtractor):
    """An extractor whose weights must survive the policy's initialisation."""

    def __init__(self, space):
        super().__init__(space, features_dim=3)
        self.layer = torch.nn.Linear(3, 3)
        torch.nn.init.constant_(self.layer.weight, 7.0)

    def forward(self, observation):
        return self.layer(observation["goal"])


def test_initialisation_touches_the_heads_only():
    policy = make_policy(features_extractor_class=Sentinel, features_extractor_kwargs={})
    assert (policy.features_extractor.layer.weight == 7.0).all()
    assert gain(make_policy().action_net) == pytest.approx(0.01, rel=1e-4)
    assert gain(make_policy().value_net) == pytest.approx(1.0, rel=1e-4)
    assert gain(make_policy(ortho_init=False).action_net) > 0.1


class Moody(torch.nn.Module):
    """A side whose layers compute differently in train mode."""

    def __init__(self, out_shape, p=0.5, tracked=True):
        super().__init__()
        channels, *grid = out_shape
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, channels, 3, padding=1),
            torch.nn.BatchNorm2d(channels, track_running_stats=tracked),
            torch.nn.Dropout(p),
            torch.nn.AdaptiveAvgPool2d(tuple(grid)),
        )

    def forward(self, images):
        return self.body(images)


class Untracked(Moody):
    def __init__(self, out_shape):
        super().__init__(out_shape, tracked=False)


class MoodyExtractor(Sentinel):
    """Not ours, with BatchNorm and dropout at its end."""

    def __init__(self, space):
        super().__init__(space)
        self.end = torch.nn.Sequential(torch.nn.BatchNorm1d(self.features_dim), torch.nn.Dropout(0.5))

    def forward(self, observations):
        return self.end(super().forward(observations))


MOODY = {
    "scratch": {"features_extractor_kwargs": {"base": tiny_base(), "hidden": 16, "method": "scratch"}},
    "finetune": {"features_extractor_kwargs": {"base": tiny_base(), "hidden": 16, "method": "finetune"}},
    "side": {"features_extractor_kwargs": {"base": tiny_base(), "hidden": 16, "side": f"{__name__}:Moody"}},
    "extractor": {"features_extractor_class": MoodyExtractor},
}


@pytest.mark.parametrize("name", MOODY)
@pytest.mark.parametrize("kind", [PPO, SideTunedPPO, A2C])
def test_acting_and_learning_compute_the_same(kind, name, monkeypatch):
    """At a learning rate of 0 what is learned from has the probabilities it was acted with: nothing is clipped."""
    more = {} if kind is A2C else {"batch_size": 16, "n_epochs": 2}
    model = kind(
        SideTunedPolicy,
        TinyVec(4),
        n_steps=8,
        learning_rate=0.0,
        seed=0,
        policy_kwargs={**MOODY[name], "alpha_lr": 0.0},
        **more,
    )
    acted = []
    forward = model.policy.forward
    monkeypatch.setattr(
        model.policy, "forward", lambda obs, **more: acted.append((obs, forward(obs, **more))) or acted[-1][1]
    )
    buffers = {key: buffer.clone() for key, buffer in model.policy.named_buffers()}
    model.learn(32)
    model.policy.set_training_mode(True)
    for obs, (actions, values, log_prob) in acted:
        with torch.no_grad():  # as it acts: kernels round in other ways where they keep something for gradients
            found = model.policy.evaluate_actions(obs, actions.flatten())
        assert torch.equal(found[1], log_prob)  # the ratio is 1 to the bit
        assert torch.equal(found[0], values)
        torch.testing.assert_close(model.policy.evaluate_actions(obs, actions.flatten())[1].detach(), log_prob)
    assert all(torch.equal(buffers[key], buffer) for key, buffer in model.policy.named_buffers())
    if kind is not A2C:
        assert model.logger.name_to_value["train/clip_fraction"] == 0.0
        assert model.logger.name_to_value["train/approx_kl"] == pytest.approx(0.0, abs=1e-6)


def test_cloning_sees_what_acting_sees():
    policy = make_policy(**MOODY["side"])
    policy.set_training_mode(True)
    distribution, values = policy.evaluate(tensors())
    policy.set_training_mode(False)
    again, same = policy.evaluate(tensors())
    assert torch.equal(distribution.distribution.logits, again.distribution.logits)
    assert torch.equal(values, same)


def test_an_extractor_of_ours_stays_in_eval_mode_under_any_policy():
    kwargs = {"features_extractor_class": SideTunedExtractor, **MOODY["side"]}
    model = PPO("MultiInputPolicy", TinyVec(2), n_steps=8, batch_size=16, learning_rate=0.0, policy_kwargs=kwargs)
    model.learn(16)
    assert model.policy.training
    assert not any(part.training for part in model.policy.features_extractor.modules())
    assert model.logger.name_to_value["train/clip_fraction"] == 0.0


def test_batchnorm_that_looks_at_the_whole_batch_in_eval_mode_too_is_refused():
    kwargs = {"base": tiny_base(), "hidden": 16, "side": f"{__name__}:Untracked"}
    with pytest.raises(SideAgentsError, match=r"side\.body\.1: BatchNorm with track_running_stats=False computes one"):
        make_policy(features_extractor_kwargs=kwargs)


def test_a_base_from_scratch_knows_statistics_of_its_weights():
    norms = [part for part in make_policy(**MOODY["scratch"]).modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert not torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean))
        assert norm.momentum == 0.1


def gain(layer):
    """Largest singular value of a layer's weight."""
    return torch.linalg.matrix_norm(layer.weight.detach(), 2).item()


def test_the_optimizer_holds_what_is_trained_and_alpha_apart():
    policy = make_policy(alpha_lr=0.01, optimizer_kwargs={"weight_decay": 1e-4, "amsgrad": True})
    weights, alphas = policy.optimizer.param_groups
    alpha = policy.features_extractor.perception.alpha.raw_alpha
    assert alphas["params"] == [alpha]
    assert (alphas["lr"], alphas["weight_decay"]) == (0.01, 0.0)
    assert (weights["lr"], weights["weight_decay"], weights["amsgrad"], weights["eps"]) == (3e-4, 1e-4, True, 1e-5)
    held = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in policy.parameters() if p.requires_grad}
    assert not held & {id(p) for p in policy.features_extractor.base.parameters()}


def test_alpha_keeps_its_rate_under_sb3s_own_ppo():
    kwargs = {"features_extractor_kwargs": {"base": tiny_base(), "hidden": 16}, "alpha_lr": 0.05}
    model = PPO(SideTunedPolicy, TinyVec(2), n_steps=8, batch_size=16, n_epochs=1, seed=0, policy_kwargs=kwargs)
    raw = model.policy.features_extractor.perception.alpha.raw_alpha
    model.learn(16)
    assert model.policy.optimizer.param_groups[0]["lr"] == 3e-4
    assert model.policy.optimizer.param_groups[1]["lr"] == 0.05
    assert abs(raw.item()) == pytest.approx(0.05, rel=0.1)  # Adam's first step is the rate


def test_the_state_dict_names_each_tensor_once_and_nothing_of_the_base():
    policy = make_policy()
    names = list(policy.state_dict())
    assert all(name.split(".")[0] in ("features_extractor", "action_net", "value_net") for name in names)
    pointers = [t.data_ptr() for t in policy.state_dict().values()]
    assert len(set(pointers)) == len(pointers)
    assert not [name for name in names if "encoder" in name]
    assert policy.features_extractor.base in list(policy.modules())
    policy.load_state_dict(policy.state_dict(), strict=True)


@pytest.mark.parametrize(
    "make_env", [PlainImageEnv, lambda: PlainImageEnv(first=True), lambda: TinyEnv(keys=("rgb",)), TinyEnv]
)
def test_plain_sb3_trains_saves_and_loads_on_any_image_environment(make_env, tmp_path):
    kwargs = {
        "features_extractor_class": SideTunedExtractor,
        "features_extractor_kwargs": {"base": "random", "hidden": 16},
    }
    model = PPO(SideTunedPolicy, make_env(), n_steps=8, batch_size=8, n_epochs=1, seed=0, policy_kwargs=kwargs)
    model.learn(8)
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=make_env())
    observation = make_env().reset()[0]
    assert model.predict(observation, deterministic=True)[0] == loaded.predict(observation, deterministic=True)[0]
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(tensor, loaded.policy.state_dict()[name]), name
    assert loaded.policy.optimizer.state_dict()["param_groups"] == model.policy.optimizer.state_dict()["param_groups"]
    loaded.learn(8)
    base = loaded.policy.features_extractor.base
    assert base.name == "random"
    assert base.fingerprint == model.policy.features_extractor.base.fingerprint


def test_sb3s_multi_input_policy_can_use_the_extractor_too():
    kwargs = {
        "features_extractor_class": SideTunedExtractor,
        "features_extractor_kwargs": {"base": tiny_base(), "hidden": 16},
    }
    model = PPO("MultiInputPolicy", TinyVec(1), n_steps=4, batch_size=4, n_epochs=1, policy_kwargs=kwargs)
    model.learn(4)


def test_other_extractors_get_sb3s_preprocessing():
    class Brightest(Sentinel):
        def forward(self, observation):
            return observation["rgb"].amax(dim=(2, 3))

    policy = make_policy(features_extractor_class=Brightest, features_extractor_kwargs={})
    obs = tensors()
    assert torch.equal(policy.extract_features(obs), obs["rgb"].amax(dim=(2, 3)) / 255.0)


def test_policy_save_and_load(tmp_path):
    policy = make_policy(alpha_lr=0.02, precision="bfloat16")
    policy.save(str(tmp_path / "policy.pt"))
    loaded = SideTunedPolicy.load(str(tmp_path / "policy.pt"))
    assert (loaded.alpha_lr, loaded.precision) == (0.02, "bfloat16")
    assert np.array_equal(loaded.logits(observations()), policy.logits(observations()))


def test_a_checkpoint_of_another_base_is_refused():
    other = make_policy(features_extractor_kwargs={"base": tiny_base(seed=5), "hidden": 32})
    with pytest.raises(CheckpointError, match="fingerprint"):
        other.load_state_dict(make_policy().state_dict())


def test_evaluate_agrees_with_sb3s_own_methods():
    policy = make_policy()
    obs, actions = tensors(), torch.tensor([0, 1, 2, 0])
    distribution, values = policy.evaluate(obs)
    expected_values, log_prob, entropy = policy.evaluate_actions(obs, actions)
    assert torch.equal(values, expected_values.flatten())
    assert torch.equal(values, policy.predict_values(obs).flatten())
    assert torch.equal(distribution.log_prob(actions), log_prob)
    assert torch.equal(distribution.entropy(), entropy)
    scores = policy.get_distribution(obs).distribution.logits
    assert np.array_equal(policy.logits(observations()), scores.detach().numpy())


def test_bfloat16_covers_the_extractor_and_leaves_heads_in_float32():
    exact, rough = make_policy(), make_policy(precision="bfloat16")
    values, log_prob, _ = rough.evaluate_actions(tensors(), torch.zeros(4, dtype=torch.long))
    expected, _, _ = exact.evaluate_actions(tensors(), torch.zeros(4, dtype=torch.long))
    assert values.dtype == log_prob.dtype == torch.float32
    assert not torch.equal(values, expected)
    assert torch.allclose(values, expected, atol=0.1)


def test_separate_extractors_are_refused():
    with pytest.raises(SideAgentsError, match="share one extractor"):
        make_policy(share_features_extractor=False)


def test_a_policy_built_for_encode_once_reads_its_codes():
    base = tiny_base()
    venv = EncodeOnce(TinyVec(2), base)
    kwargs = {"features_extractor_kwargs": {"base": base, "hidden": 16}}
    calls = []
    model = PPO(SideTunedPolicy, venv, n_steps=4, batch_size=8, n_epochs=3, policy_kwargs=kwargs)
    base.encoder.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    model.learn(8)
    assert len(calls) == 5  # one batch for the reset and each of four steps, none in three epochs


def test_nan_in_an_observation_and_diverged_weights_are_one_clear_line():
    policy = make_policy()
    with pytest.raises(SideAgentsError, match=r"^the environment gave nan or infinity in the observation: goal$"):
        policy.logits({**observations(), "goal": np.full((4, 3), np.nan, np.float32)})
    with torch.no_grad():
        policy.features_extractor.head[0].weight.fill_(np.nan)
    with pytest.raises(SideAgentsError, match="training has diverged"):
        policy(tensors())


def test_labels_are_no_part_of_what_it_observes():
    label = spaces.Box(-1, 2, (1,), np.int64)
    vectors = spaces.Dict(goal=SPACE["goal"], expert=label)
    kwargs = {"features_extractor_class": CombinedExtractor, "features_extractor_kwargs": {}}
    policy = SideTunedPolicy(vectors, spaces.Discrete(3), lambda _: 3e-4, **kwargs)
    assert list(policy.observation_space.spaces) == ["goal"]
    assert policy.features_extractor.features_dim == 3
    seen = {"goal": np.ones((4, 3), np.float32)}
    for labels in (np.zeros((4, 1), np.int64), np.full((4, 1), 2)):
        np.testing.assert_array_equal(policy.logits({**seen, "expert": labels}), policy.logits(seen))
        policy.forward({k: torch.from_numpy(v) for k, v in {**seen, "expert": labels}.items()})
