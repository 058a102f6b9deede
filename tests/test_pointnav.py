"""The rules of the task, worked by hand in an empty room; then the gymnasium environment in a real building."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from dataset_on_disk import make_dataset
from gymnasium.utils.env_checker import check_env as gymnasium_check
from square_room import SquareRoom, SquareSimulator, StraightField
from stable_baselines3.common.env_checker import check_env as sb3_check

from sideagents_envs.batch import FORWARD, LEFT, RIGHT, STOP, PointNavBatch
from sideagents_envs.config import CameraConfig, TaskConfig
from sideagents_envs.episodes import Episode, rotation_of
from sideagents_envs.errors import EnvsError, EpisodeError, SceneError
from sideagents_envs.pointnav import PointNavEnv
from sideagents_envs.simulator import EmbeddedWorld
from sideagents_envs.sources import EpisodeList, TrainingEpisodes

CAMERA = CameraConfig(width=36, height=36)


def room(start, goal, yaw=0.0, n=1, **task):
    """A batch in the square room, every environment at the start of the same episode."""
    episode = Episode("e", "room", np.array([start[0], 0, start[1]], float), rotation_of(yaw), np.zeros(3))
    episode.goal[[0, 2]] = goal
    simulator = SquareSimulator()
    batch = PointNavBatch(simulator, EpisodeList(simulator, [(0, episode)], "F"), n, CAMERA, TaskConfig(**task))
    for env in range(n):
        batch.begin(env)
    return batch


def play(batch, actions):
    return [batch.step(np.array([action])) for action in actions]


def test_automatic_stop_spends_one_step():
    batch = room((0, 0), (0, -0.9))
    steps = play(batch, [FORWARD, FORWARD, FORWARD])
    assert [s.rewards[0] for s in steps] == pytest.approx([0.24] * 3)
    assert not any(s.terminated[0] for s in steps)
    # 0.15 m to go: whatever is chosen now is a stop
    (last,) = play(batch, [LEFT])
    assert last.rewards[0] == pytest.approx(9.99)
    assert last.terminated[0]
    assert not last.truncated[0]
    info = last.infos[0]
    assert info["is_success"] is True
    assert info["steps"] == 4
    assert info["distance_to_goal"] == pytest.approx(0.15)
    assert info["episode_return"] == pytest.approx(10 + (0.9 - 0.15) - 0.01 * 4)
    assert info["spl"] == 1.0  # walked 0.75 m, less than the 0.9 m to the goal
    assert batch.poses[0, 3] == 0.0  # the turn was not made
    assert not batch.active[0]


def test_reaching_the_goal_on_the_last_step_is_too_late():
    batch = room((0, 0), (0, -0.4), max_steps=1)
    (step,) = play(batch, [FORWARD])
    assert not step.terminated[0]
    assert step.truncated[0]
    assert step.infos[0]["is_success"] is False
    batch = room((0, 0), (0, -0.4), max_steps=2)
    step = play(batch, [FORWARD, FORWARD])[-1]
    assert step.terminated[0]
    assert not step.truncated[0]


def test_explicit_stop_near_and_far():
    far = play(room((0, 0), (0, -0.9), stop="explicit"), [STOP])[0]
    assert far.terminated[0]
    assert far.rewards[0] == pytest.approx(-0.01)
    assert far.infos[0]["is_success"] is False
    assert far.infos[0]["spl"] == 0.0
    near = play(room((0, 0), (0, -0.9), stop="explicit"), [FORWARD] * 3 + [LEFT, STOP])
    assert [s.terminated[0] for s in near] == [False] * 4 + [True]
    assert near[-1].rewards[0] == pytest.approx(9.99)
    assert near[-1].infos[0]["is_success"] is True


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stop", ["auto", "explicit"])
def test_return_has_its_closed_form(seed, stop):
    rng = np.random.default_rng(seed)
    simulator = SquareSimulator()
    task = TaskConfig(stop=stop, max_steps=60, success_reward=7.0, distance_reward=2.0, slack_reward=-0.03)
    batch = PointNavBatch(simulator, TrainingEpisodes(simulator, ["room"], 1, seed), 1, CAMERA, task)
    batch.begin(0)
    rewards, info = [], {}
    while batch.active[0]:
        result = batch.step(rng.integers(0, 4 if stop == "explicit" and rng.random() < 0.05 else 3, 1))
        rewards.append(result.rewards[0])
        info = result.infos[0]
    expected = 7.0 * info["is_success"] + 2.0 * (info["start_geodesic"] - info["distance_to_goal"])
    assert sum(rewards) == pytest.approx(expected - 0.03 * len(rewards))
    assert info["episode_return"] == pytest.approx(sum(rewards))
    assert info["steps"] == len(rewards)


def test_measures_of_a_detour():
    # left about, 1 m; right about, back 1 m; then 1 m ahead to the goal: 3 m walked for 1 m
    batch = room((0, 0), (0, -1), turn_deg=90.0)
    steps = play(batch, [LEFT, *[FORWARD] * 4, LEFT, LEFT, *[FORWARD] * 4, LEFT, *[FORWARD] * 4, FORWARD])
    info = steps[-1].infos[0]
    assert info["is_success"] is True
    assert info["spl"] == pytest.approx(1 / 3)
    assert info["soft_spl"] == pytest.approx(1 / 3)
    assert info["collisions"] == 0


def test_soft_spl_of_a_failure():
    batch = room((0, 0), (0, -1), max_steps=2)
    info = play(batch, [FORWARD, FORWARD])[-1].infos[0]
    assert info["spl"] == 0.0
    assert info["soft_spl"] == pytest.approx(0.5)  # half the way done, 0.5 m walked: less than the distance


def test_walls_are_slid_along_and_counted():
    yaw = math.radians(-60)  # to the right and a little ahead
    batch = room((4.9, 0), (-4, 0), yaw, collision_penalty=0.5)
    (step,) = play(batch, [FORWARD])
    np.testing.assert_allclose(batch.poses[0, :3], [5.0, 0.0, -0.125])
    gained = 8.9 - math.hypot(9.0, 0.125)
    assert step.rewards[0] == pytest.approx(gained - 0.01 - 0.5)
    assert batch.summary(0)["collisions"] == 1
    stuck = room((4.9, 0), (-4, 0), yaw, allow_sliding=False)
    play(stuck, [FORWARD])
    np.testing.assert_allclose(stuck.poses[0, :3], [4.9, 0.0, 0.0])


def test_turns_are_ten_degrees_and_wrap():
    batch = room((0, 0), (0, -4))
    play(batch, [LEFT] * 19)
    assert batch.poses[0, 3] == pytest.approx(math.radians(-170))
    play(batch, [RIGHT] * 19)
    assert batch.poses[0, 3] == pytest.approx(0.0, abs=1e-12)


def test_goal_reading_and_track():
    batch = room((0, 0), (-2, 0))
    np.testing.assert_allclose(batch.observe()["goal"], [[2, 0, 1]], atol=1e-6)  # to the left
    play(batch, [FORWARD, LEFT, FORWARD])
    assert batch.tracks()[0].shape == (3, 2)
    np.testing.assert_allclose(batch.tracks()[0][:2], [[0, 0], [0, -0.25]])


def test_depth_on_request_and_one_render_call():
    batch = room((0, 0), (0, -4), n=3, depth=True)
    observation = batch.observe()
    assert observation["depth"].shape == (3, 36, 36, 1)
    assert observation["depth"].dtype == np.float32
    assert batch.simulator.calls == [3]
    assert batch.observation_space.contains({key: value[0] for key, value in observation.items()})


def test_blind_agents_cost_no_rendering_but_can_be_watched():
    batch = room((0, 0), (0, -4), n=2, rgb=False)
    assert set(batch.observe()) == {"goal", "map"}
    assert batch.simulator.calls == []
    views = batch.views()
    assert views.shape == (2, 36, 36, 3)
    np.testing.assert_array_equal(views, room((0, 0), (0, -4), n=2).observe()["rgb"])


def test_idle_environments_do_nothing():
    batch = room((0, 0), (0, -4), n=2)
    batch.retire(1)
    before = batch.poses[1].copy()
    result = batch.step(np.array([FORWARD, FORWARD]))
    np.testing.assert_array_equal(batch.poses[1], before)
    assert result.rewards[1] == 0.0
    assert not result.terminated[1]
    observation = batch.observe()
    assert not observation["rgb"][1].any()
    assert (observation["map"][1] == 128).all()
    assert batch.simulator.calls == [1]


@pytest.mark.parametrize("actions", [[3], [-1], [0, 1], [0.5]])
def test_wrong_actions_are_refused(actions):
    with pytest.raises(EnvsError, match="integers from 0 to 2"):
        room((0, 0), (0, -4)).step(np.array(actions))


def test_start_on_the_goal_has_finite_measures():
    info = play(room((1, 1), (1, 1)), [FORWARD])[0].infos[0]
    assert info["is_success"] is True
    assert info["spl"] == 1.0


def test_buildings_are_dealt_and_sharding_changes_nothing():
    names = [f"b{i}" for i in range(7)]
    simulator = SquareSimulator(names)
    whole = TrainingEpisodes(simulator, names, 6, 3, episodes_per_building=2)
    parts = [
        TrainingEpisodes(simulator, names, 2, 3, episodes_per_building=2, first_env=first, total_envs=6)
        for first in (0, 2, 4)
    ]
    for taken in range(5):
        starts = [whole.take(env, 0) for env in range(6)]
        spread = [part.take(env, 0) for part in parts for env in range(2)]
        assert [s.episode.to_json() for s in starts] == [s.episode.to_json() for s in spread]
        assert [s.scene for s in starts] == [whole.order[(env + taken // 2 * 6) % 7] for env in range(6)]
    assert sorted(whole.order) == list(range(7))
    assert TrainingEpisodes(simulator, names, 6, 4).order != whole.order


def plain(state):
    """The state as a checkpoint would hold it: arrays as they are, the rest through JSON."""
    return {key: v.copy() if isinstance(v, np.ndarray) else json.loads(json.dumps(v)) for key, v in state.items()}


def continued(batch, actions):
    log = []
    for row in actions:
        result = batch.step(row)
        observation = batch.observe()
        log.append((result.rewards.tobytes(), observation["rgb"].tobytes(), observation["map"].tobytes()))
        log.append((observation["goal"].tobytes(), json.dumps(result.infos)))
        for env in np.flatnonzero(result.terminated | result.truncated):
            batch.begin(int(env))
    return log


def test_state_continues_bit_equal():
    names = ["a", "b", "c"]
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 3, (200, 3))

    def fresh(seed):
        simulator = SquareSimulator(names)
        source = TrainingEpisodes(simulator, names, 3, seed, episodes_per_building=2)
        batch = PointNavBatch(simulator, source, 3, CAMERA, TaskConfig(max_steps=25))
        for env in range(3):
            batch.begin(env)
        return batch

    batch = fresh(1)
    continued(batch, actions[:90])
    state = plain(batch.get_state())
    rest = continued(batch, actions[90:])
    other = fresh(1)
    continued(other, actions[:7])
    other.set_state(state)
    assert continued(other, actions[90:]) == rest


def test_state_of_other_environments_is_refused():
    batch, more = room((0, 0), (0, -4)), room((0, 0), (0, -4), n=2)
    with pytest.raises(EnvsError, match="shape"):
        more.set_state(batch.get_state())
    state = batch.get_state()
    state["episodes"][0] |= {"scene_id": "castle"}
    with pytest.raises(EnvsError, match="'castle' is not among"):
        batch.set_state(state)


def training(names, n=3, seed=0, per_building=2, **task):
    simulator = SquareSimulator(names)
    source = TrainingEpisodes(simulator, names, n, seed, episodes_per_building=per_building)
    batch = PointNavBatch(simulator, source, n, CAMERA, TaskConfig(**{"max_steps": 25} | task))
    for env in range(n):
        batch.begin(env)
    return batch


def test_state_after_a_new_seed_goes_into_a_batch_of_the_first_seed():
    names = [f"home{i}" for i in range(7)]
    actions = np.random.default_rng(3).integers(0, 3, (160, 3))
    batch = training(names)
    batch.source.reseed(5)
    for env in range(3):
        batch.begin(env)
    continued(batch, actions[:30])
    state = plain(batch.get_state())
    other = training(names)
    assert other.source.order != batch.source.order
    other.set_state(state)
    assert continued(other, actions[30:]) == continued(batch, actions[30:])


def test_state_names_buildings_by_their_scene_ids():
    """Two buildings of one file name are two buildings."""
    names = ["east/room", "west/room"]
    batch = training(names, n=2)
    other = training(names, n=2, seed=1)
    other.set_state(plain(batch.get_state()))
    np.testing.assert_array_equal(other.scenes, batch.scenes)
    assert sorted(batch.scenes) == [0, 1]


def test_states_of_lists_and_of_training_are_told_apart():
    fixed, drawn = room((0, 0), (0, -4), n=3), training(["room"], n=3, max_steps=500)
    for batch, state, said in (
        (drawn, fixed.get_state(), "has no 'rngs', it is of a fixed list"),
        (fixed, drawn.get_state(), "of training episodes, not of a fixed list"),
    ):
        state["episodes"] = [row | {"scene_id": "room"} for row in state["episodes"]]
        with pytest.raises(EnvsError, match=said):
            batch.set_state(state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rngs": [{}] * 3}, "malformed rngs"),
        ({"rngs": []}, "malformed rngs"),
        ({"taken": [1, 2]}, "of 3 environments"),
        ({"taken": None}, "malformed rngs, taken or orders"),
        ({"orders": [[0, 1]] * 3}, "deals 2 other buildings, these environments 3"),
        ({"orders": [[0, 1, 2], [0, 1, 2], [2, 1, 0]]}, "other buildings"),
        ({"active": np.ones(2, bool)}, "active has shape"),
        ({"active": np.full(3, "yes")}, "active has shape"),
        ({"episodes": [None]}, "has 1 episodes, these are 3"),
        ({"episodes": [{}] * 3}, "'goals' is missing"),
        ({"tracks": ...}, "'tracks' is missing"),
    ],
)
def test_a_refused_state_changes_nothing(change, said):
    names = ["a", "b", "c"]
    actions = np.random.default_rng(1).integers(0, 3, (40, 3))
    saved, batch, twin = training(names, seed=4), training(names), training(names)
    continued(saved, actions)
    state = {key: value for key, value in (plain(saved.get_state()) | change).items() if value is not ...}
    with pytest.raises(EnvsError, match=said):
        batch.set_state(state)
    assert continued(batch, actions) == continued(twin, actions)


class Ledge(SquareRoom):
    """The goal cannot be reached from where z < -1: a ledge that one can fall from but not climb."""

    def distance_field(self, goal):
        class Field(StraightField):
            def value(self, point):
                return math.inf if point[2] < -1.0 else super().value(point)

        return Field(goal)


def test_a_place_without_a_way_to_the_goal_ends_the_episode_by_truncation(monkeypatch):
    monkeypatch.setattr(SquareSimulator, "navmesh", lambda self, scene: Ledge())
    batch = room((0, -0.5), (0, 3), max_steps=6)
    results = play(batch, [FORWARD] * 6)
    rewards = [result.rewards[0] for result in results]
    np.testing.assert_allclose(rewards, [-0.26, -0.26, -0.01, -0.01, -0.01, -0.01])  # from z = -1.25 on nothing changes
    assert [bool(result.truncated[0]) for result in results] == [False] * 5 + [True]
    info = results[-1].infos[0]
    assert (info["is_success"], info["distance_to_goal"]) == (False, 4.0)
    with pytest.raises(EpisodeError, match="episode 'e': the goal cannot be reached from"):
        room((0, -1.5), (0, 3))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIDEAGENTS_CACHE", str(folder / "cache"))
        yield make_dataset(folder)


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
    assert ids == ["0", "1", "2", "3", "4", "5", "0", "1"]


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


def test_world_keeps_to_its_triangle_budget_and_images_do_not_depend_on_it(scenes):
    paths = sorted(Path(scenes.dataset).glob("*/*.glb"))
    poses = np.array([[3.0, 0.0, 3.0, 0.4], [2.5, 0.0, 3.0, 2.0], [3.0, 0.0, 2.5, 4.0]])
    roomy = EmbeddedWorld(paths, CAMERA, scenes.navmesh)
    tight = EmbeddedWorld(paths, CAMERA, scenes.navmesh, max_triangles=1)
    for used in ([0, 1, 0], [2, 2, 2], [1, 3, 4], [0, 1, 0]):
        index = np.array(used)
        expected = roomy.render(index, poses, ("rgb", "depth"))
        images = tight.render(index, poses, ("rgb", "depth"))
        for key in ("rgb", "depth"):
            np.testing.assert_array_equal(images[key], expected[key])
        assert sorted(tight.loaded) == sorted(set(used))
    assert sorted(roomy.loaded) == [0, 1, 2, 3, 4]
    assert roomy.loaded[-2:] == [0, 1]


def test_a_world_needs_buildings(scenes):
    with pytest.raises(SceneError, match="no buildings"):
        EmbeddedWorld([], CAMERA, scenes.navmesh)
