import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage

from sideagents.errors import BaseError, SideAgentsError
from sideagents_policies.views.encode import EncodeOnce
from sideagents_policies.views.stack import StackKeys
from tiny_env import PlainImageEnv, TinyEnv, TinyVec, tiny_base


def encode(base, images):
    return base(torch.as_tensor(images.transpose(0, 3, 1, 2).copy())).numpy()


def test_codes_are_those_of_the_base_and_terminal_observations_have_theirs():
    base = tiny_base()
    venv = EncodeOnce(TinyVec(3, limit=4), base)
    observation = venv.reset()
    assert observation["base"].shape == (3, 4, 8, 8)
    assert observation["base"].dtype == np.float32
    assert np.allclose(observation["base"], encode(base, observation["rgb"]), atol=1e-6)
    seen = 0
    for step in range(9):
        observation, _, dones, infos = venv.step(np.array([0, 1, step % 3]))
        assert np.allclose(observation["base"], encode(base, observation["rgb"]), atol=1e-6)
        for env in np.flatnonzero(dones):
            terminal = infos[env]["terminal_observation"]
            assert np.allclose(terminal["base"], encode(base, terminal["rgb"][None])[0], atol=1e-6)
            assert venv.observation_space.contains(terminal)
            seen += 1
    assert seen >= 3


def test_the_base_runs_once_for_each_environment_step_and_in_one_batch():
    base, batches = tiny_base(), []
    venv = EncodeOnce(TinyVec(4, limit=5), base)
    base.encoder.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))
    venv.reset()
    ended = 0
    for _ in range(10):
        ended += int(venv.step(np.ones(4, int))[2].sum())
    assert len(batches) == 11
    assert venv.env_steps == venv.base_forwards == 40
    assert ended == 8
    assert venv.extra_forwards == 4 + ended
    assert sum(batches) == venv.base_forwards + venv.extra_forwards


@pytest.mark.parametrize("first", [False, True])
def test_a_plain_image_space_becomes_a_dict_in_either_layout(first):
    base = tiny_base()
    venv = EncodeOnce(DummyVecEnv([lambda: PlainImageEnv(first=first)] * 2), base)
    assert set(venv.observation_space.spaces) == {"rgb", "base"}
    observation = venv.reset()
    images = observation["rgb"].transpose(0, 2, 3, 1) if first else observation["rgb"]
    assert np.allclose(observation["base"], encode(base, images), atol=1e-6)
    for _ in range(6):
        _, _, dones, infos = venv.step(np.ones(2, int))
    assert dones.all()
    assert set(infos[0]["terminal_observation"]) == {"rgb", "base"}


def test_images_can_be_dropped_and_codes_halved():
    venv = EncodeOnce(TinyVec(2, limit=3), tiny_base(), keep_rgb=False, dtype="float16")
    observation = venv.reset()
    assert set(observation) == {"map", "goal", "base"} == set(venv.observation_space.spaces)
    assert observation["base"].dtype == np.float16
    for _ in range(3):
        _, _, dones, infos = venv.step(np.ones(2, int))
    assert dones.all()
    assert set(infos[0]["terminal_observation"]) == {"map", "goal", "base"}


def test_stacking_stacks_codes_not_encodings():
    base, frames = tiny_base(), []
    venv = StackKeys(EncodeOnce(TinyVec(2), base), {"base": 3})
    base.encoder.register_forward_pre_hook(lambda module, inputs: frames.append(len(inputs[0])))
    first = venv.reset()["base"]
    second = venv.step(np.ones(2, int))[0]["base"]
    assert second.shape == (2, 12, 8, 8)
    assert np.array_equal(second[:, 4:8], first[:, 8:])
    assert frames == [2, 2]


def test_bfloat16_changes_the_code_a_little_only():
    def code(**kwargs):
        return EncodeOnce(TinyVec(2), "random", **kwargs).reset()["base"]

    exact, rough = code(), code(precision="bfloat16")
    assert not np.array_equal(exact, rough)
    assert np.abs(exact - rough).max() < 0.1 * np.abs(exact).max()


def test_values_do_not_change_under_sb3s_transposing_wrapper():
    base = tiny_base()
    observation = VecTransposeImage(EncodeOnce(TinyVec(2), base)).reset()
    assert observation["rgb"].shape == (2, 3, 32, 32)
    assert np.allclose(observation["base"], base(torch.as_tensor(observation["rgb"].copy())).numpy(), atol=1e-6)


def test_mistakes_are_one_clear_line():
    with pytest.raises(SideAgentsError, match=r"no image 'rbg', did you mean 'rgb'\?"):
        EncodeOnce(TinyVec(1), tiny_base(), image_key="rbg")
    with pytest.raises(SideAgentsError, match="no image 'rgb'"):
        EncodeOnce(TinyVec(1, keys=("goal",)), tiny_base())
    with pytest.raises(SideAgentsError, match="dtype must be float32 or float16, got 'int8'"):
        EncodeOnce(TinyVec(1), tiny_base(), dtype="int8")
    with pytest.raises(BaseError, match="3 channels"):
        EncodeOnce(StackKeys(TinyVec(1), {"rgb": 2}), tiny_base())

    class Wild(TinyEnv):
        def __init__(self):
            super().__init__(keys=("rgb",))
            self.observation_space = spaces.Dict(rgb=spaces.Box(-1.0, 5.0, (32, 32, 3), np.float32))

    with pytest.raises(SideAgentsError, match=r"must be uint8, or floats in \[0, 1\]"):
        EncodeOnce(DummyVecEnv([Wild]), tiny_base())
