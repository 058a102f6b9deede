"""The gymnasium environment in a real building."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from sideagents_envs.batch.env import PointNavEnv
from sideagents_envs.config import TaskConfig
from sideagents_envs.errors import EnvsError, EpisodeError
from sideagents_envs.sensors.spaces import FORWARD, LEFT, STOP
from square_room import CAMERA


@pytest.mark.parametrize("stop", ["auto", "explicit"])
def test_checkers_are_content(scenes, stop):
    env = gymnasium.make("sideagents_envs:PointNav-v0", scenes=scenes, task=TaskConfig(stop=stop), camera=CAMERA)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(env.unwrapped)
        sb3_check(env.unwrapped)
    env.close()


def test_checkers_say_nothing_of_depth_but_that_it_is_no_uint8_image(scenes):
    """Metres as Habitat gives them, (H, W, 1): SB3 takes every array of that shape for an image of 0..255."""
    env = gymnasium.make("sideagents_envs:PointNav-v0", scenes=scenes, task=TaskConfig(depth=True), camera=CAMERA)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(env.unwrapped)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sb3_check(env.unwrapped)
    said = [str(warning.message) for warning in caught]
    assert len(said) == 2
    assert "observation depth is an image but its `dtype`" in said[0]
    assert "observation space depth is an image but the upper and lower bounds" in said[1]
    env.close()


def test_environment_in_a_building(scenes):
    env = PointNavEnv(scenes=scenes, camera=CAMERA, render_mode="rgb_array")
    first, info = env.reset(seed=11)
    assert info["start_geodesic"] >= 1.0
    np.testing.assert_array_equal(env.render(), first["rgb"])
    assert len(np.unique(first["rgb"])) > 10
    state = env.get_state()
    view = env.step(LEFT)[0]["rgb"]
    np.testing.assert_array_equal(env.set_state(state)["rgb"], first["rgb"])
    np.testing.assert_array_equal(env.step(LEFT)[0]["rgb"], view)
    again, _ = env.reset(seed=11)
    np.testing.assert_array_equal(again["rgb"], first["rgb"])


def test_environment_must_be_reset_before_a_step(scenes):
    env = PointNavEnv(scenes=scenes, camera=CAMERA, task=TaskConfig(stop="explicit"))
    with pytest.raises(EnvsError, match="call reset"):
        env.step(FORWARD)
    env.reset()
    assert env.step(STOP)[2]
    with pytest.raises(EnvsError, match="call reset"):
        env.step(FORWARD)


def test_fixed_list_is_walked_again_and_again(scenes):
    env = PointNavEnv("val", scenes=scenes, camera=CAMERA)
    ids = [env.reset()[1]["episode_id"] for _ in range(8)]
    assert ids == ["0", "3", "1", "4", "2", "5", "0", "3"]  # two buildings in turn


def test_expert_reaches_the_goals_of_the_list(scenes):
    env = PointNavEnv("val", scenes=scenes, camera=CAMERA)
    for _ in range(6):
        env.reset()
        over = False
        while not over:
            *_, terminated, truncated, info = env.step(env.batch.expert_actions()[0])
            over = terminated or truncated
        assert info["is_success"] is True
        assert info["spl"] > 0.8


def test_missing_list_of_a_held_out_split_is_explained(scenes):
    with pytest.raises(EpisodeError, match=r"episodes/test.json.gz: no such episode file; .*scenes episodes"):
        PointNavEnv("test", scenes=scenes)
