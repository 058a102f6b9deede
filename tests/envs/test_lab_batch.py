"""The real habitat-lab plays our episodes on our simulator: what it measures must be what we measure."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from sideagents_envs.habitat import importing
from small_agent import dataset_of

if not importing.has_habitat_lab():
    pytest.skip("habitat-lab is not installed (the `habitat` extra)", allow_module_level=True)

from sideagents_envs import HabitatPointNavEnv
from sideagents_envs.batch.build import BatchSpec, make_batch
from sideagents_envs.batch.vec import make_vec
from sideagents_envs.config import CameraConfig, HabitatConfig, ScenesConfig, TaskConfig
from sideagents_envs.errors import EnvsError
from sideagents_envs.habitat.lab import gpu_of

EXPLICIT = TaskConfig(stop="explicit", rgb=False)
OURS = HabitatConfig()
GOAL_SENSOR = "habitat.task.lab_sensors.pointgoal_with_gps_compass_sensor"
MEASURES = {"is_success": "success", "spl": "spl", "soft_spl": "soft_spl", "distance_to_goal": "distance_to_goal"}


def pair(split: str, task: TaskConfig, **options: Any) -> tuple[Any, Any]:
    """The embedded environment and habitat-lab's on our simulator, otherwise equal."""
    spec = BatchSpec(1, split, task=task, **options)
    habitat = BatchSpec(1, split, task=task, habitat=OURS, habitat_simulator="sideagents", **options)
    return make_batch(spec), make_batch(habitat)


def chosen(kind: str, rng: np.random.Generator, batch: Any) -> Any:
    if kind == "expert":
        return batch.expert_actions()
    if kind == "random":
        return np.array([3]) if rng.random() < 0.004 else rng.integers(0, 3, 1)
    return np.array([0])


@pytest.mark.parametrize("kind", ["expert", "random", "forward"])
def test_held_out_episodes_are_the_same_in_both(kind: str) -> None:
    embedded, habitat = pair("val", EXPLICIT)
    rng = np.random.default_rng(1)
    rows = []
    for number in range(100 if kind == "expert" else 28):  # those without aim take all 500 steps
        embedded.begin(0, number)
        habitat.begin(0, number)
        while embedded.active[0]:
            action = chosen(kind, rng, embedded)
            if kind == "expert":
                assert habitat.expert_actions() == action
            ours, theirs = embedded.step(action), habitat.step(action)
            np.testing.assert_allclose(theirs.rewards, ours.rewards, atol=1e-9)
        info, lab = ours.infos[0], habitat.bodies.lab[0].get_metrics()
        for key, name in MEASURES.items():
            assert theirs.infos[0][key] == pytest.approx(lab[name], abs=1e-5), (number, key)
            assert info[key] == pytest.approx(lab[name], abs=1e-5), (number, key)
        assert info["collisions"] == lab["collisions"]["count"]
        assert habitat.bodies.lab[0].episode_over
        rows.append((lab["success"], lab["spl"]))
    success, spl = np.mean(rows, axis=0)
    if kind == "expert":
        assert success == 1.0
        assert spl >= 0.95
    else:
        assert success < 0.1


@pytest.mark.parametrize("kind", ["pointnav", "imagenav"])
def test_observations_are_those_of_the_embedded_environment(homes: list[str], kind: str) -> None:
    scenes = ScenesConfig(dataset=str(dataset_of(homes)))
    task = TaskConfig(kind=kind, depth=True, max_steps=40)
    camera = CameraConfig(width=24, height=16, hfov_deg=70, height_m=1.0)
    embedded, habitat = pair("train", task, scenes=scenes, camera=camera, seed=3)
    assert habitat.observation_space == embedded.observation_space
    rng = np.random.default_rng(0)
    for _ in range(2):
        embedded.begin(0)
        habitat.begin(0)
        while embedded.active[0]:
            ours, theirs = embedded.observe(), habitat.observe()
            for key in ours.keys() - {"depth", "goal"}:
                np.testing.assert_array_equal(theirs[key], ours[key], key)
            np.testing.assert_allclose(theirs["depth"], ours["depth"], atol=1e-6)
            if kind == "pointnav":
                np.testing.assert_allclose(theirs["goal"], ours["goal"], atol=1e-4)
            action = rng.integers(0, 3, 1)
            a, b = embedded.step(action), habitat.step(action)
            np.testing.assert_allclose(b.rewards, a.rewards, atol=1e-9)
            assert (b.truncated[0], b.terminated[0]) == (a.truncated[0], a.terminated[0])


def test_a_state_is_continued_in_the_middle_of_an_episode(homes: list[str]) -> None:
    scenes = ScenesConfig(dataset=str(dataset_of(homes)))
    spec = BatchSpec(2, "train", 5, CameraConfig(8, 8), scenes=scenes, habitat=OURS, habitat_simulator="sideagents")
    first, second = make_batch(spec), make_batch(spec)
    for env in range(2):
        first.begin(env)
    for _ in range(7):
        first.step(first.expert_actions())
    second.set_state(first.get_state())
    for _ in range(30):
        np.testing.assert_array_equal(first.expert_actions(), second.expert_actions())
        actions = first.expert_actions()
        a, b = first.step(actions), second.step(actions)
        np.testing.assert_array_equal(a.rewards, b.rewards)
        for key, value in first.observe().items():
            np.testing.assert_array_equal(second.observe()[key], value, key)
        for env in np.flatnonzero(a.terminated | a.truncated):
            assert a.infos[env] == b.infos[env]
            first.begin(int(env))
            second.begin(int(env))


def test_gymnasium_checks_the_environment_and_seeds_repeat_the_order(homes: list[str]) -> None:
    scenes = ScenesConfig(dataset=str(dataset_of(homes)))
    env = HabitatPointNavEnv(scenes=scenes, camera=CameraConfig(40, 40), task=TaskConfig(max_steps=20))
    check_env(env, skip_render_check=True)
    orders = []
    for _ in range(2):
        order = [env.reset(seed=4)[1]["start_geodesic"]]
        order += [env.reset()[1]["start_geodesic"] for _ in range(4)]
        orders.append(order)
    assert orders[0] == orders[1]
    assert len(set(orders[0])) == 5
    env.reset(seed=0)
    done = [env.step(np.int64(1))[2:4] for _ in range(20)]
    assert done == [(False, False)] * 19 + [(False, True)]  # the step limit is `truncated`
    env.close()


def test_worker_processes_play_the_same(homes: list[str]) -> None:
    scenes = ScenesConfig(dataset=str(dataset_of(homes)))
    options: dict[str, Any] = {"seed": 2, "camera": CameraConfig(8, 8), "scenes": scenes, "habitat": OURS}
    here, there = make_vec(2, **options), make_vec(2, kind="subproc", workers=2, **options)
    try:
        for a, b in ((here.reset(), there.reset()), (here.step(np.array([0, 1]))[0], there.step(np.array([0, 1]))[0])):
            for key, value in a.items():
                np.testing.assert_array_equal(b[key], value, key)
    finally:
        here.close()
        there.close()


def test_sb3s_worker_processes_are_dealt_the_same_buildings(homes: list[str]) -> None:
    scenes = ScenesConfig(dataset=str(dataset_of(homes)))
    options: dict[str, Any] = {"seed": 2, "camera": CameraConfig(8, 8), "scenes": scenes, "habitat": OURS}
    options["task"] = TaskConfig(max_steps=6)
    ours = make_vec(2, **options)
    theirs = SubprocVecEnv([partial(HabitatPointNavEnv, first_env=i, total_envs=2, **options) for i in range(2)])
    try:
        a, b = ours.reset(), theirs.reset()
        for step in range(14):
            assert isinstance(b, dict)
            for key, value in a.items():
                np.testing.assert_array_equal(b[key], value, key)
            actions = np.array([step % 3, 0])
            (a, rewards, dones, infos), (b, *others) = ours.step(actions), theirs.step(actions)
            np.testing.assert_allclose(others[0], rewards, atol=1e-6)
            np.testing.assert_array_equal(others[1], dones)
            for env in np.flatnonzero(dones):
                assert others[2][env]["TimeLimit.truncated"]
                assert others[2][env]["episode_id"] == infos[env]["episode_id"]
                assert others[2][env]["scene_id"] == infos[env]["scene_id"]
    finally:
        ours.close()
        theirs.close()


def test_gpus_are_dealt_to_workers_in_turn() -> None:
    assert [gpu_of(HabitatConfig(gpu_device_ids=(2, 5)), worker) for worker in range(3)] == [2, 5, 2]
    assert [gpu_of(HabitatConfig(gpu_device_ids=(-1,)), worker) for worker in range(2)] == [-1, -1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"habitat": HabitatConfig(config="nowhere.yaml")}, r"habitat\.config nowhere\.yaml"),
        ({"habitat": HabitatConfig(overrides=("habitat.simulater=1",))}, r"habitat\.simulater"),
        (
            {"habitat": HabitatConfig(overrides=(f"{GOAL_SENSOR}.goal_format=CARTESIAN",))},
            "must be POLAR, of dimensionality 2",
        ),
        ({"habitat_simulator": "gazebo"}, "habitat_simulator must be one of auto, habitat_sim, sideagents"),
        ({"task": TaskConfig(turn_deg=7.5)}, "whole degrees, got 7.5"),
        ({"habitat": HabitatConfig(config="benchmark/nav/imagenav/imagenav_gibson.yaml"), "task": None}, None),
    ],
)
def test_bad_settings(homes: list[str], options: dict[str, Any], message: str | None) -> None:
    scenes = ScenesConfig(dataset=str(dataset_of(homes)))
    spec = BatchSpec(1, scenes=scenes, **{"habitat": OURS, **options})
    if message is None:  # another navigation task has the same actions and measures: it is fine
        batch = make_batch(spec)
        batch.begin(0)
        assert np.isfinite(batch.observe()["goal"]).all()
        return
    with pytest.raises(EnvsError, match=message) as caught:
        make_batch(spec)
    assert "\n" not in str(caught.value)
