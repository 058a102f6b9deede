import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecTransposeImage

from sideagents.errors import SideAgentsError
from sideagents_policies.views.stack import ExpertLabels, StackKeys, environment_state, restore_environment
from tiny_env import TinyEnv, TinyVec


class Numbered(VecEnvWrapper):
    """Replaces observations by 1, 2, 3, ... so that stacks can be worked out by hand."""

    def __init__(self, venv, shape=(1,)):
        self.count = 0
        low, high = np.ones(shape, np.float32), np.full(shape, 9.0, np.float32)
        super().__init__(venv, observation_space=spaces.Dict(x=spaces.Box(low, high)))

    def _now(self, n=None):
        self.count += 1
        shape = self.observation_space["x"].shape
        return {"x": np.full((self.num_envs, *shape), self.count, np.float32)}

    def reset(self):
        self.venv.reset()
        return self._now()

    def step_wait(self):
        _, rewards, dones, infos = self.venv.step_wait()
        for env in np.flatnonzero(dones):
            infos[env]["terminal_observation"] = {"x": np.full(self.observation_space["x"].shape, -1.0, np.float32)}
        return self._now(), rewards, dones, infos


def test_readings_are_stacked_newest_last_and_zeroed_at_the_start_of_an_episode():
    venv = StackKeys(Numbered(TinyVec(1, limit=3)), {"x": 3})
    assert venv.reset()["x"].tolist() == [[0, 0, 1]]
    assert venv.step(np.array([1]))[0]["x"].tolist() == [[0, 1, 2]]
    assert venv.step(np.array([1]))[0]["x"].tolist() == [[1, 2, 3]]
    observation, _, dones, infos = venv.step(np.array([1]))
    assert dones.tolist() == [True]
    assert observation["x"].tolist() == [[0, 0, 4]]  # the new episode has no past
    assert infos[0]["terminal_observation"]["x"].tolist() == [2, 3, -1]  # the old one keeps its own
    assert venv.step(np.array([1]))[0]["x"].tolist() == [[0, 4, 5]]


def test_readings_may_lie_several_steps_apart():
    venv = StackKeys(Numbered(TinyVec(1, limit=6)), {"x": 3}, {"x": 2})
    assert venv.reset()["x"].tolist() == [[0, 0, 1]]
    seen = [venv.step(np.array([1]))[0]["x"][0].tolist() for _ in range(5)]
    assert seen == [[0, 0, 2], [0, 1, 3], [0, 2, 4], [1, 3, 5], [2, 4, 6]]
    observation, _, dones, infos = venv.step(np.array([1]))
    assert dones.tolist() == [True]
    assert infos[0]["terminal_observation"]["x"].tolist() == [3, 5, -1]
    assert observation["x"].tolist() == [[0, 0, 7]]


def test_an_observation_that_was_given_out_never_changes_afterwards():
    venv = StackKeys(Numbered(TinyVec(1)), {"x": 2})
    first = venv.reset()["x"]
    first += 100.0
    assert venv.step(np.array([1]))[0]["x"].tolist() == [[1, 2]]


def test_codes_grow_along_channels_and_images_along_their_channel_axis():
    venv = StackKeys(TinyVec(2), {"rgb": 2, "goal": 4, "map": 1})
    observation = venv.reset()
    assert observation["rgb"].shape == (2, 32, 32, 6)
    assert observation["goal"].shape == (2, 12)
    assert observation["map"].shape == (2, 84, 84, 3)
    assert (observation["rgb"][..., :3] == 0).all()
    assert venv.observation_space["rgb"].shape == (32, 32, 6)
    for _ in range(8):
        observation, _, dones, infos = venv.step(np.array([0, 1]))
        assert all(venv.observation_space[k].contains(v[0]) for k, v in observation.items())
        for env in np.flatnonzero(dones):
            assert venv.observation_space.contains(infos[env]["terminal_observation"])


class Shaped(Numbered):
    """Numbered observations under another name."""

    def __init__(self, key, shape, dtype=np.float32):
        super().__init__(TinyVec(1), shape)
        self.key = key
        self.observation_space = spaces.Dict({key: spaces.Box(0, 255, shape, dtype)})

    def reset(self):
        self.venv.reset()
        return {self.key: np.ones((1, *self.observation_space[self.key].shape), self.observation_space[self.key].dtype)}


@pytest.mark.parametrize(
    ("key", "shape", "dtype", "stacked"),
    [
        ("depth", (40, 40, 1), np.float32, (40, 40, 2)),
        ("depth", (1, 40, 40), np.float32, (2, 40, 40)),
        ("rgb", (36, 40, 3), np.float32, (36, 40, 6)),
        ("rgb", (3, 40, 40), np.uint8, (6, 40, 40)),
        ("base", (64, 4, 4), np.float32, (128, 4, 4)),
        ("base", (16, 8, 4), np.float32, (32, 8, 4)),
        ("codes", (64, 4, 4), np.float32, (128, 4, 4)),
    ],
)
def test_float_images_grow_along_their_channels_too(key, shape, dtype, stacked):
    venv = StackKeys(Shaped(key, shape, dtype), {key: 2})
    assert venv.observation_space[key].shape == stacked
    assert venv.reset()[key].shape == (1, *stacked)


def test_zero_lies_within_the_bounds_of_a_stack():
    assert StackKeys(Numbered(TinyVec(1)), {"x": 2}).observation_space["x"].low.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("frames", "strides", "message"),
    [
        ({"gaol": 2}, None, "no array 'gaol' .*did you mean 'goal'"),
        ({"goal": 0}, None, "goal must keep at least 1 reading, at least 1 step apart, got 0 and 1"),
        ({"goal": 2}, {"goal": 0}, "goal must keep at least 1 reading, at least 1 step apart, got 2 and 0"),
    ],
)
def test_wrong_keys_and_counts_are_refused(frames, strides, message):
    with pytest.raises(SideAgentsError, match=message):
        StackKeys(TinyVec(1), frames, strides)


def test_state_of_all_layers_goes_on_bit_for_bit():
    def make():
        return VecTransposeImage(StackKeys(TinyVec(3), {"goal": 4, "rgb": 2}, {"rgb": 3}))

    first = make()
    first.reset()
    actions = np.random.default_rng(0).integers(0, 3, (20, 3))
    for row in actions[:7]:
        first.step(row)
    saved = environment_state(first)
    second = make()
    second.reset()
    second.step(actions[0])
    restore_environment(second, saved)
    for row in actions[7:]:
        one, two = first.step(row), second.step(row)
        assert all(np.array_equal(one[0][key], two[0][key]) for key in one[0])
        assert np.array_equal(one[1], two[1])
        assert np.array_equal(one[2], two[2])


def test_a_state_of_other_wrappers_is_refused():
    two, three = StackKeys(TinyVec(1), {"goal": 2}), StackKeys(TinyVec(1), {"goal": 3})
    with pytest.raises(SideAgentsError, match="other keys, counts or environments"):
        restore_environment(two, environment_state(three))
    with pytest.raises(SideAgentsError, match="saved state of 1 environment layers, but 2"):
        restore_environment(two, environment_state(TinyVec(1)))
    with pytest.raises(SideAgentsError, match="has no get_state"):
        environment_state(StackKeys(DummyVecEnv([TinyEnv]), {"goal": 2}))


def test_expert_labels_follow_the_environment():
    venv = ExpertLabels(TinyVec(2, limit=3))
    assert venv.reset()["expert"].tolist() == [[0], [0]]
    assert venv.step(np.array([1, 1]))[0]["expert"].tolist() == [[1], [1]]
    venv.step(np.array([1, 1]))
    observation, _, dones, infos = venv.step(np.array([1, 1]))
    assert dones.all()
    assert observation["expert"].tolist() == [[0], [0]]
    assert infos[0]["terminal_observation"]["expert"].tolist() == [-1]
    assert venv.observation_space.contains({k: v[0] for k, v in observation.items()})
