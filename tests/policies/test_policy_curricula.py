"""Curricula of alpha under SB3's algorithms: they move, or are refused at the first update."""

import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback

from sideagents.errors import SideAgentsError
from sideagents_policies import SideTunedExtractor, SideTunedPolicy, SideTunedPPO
from small_policy import make_policy, tensors
from tiny_env import TinyVec, tiny_base

CURRICULA = ["linear", "linear:0.5", "hyperbolic:2", "stagewise:0.5", "stagewise:0"]


@pytest.mark.parametrize("alpha", CURRICULA)
@pytest.mark.parametrize("kind", [PPO, A2C, SideTunedPPO])
def test_curricula_move_under_sb3s_algorithms(kind, alpha, tmp_path):
    epochs = 1 if kind is A2C else 3
    more = {} if kind is A2C else {"batch_size": 16, "n_epochs": epochs}
    extractor = {"base": tiny_base(), "hidden": 16, "alpha": alpha}
    venv = TinyVec(2)
    model = kind(
        SideTunedPolicy, venv, n_steps=8, seed=0, policy_kwargs={"features_extractor_kwargs": extractor}, **more
    )
    acted, learned = [], []

    def value():
        return model.policy.features_extractor.alpha_value()

    class Watch(BaseCallback):
        def _on_step(self):
            acted.append(value())
            return True

    rate = model.policy.optimizer
    rate.register_step_pre_hook(lambda *_: learned.append(value()))
    model.learn(64, callback=Watch())
    progress = [0.0, 0.25, 0.5, 0.75]  # done when each of four rollouts begins
    expected = {
        "linear": [1 - f for f in progress],
        "linear:0.5": [max(0.0, 1 - 2 * f) for f in progress],
        "hyperbolic:2": [2 / (2 + epochs * update) for update in range(4)],
        "stagewise:0.5": [1.0, 1.0, 0.0, 0.0],
        "stagewise:0": [0.0] * 4,
    }[alpha]
    assert acted[::8] == pytest.approx(expected)
    assert learned[:: len(learned) // 4] == pytest.approx(expected)  # the alpha that was acted with
    model.save(tmp_path / "model.zip")
    again = kind.load(tmp_path / "model.zip", env=venv)
    assert again.policy.features_extractor.alpha_value() == pytest.approx(value())
    assert type(again.lr_schedule.value_schedule).__name__ == "_Followed"
    before = again.policy.features_extractor.alpha_value()
    again.learn(16, reset_num_timesteps=False)
    again.policy.set_training_mode(False)
    assert again.policy.features_extractor.alpha_value() <= before
    if alpha == "hyperbolic:2" and kind is not SideTunedPPO:
        model.policy.set_training_mode(False)  # the four updates of before, and one more
        assert again.policy.features_extractor.alpha_value() == pytest.approx(2 / (2 + epochs * 4), rel=1e-4)


def test_the_side_learns_once_a_curriculum_has_moved():
    extractor = {"base": tiny_base(), "hidden": 16, "alpha": "linear"}
    model = PPO(
        SideTunedPolicy, TinyVec(2), n_steps=8, batch_size=16, policy_kwargs={"features_extractor_kwargs": extractor}
    )
    before = [p.clone() for p in model.policy.features_extractor.perception.side.parameters()]
    model.learn(48)
    after = list(model.policy.features_extractor.perception.side.parameters())
    assert not any(torch.equal(one, two) for one, two in zip(before, after, strict=True))


@pytest.mark.parametrize("alpha", ["linear", "hyperbolic:2", "stagewise:0.5"])
def test_a_curriculum_that_nothing_moves_is_refused_at_the_first_update(alpha):
    extractor = {"base": tiny_base(), "hidden": 16, "alpha": alpha}
    wanted = (
        r"alpha is a curriculum that nothing moves, so that the side learns nothing: call features_extractor\.set_pr"
    )
    kwargs = {"features_extractor_class": SideTunedExtractor, "features_extractor_kwargs": extractor}
    model = PPO("MultiInputPolicy", TinyVec(2), n_steps=8, batch_size=16, policy_kwargs=kwargs)
    with pytest.raises(SideAgentsError, match=wanted):
        model.learn(16)
    policy = make_policy(features_extractor_kwargs=extractor)
    with pytest.raises(SideAgentsError, match=wanted):
        policy.evaluate(tensors())[1].sum().backward()
    policy.features_extractor.set_progress(0.0)
    policy.evaluate(tensors())[1].sum().backward()


def test_a_callback_moves_alpha_under_policies_that_are_not_ours():
    """As docs/perception.md has it."""

    class MoveAlpha(BaseCallback):
        def _on_rollout_start(self):
            done = self.num_timesteps / self.model._total_timesteps
            self.model.policy.features_extractor.set_progress(done, self.model._n_updates)

        def _on_step(self):
            return True

    extractor = {"base": tiny_base(), "hidden": 16, "alpha": "linear"}
    kwargs = {"features_extractor_class": SideTunedExtractor, "features_extractor_kwargs": extractor}
    model = PPO("MultiInputPolicy", TinyVec(2), n_steps=8, batch_size=16, policy_kwargs=kwargs)
    model.learn(64, callback=MoveAlpha())
    assert model.policy.features_extractor.alpha_value() == pytest.approx(0.25)
