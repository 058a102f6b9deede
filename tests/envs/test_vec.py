"""The SB3 VecEnv: auto-reset, fixed lists, state, and worker processes that equal one process and never survive it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

import sideagents_envs
from dataset_on_disk import SHORT
from sideagents_envs.batch.build import BatchSpec, make_batch
from sideagents_envs.batch.vec import make_vec
from sideagents_envs.config import ScenesConfig
from sideagents_envs.episodes.files import read_episodes, write_episodes
from sideagents_envs.errors import EnvsError, EpisodeError, SceneError
from square_room import CAMERA


def record(env, actions):
    """Everything that comes out, without the clock."""
    log = []
    for row in actions:
        observations, rewards, dones, infos = env.step(row)
        log.append({key: value.tobytes() for key, value in observations.items()})
        log.append((rewards.tobytes(), dones.tolist()))
        for info in infos:
            terminal = info.pop("terminal_observation", {})
            info.get("episode", {}).pop("t", None)
            log.append((json.dumps(info), {key: value.tobytes() for key, value in terminal.items()}))
    return log


def random_actions(steps, n, seed=0):
    return np.random.default_rng(seed).integers(0, 3, (steps, n))


def test_importing_the_package_brings_neither_torch_nor_sb3():
    code = "import sys, sideagents_envs, sideagents_envs.batch.env as p; print([m for m in sys.modules if m in "
    code += "('torch', 'stable_baselines3')])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert sideagents_envs.make_vec is make_vec


def test_auto_reset_keeps_the_terminal_observation(vec):
    env = vec(3)
    first = env.reset()
    assert first["rgb"].shape == (3, 36, 36, 3)
    for _ in range(11):
        observations, _, dones, infos = env.step(np.array([1, 1, 2]))
        assert not dones.any()
    before = env.poses()
    observations, rewards, dones, infos = env.step(np.array([1, 1, 2]))
    assert dones.all()
    assert rewards.dtype == np.float32
    for n in range(3):
        terminal = infos[n]["terminal_observation"]
        assert infos[n]["TimeLimit.truncated"] is True
        assert infos[n]["episode"]["l"] == infos[n]["steps"] == 12
        assert infos[n]["episode"]["r"] == pytest.approx(-0.12)
        assert terminal["rgb"].shape == (36, 36, 3)
        # a dozen turns on the spot: the goal is where it was, seen from another side; then a new episode begins
        assert terminal["goal"][0] == pytest.approx(first["goal"][n, 0])
        assert observations["goal"][n, 0] != pytest.approx(terminal["goal"][0])
        assert (terminal["map"][..., 0] == 255).sum() == 9
    assert np.abs(env.poses() - before).max() > 0.5
    assert all(len(track) == 1 for track in env.tracks())


def test_equal_seeds_give_equal_episodes(vec):
    actions = random_actions(30, 4)
    logs = []
    for seed in (5, 5, 6):
        env = vec(seed=seed)
        env.reset()
        logs.append(record(env, actions))
    assert logs[0] == logs[1] != logs[2]


def test_seed_takes_effect_at_the_next_reset(vec):
    a, b = vec(seed=1), vec(seed=9)
    b.seed(1)
    np.testing.assert_array_equal(a.reset()["rgb"], b.reset()["rgb"])
    np.testing.assert_array_equal(a.poses(), b.poses())


def test_workers_equal_one_process(vec):
    actions = random_actions(40, 5)
    one, many = vec(5, seed=2), vec(5, seed=2, kind="subproc", workers=2)
    one.reset()
    many.reset()
    one.seed(2)
    many.seed(2)
    first, second = one.reset(), many.reset()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])
    assert record(one, actions) == record(many, actions)
    np.testing.assert_array_equal(one.poses(), many.poses())
    np.testing.assert_array_equal(one.expert_actions(), many.expert_actions())


def test_two_training_processes_equal_one(vec):
    actions = random_actions(40, 4)
    whole = vec(4, seed=3)
    parts = [vec(2, seed=3, first_env=first, total_envs=4) for first in (0, 2)]
    whole.reset()
    for part in parts:
        part.reset()
    for row in actions:
        observations, rewards, dones, _ = whole.step(row)
        halves = [part.step(row[i * 2 : i * 2 + 2]) for i, part in enumerate(parts)]
        np.testing.assert_array_equal(observations["rgb"], np.concatenate([h[0]["rgb"] for h in halves]))
        np.testing.assert_array_equal(rewards, np.concatenate([h[1] for h in halves]))
        np.testing.assert_array_equal(dones, np.concatenate([h[2] for h in halves]))


@pytest.mark.parametrize("kinds", [("dummy", "dummy"), ("dummy", "subproc")])
def test_state_continues_bit_equal(vec, kinds):
    actions = random_actions(60, 3, seed=4)
    env = vec(3, kind=kinds[0])
    env.reset()
    env.seed(6)
    env.reset()
    record(env, actions[:30])
    env.seed(8)  # of the next reset: part of the state
    state = {key: v if isinstance(v, np.ndarray) else json.loads(json.dumps(v)) for key, v in env.get_state().items()}
    seen = env.observe()
    rest = record(env, actions[30:])
    other = vec(3, kind=kinds[1], seed=0)
    other.reset()
    record(other, actions[:5])
    other.set_state(state)
    for key, value in other.observe().items():
        np.testing.assert_array_equal(value, seen[key])
    assert record(other, actions[30:]) == rest
    np.testing.assert_array_equal(other.reset()["goal"], env.reset()["goal"])
    with pytest.raises(EnvsError, match="'tickets' is missing"):
        other.set_state({key: value for key, value in state.items() if key != "tickets"})


@pytest.mark.parametrize("kind", ["dummy", "subproc"])
def test_fixed_list_is_done_once_each(vec, kind):
    env = vec(4, split="val", kind=kind)
    assert env.episode_count == 6
    env.reset()
    done = []
    while env.active.any():
        _, rewards, dones, infos = env.step(np.ones(4, int))
        done += [infos[i]["episode_id"] for i in np.flatnonzero(dones)]
    assert sorted(done) == list("012345")
    observations, rewards, dones, infos = env.step(np.ones(4, int))
    assert not rewards.any()
    assert not dones.any()
    assert all(info == {"idle": True} for info in infos)
    assert not observations["rgb"].any()
    env.reset()
    assert env.active.all()


@pytest.mark.parametrize("kind", ["dummy", "subproc"])
def test_some_entries_of_a_list_in_an_order_of_their_own(vec, kind):
    env = vec(2, split="val", kind=kind)
    names = env.episode_names
    env.entries = [4, 1, 5]
    env.reset()
    assert env.tickets.tolist() == [4, 1]
    done = []
    while env.active.any():
        _, _, dones, infos = env.step(np.ones(2, int))
        done += [infos[i]["episode_id"] for i in np.flatnonzero(dones)]
    assert sorted(done) == sorted(names[i][1] for i in (4, 1, 5))
    env.entries = None
    env.reset()
    assert env.tickets.tolist() == [0, 1]


def test_a_list_is_played_round_its_buildings(vec, scenes):
    listed = read_episodes(Path(scenes.dataset) / "episodes" / "val.json.gz")
    assert [episode.episode_id for episode in listed] == list("012345")  # by building, three each
    env = vec(2, split="val")
    assert [episode_id for _, episode_id in env.episode_names] == list("031425")
    env.reset()
    assert [episode.episode_id for _, episode in env.present()] == ["0", "3"]


def test_list_shorter_than_the_environments(vec, scenes, tmp_path):
    episodes = read_episodes(Path(scenes.dataset) / "episodes" / "val.json.gz")
    write_episodes(tmp_path / "two.json.gz", episodes[:2])
    env = vec(3, split="val", episodes_file=tmp_path / "two.json.gz")
    observations = env.reset()
    assert env.active.tolist() == [True, True, False]
    assert not observations["rgb"][2].any()
    assert observations["rgb"][1].any()


def test_episodes_of_a_building_elsewhere(vec, scenes, tmp_path):
    """A list may name its building by a path, absolute or from where the list lies; no dataset is needed for it."""
    building = Path(scenes.dataset) / "val" / "Elm.glb"
    rows = [e.to_json() for e in read_episodes(Path(scenes.dataset) / "episodes" / "val.json.gz")][3:]
    (tmp_path / "lists").mkdir()
    (tmp_path / "House.glb").symlink_to(building)
    for scene_id in (str(building), "House.glb"):
        file = tmp_path / "lists" / "mine.json"
        file.write_text(json.dumps({"episodes": [row | {"scene_id": scene_id} for row in rows]}))
        env = vec(1, scenes=ScenesConfig(dataset=str(tmp_path / "none")), episodes_file=file)
        env.reset()
        np.testing.assert_allclose(env.poses()[0, [0, 2]], np.array(rows[0]["start_position"])[[0, 2]])


def test_training_on_a_list(vec, scenes, tmp_path):
    episodes = read_episodes(Path(scenes.dataset) / "episodes" / "val.json.gz")
    write_episodes(tmp_path / "train.json.gz", episodes)
    listed = ScenesConfig(dataset=scenes.dataset, episodes=str(tmp_path / "{split}.json.gz"))
    env = vec(2, scenes=listed)
    assert env.episode_count is None
    env.reset()
    ids = set()
    for row in random_actions(60, 2):
        ids |= {info["episode_id"] for info in env.step(row)[3] if "episode_id" in info}
    assert len(ids) > 2
    assert ids <= set("012345")


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("dummy", {"scene_id": "val/Elmo.glb"}, "'val/Elmo.glb' is not among the 2 .* did you mean 'Elm'"),
        ("dummy", {"goals": [{"position": [0.0, 0.0, 999.0]}]}, "the goal .* is not on the walkable space"),
        ("dummy", {"start_position": [500.0, 0.0, 0.0]}, "the start .* is not on the walkable space"),
        ("subproc", {"start_position": [500.0, 0.0, 0.0]}, "the start .* is not on the walkable space"),
    ],
)
def test_unusable_episode_is_one_line(scenes, tmp_path, kind, change, said):
    episodes = read_episodes(Path(scenes.dataset) / "episodes" / "val.json.gz")
    rows = [episode.to_json() for episode in episodes]
    rows[1] |= change
    file = tmp_path / "bad.json"
    file.write_text(json.dumps({"episodes": rows}))
    with pytest.raises(EpisodeError, match=f"bad.json, episode '1': .*{said}") as caught:
        make_vec(2, split="val", kind=kind, scenes=scenes, episodes_file=file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"kind": "subprocess"}, EnvsError, "did you mean 'subproc'"),
        ({"n_envs": 0}, EnvsError, "n_envs"),
        ({"workers": 0}, EnvsError, "workers"),
        ({"n_envs": 4, "first_env": 6, "total_envs": 8}, EnvsError, "total_envs"),
        ({"scenes": ScenesConfig(dataset="nowhere")}, SceneError, "nowhere/train"),
        ({"episodes_file": "gone.json.gz"}, EpisodeError, "gone.json.gz: no such"),
    ],
)
def test_wrong_settings_are_one_line(scenes, options, error, said):
    with pytest.raises(error, match=said):
        make_vec(**({"scenes": scenes} | options))


def test_damaged_building_is_one_line_from_a_worker(scenes, tmp_path):
    (tmp_path / "train").mkdir()
    whole = (Path(scenes.dataset) / "train" / "Ash.glb").read_bytes()
    (tmp_path / "train" / "Ash.glb").write_bytes(whole[:2000])
    env = make_vec(2, kind="subproc", scenes=ScenesConfig(dataset=str(tmp_path)))
    with pytest.raises(SceneError, match=r"Ash\.glb") as caught:
        env.reset()
    assert "\n" not in str(caught.value)
    env.close()


@pytest.mark.parametrize("kind", ["dummy", "subproc"])
def test_a_wrong_action_moves_no_environment(vec, kind):
    env = vec(4, kind=kind)
    env.reset()
    before, tracks = env.get_state()["steps"], env.poses()
    with pytest.raises(EnvsError, match="integers from 0 to 2"):
        env.step(np.array([0, 0, 1, 9]))  # the share of the first worker is well
    np.testing.assert_array_equal(env.get_state()["steps"], before)
    np.testing.assert_array_equal(env.poses(), tracks)


def test_limit_of_buildings_holds_for_a_list(scenes, tmp_path):
    rows = [e.to_json() for e in read_episodes(Path(scenes.dataset) / "episodes" / "val.json.gz")]
    (tmp_path / "train").symlink_to(Path(scenes.dataset) / "val")
    (tmp_path / "mine.json").write_text(
        json.dumps({"episodes": [row | {"scene_id": row["scene_id"].replace("val/", "train/")} for row in rows]})
    )
    chosen = ScenesConfig(dataset=str(tmp_path), episodes=str(tmp_path / "mine.json"), episodes_per_building=1)
    for limit, found in ((0, {"Dew", "Elm"}), (1, {"Dew"})):
        batch = make_batch(BatchSpec(2, scenes=replace(chosen, buildings=limit), camera=CAMERA, task=SHORT))
        seen = set()
        for env in (0, 1, 0, 1):
            batch.begin(env)
            seen.add(batch.present()[env][0].stem)
        assert seen == found
    only_elm = {"episodes": [row | {"scene_id": "train/Elm.glb"} for row in rows[3:]]}
    (tmp_path / "mine.json").write_text(json.dumps(only_elm))
    with pytest.raises(EpisodeError, match=r"mine.json: no episode is in the first 1 training buildings"):
        make_batch(BatchSpec(2, scenes=replace(chosen, buildings=1), camera=CAMERA, task=SHORT))


def test_home_folder_in_settings(scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "homes").symlink_to(scenes.dataset)
    (tmp_path / "lists").symlink_to(Path(scenes.dataset) / "episodes")
    for split, episodes in (("train", None), ("val", None), ("val", "~/lists/{split}.json.gz")):
        options = ScenesConfig(dataset="~/homes", episodes=episodes)
        batch = make_batch(BatchSpec(1, split, scenes=options, camera=CAMERA, task=SHORT))
        batch.begin(0)
        assert batch.present()[0][0].parent == tmp_path / "homes" / split


def test_plain_sb3_learns_and_evaluates(vec):
    env = vec(2)
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=0)
    model.learn(64)
    assert len(model.ep_info_buffer) > 0
    returns, lengths = evaluate_policy(model, vec(2), n_eval_episodes=2, return_episode_rewards=True)
    assert lengths == [12, 12]
    assert all(np.isfinite(returns))


def test_methods_per_environment(vec):
    env = vec(3)
    env.reset()
    assert len(env.get_images()) == 3
    assert env.get_attr("episode_count", [0, 2]) == [None, None]
    np.testing.assert_array_equal(env.env_method("poses", indices=[1])[0], env.poses()[1])
    with pytest.raises(AttributeError, match="poses, tracks, expert_actions"):
        env.env_method("jump")
    with pytest.raises(AttributeError, match="no attributes of their own"):
        env.set_attr("colour", 3)
