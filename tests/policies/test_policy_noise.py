"""Noise of one generator for each environment, and the actions that follow it."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sideagents.errors import SideAgentsError
from sideagents_policies import PerEnvNoise
from small_policy import make_policy, observations, tensors


def test_noise_does_not_depend_on_how_environments_are_spread():
    union = PerEnvNoise(5, range(4))
    shards = [PerEnvNoise(5, [0, 1]), PerEnvNoise(5, [2, 3])]
    for _ in range(3):
        whole = union.gumbel(3)
        assert np.array_equal(whole, np.concatenate([shard.gumbel(3) for shard in shards]))
    assert not np.array_equal(PerEnvNoise(6, range(4)).gumbel(3), PerEnvNoise(5, range(4)).gumbel(3))


def test_noise_is_gumbel_and_independent_between_steps_environments_and_actions():
    draws = PerEnvNoise(0, range(200))
    noise = np.stack([draws.gumbel(3) for _ in range(200)])  # (steps, envs, actions)
    assert noise.mean() == pytest.approx(0.5772, abs=0.02)  # Euler's constant
    assert noise.var() == pytest.approx(np.pi**2 / 6, rel=0.03)
    flat = noise - noise.mean()
    for shifted in (flat[1:] * flat[:-1], flat[:, 1:] * flat[:, :-1], flat[..., 1:] * flat[..., :-1]):
        assert abs(shifted.mean()) < 0.05
    logits = np.log([0.7, 0.2, 0.1])
    chosen = (noise + logits).argmax(axis=2)
    assert np.bincount(chosen.ravel()) / chosen.size == pytest.approx([0.7, 0.2, 0.1], abs=0.01)


def test_noise_goes_on_from_a_saved_state():
    noise = PerEnvNoise(3, [7, 9])
    noise.gumbel(3)
    saved = noise.get_state()
    expected = noise.gumbel(3)
    fresh = PerEnvNoise(0, [7, 9])
    fresh.set_state(saved)
    assert np.array_equal(fresh.gumbel(3), expected)
    with pytest.raises(SideAgentsError, match=r"saved noise of environments \[7, 9\], in use are \[1\]"):
        PerEnvNoise(0, [1]).set_state(saved)


def test_actions_follow_the_noise_and_temperature():
    policy = make_policy()
    with torch.no_grad():
        policy.action_net.bias.copy_(torch.tensor([1.0, 0.5, 0.0]))
    policy.action_noise = PerEnvNoise(1, range(4))
    actions, values, log_prob = policy(tensors())
    expected = (policy.logits(observations()) + PerEnvNoise(1, range(4)).gumbel(3)).argmax(axis=1)
    assert actions.tolist() == expected.tolist()
    assert (values.shape, log_prob.shape) == ((4, 1), (4,))
    policy.temperature = 1e-4
    assert policy.predict(observations())[0].tolist() == [0, 0, 0, 0]
    policy.action_noise = None
    assert policy.predict(observations())[0].tolist() == [0, 0, 0, 0]
    policy.temperature = 1e4
    assert set(policy.predict(observations(64))[0].tolist()) == {0, 1, 2}
    assert policy.predict(observations(64), deterministic=True)[0].tolist() == [0] * 64
    policy.action_noise = PerEnvNoise(1, range(2))
    with pytest.raises(SideAgentsError, match="serves 2 environments, but 4"):
        policy(tensors())


def test_continuous_actions_work_and_cannot_use_noise():
    policy = make_policy(spaces.Box(-1.0, 1.0, (2,), np.float32))
    assert policy(tensors())[0].shape == (4, 2)
    policy.action_noise = PerEnvNoise(0, range(4))
    with pytest.raises(SideAgentsError, match="need discrete actions"):
        policy(tensors())
