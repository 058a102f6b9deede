"""Demonstrations: what is stored, that it is what the environments show, resuming, damage."""

from __future__ import annotations

import dataclasses
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dataset_on_disk import make_habitat_dataset
from sideagents.errors import SideAgentsError
from sideagents_envs.sensors.spaces import NO_ACTION
from sideagents_policies.agent.checks import default_config
from sideagents_policies.config import AgentConfig
from sideagents_policies.demos.collect import (
    DemosError,
    _expert_config,
    check_fits,
    collect,
    count_frames,
    read_demos,
    read_header,
)
from sideagents_policies.demos.frames import DemoReader
from sideagents_policies.demos.images import ImageSource
from sideagents_policies.demos.minari_export import export_minari
from sideagents_policies.demos.store import FrameStore
from sideagents_policies.views.environments import build_venv
from sideagents_policies.views.plan import agent_base, observation_space, stacked_keys

LONG = ["task.max_steps=200"]  # enough for the expert to arrive


@pytest.fixture(scope="module")
def config(homes) -> AgentConfig:
    return default_config([*homes, *LONG])


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory) -> Path:
    return collect(config, tmp_path_factory.mktemp("demos") / "here")


def test_counts_are_exact(folder):
    header = read_header(folder)
    trajectories = list(read_demos(folder))
    assert len(trajectories) == header["trajectories"] == 8
    assert count_frames(header) == sum(int((t.actions != NO_ACTION).sum()) for t in trajectories)
    assert count_frames(header, 1, 2) == sum(int((t.actions != NO_ACTION).sum()) for t in trajectories[1::2])
    assert all(t.success for t in trajectories)
    assert {t.scene for t in trajectories} == {"one", "two"}


def test_documented_arrays(folder):
    with np.load(folder / "shard_00000.npz", allow_pickle=False) as file:
        assert set(file.files) == {
            "poses", "actions", "rewards", "episode_starts", "goals", "scenes", "successes", "rgb"
        }  # fmt: skip
        steps = len(file["actions"])
        assert file["poses"].shape == (steps, 4)
        assert file["rgb"].shape == (steps, 32, 32, 3)
        assert file["episode_starts"].sum() == 8
        # the automatic stop is the last step of each trajectory, and the only one without an action
        last = np.append(np.flatnonzero(file["episode_starts"])[1:], steps) - 1
        assert np.flatnonzero(file["actions"] == NO_ACTION).tolist() == last.tolist()


def test_return_is_the_closed_form(folder, config):
    for trajectory in read_demos(folder):
        # success + progress - slack, as the task defines it; the expert bumps into nothing
        progress = (
            trajectory.rewards.sum() - config.task.success_reward - config.task.slack_reward * len(trajectory.actions)
        )
        straight = np.hypot(*(trajectory.poses[0, [0, 2]] - trajectory.goal[[0, 2]]))
        assert progress >= straight - config.task.success_distance_m - 0.05


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.goal_history=3"],
        ["model.frames=3", "model.frame_stride=4"],
        ["model.method=finetune", "model.frames=2", "model.frame_stride=2"],
        ["model.use_rgb=false"],
        ["task.kind=imagenav", "camera.width=40", "camera.height=40"],
        ["model.use_map=false", "task.depth=true", "camera.width=40", "camera.height=40"],
    ],
    ids=lambda value: " ".join(value),
)
def test_read_as_the_environment_shows_it(homes, tmp_path, overrides):
    config = default_config([*homes, *LONG, *overrides, "demos.trajectories=4", "vec.n_envs=2"])
    shown = play(config)
    base = agent_base(config)
    import torch

    space = observation_space(config, base)
    reader = DemoReader(config, space, base, torch.device("cpu"))
    trajectories = list(read_demos(collect(config, tmp_path / "demos")))
    for trajectory, (observations, actions) in zip(trajectories, shown, strict=True):
        store = FrameStore(space, 500, stacked_keys(config, base))
        assert reader.fill(store, [trajectory]) == 1
        assert len(store) == len(observations) - 1  # at the last step nothing is done any more
        read, labels, _ = store.take(np.arange(len(store)), torch.device("cpu"))
        assert set(read) == set(observations[0])
        assert labels.tolist() == actions[:-1]
        for key, values in read.items():
            expected = np.stack([step[key] for step in observations[:-1]])
            if key == "base":  # encoded in other batches, kept as float16
                np.testing.assert_allclose(values.numpy(), expected, atol=1e-3, rtol=1e-3)
            else:
                assert (values.numpy() == expected).all(), key
        assert (trajectory.actions[:-1] == actions[:-1]).all()


def play(config):
    """Play what `collect` plays, through the agent's wrappers; return the first two episodes of each environment."""
    from sideagents_policies.demos.collect import _SEED

    venv = build_venv(_expert_config(config))
    venv.seed(int(np.random.SeedSequence([_SEED, config.seed, 0]).generate_state(1)[0]))
    observations = venv.reset()
    finished = [[], []]
    steps = [([], []), ([], [])]
    while min(len(done) for done in finished) < 2:
        actions = venv.unwrapped.expert_actions()
        for env in range(2):
            steps[env][0].append({key: value[env].copy() for key, value in observations.items()})
            steps[env][1].append(actions[env])
        observations, _, dones, _ = venv.step(actions)
        for env in np.flatnonzero(dones):
            finished[env].append(steps[env])
            steps[env] = ([], [])
    venv.close()
    return [episode for done in finished for episode in done[:2]]


def test_images_can_be_left_out(homes, folder, config, tmp_path):
    bare = collect(default_config([*homes, *LONG, "demos.images=false"]), tmp_path / "bare")
    assert (bare / "shard_00000.npz").stat().st_size < 0.1 * (folder / "shard_00000.npz").stat().st_size
    import torch

    base = agent_base(config)
    reader = DemoReader(config, observation_space(config, base), base, torch.device("cpu"))
    for kept, rendered in zip(read_demos(folder), read_demos(bare), strict=True):
        assert rendered.rgb is None
        assert (reader.readings(rendered)["rgb"] == kept.rgb).all()


def test_images_of_scans_in_habitats_layout_are_rendered_again(tmp_path):
    scenes = make_habitat_dataset(tmp_path)
    words = [f"scenes.dataset={scenes.dataset}", f"scenes.episodes={scenes.episodes}", "scenes.up=z"]
    words += ["model.base=random", "demos.trajectories=4", "vec.n_envs=2", "camera.width=16", "camera.height=16"]
    kept, bare = (default_config([*words, f"demos.images={images}"]) for images in ("true", "false"))
    again = ImageSource(bare)
    pairs = zip(read_demos(collect(kept, tmp_path / "a")), read_demos(collect(bare, tmp_path / "b")), strict=True)
    for with_images, without in pairs:
        assert without.rgb is None
        np.testing.assert_array_equal(again.channel(without, "rgb"), with_images.rgb)
        assert with_images.rgb.std() > 1


def test_collecting_goes_on_where_it_stopped(config, tmp_path, monkeypatch):
    from sideagents_policies.demos import collect as demos

    monkeypatch.setattr(demos, "PER_SHARD", 3)
    whole = collect(config, tmp_path / "whole")
    original, calls = demos._write_npz, []

    def interrupted(path, arrays):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(path, arrays)

    monkeypatch.setattr(demos, "_write_npz", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(config, tmp_path / "cut")
    with pytest.raises(DemosError, match="holds 3 of 8 trajectories"):
        check_fits(tmp_path / "cut", config)
    header = json.loads((tmp_path / "cut" / "demos.json").read_text())
    del header["scenes"]["up"]  # as if that key had come later
    (tmp_path / "cut" / "demos.json").write_text(json.dumps(header))
    collect(config, tmp_path / "cut")
    assert [path.name for path in calls] == [f"shard_0000{i}.npz" for i in (0, 1, 1, 2)]
    assert [(t.actions.tolist(), t.scene) for t in read_demos(tmp_path / "cut")] == [
        (t.actions.tolist(), t.scene) for t in read_demos(whole)
    ]


def test_processes_change_nothing(homes, folder, tmp_path):
    spread = collect(default_config([*homes, *LONG, "vec.kind=subproc"]), tmp_path / "spread")
    for one, other in zip(read_demos(folder), read_demos(spread), strict=True):
        assert (one.poses == other.poses).all()
        assert (one.rgb == other.rgb).all()


def test_another_folder_is_left_alone(homes, folder, config, tmp_path):
    with pytest.raises(DemosError, match="holds demonstrations with seed=1, now seed=2"):
        collect(default_config([*homes, *LONG, "seed=2"]), folder)
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(DemosError, match="not empty and holds no demonstrations"):
        collect(config, tmp_path)


def test_must_fit_the_configuration(homes, folder):
    with pytest.raises(DemosError, match="was collected with camera"):
        check_fits(folder, default_config([*homes, *LONG, "camera.width=48"]))
    with pytest.raises(DemosError, match=r"task\.turn_deg=10\.0, the configuration has 15\.0"):
        check_fits(folder, default_config([*homes, *LONG, "task.turn_deg=15.0"]))
    with pytest.raises(DemosError, match=r"task\.slack_reward=-0\.01, the configuration has -0\.5"):
        check_fits(folder, default_config([*homes, *LONG, "task.slack_reward=-0.5"]))
    with pytest.raises(DemosError, match="no such folder of demonstrations, did you mean 'here'"):
        check_fits(folder.parent / "hare", default_config([*homes, *LONG]))


HEADERS = {
    "images": lambda header: header.pop("images"),
    "trajectories": lambda header: header.update(trajectories="eight"),
    "task": lambda header: header.update(task=None),
    "shards": lambda header: header["shards"][0].pop("frames"),
    "counts": lambda header: header["shards"][0].pop("trajectories"),
    "lengths": lambda header: header["shards"][0]["frames"].pop(),
}


@pytest.mark.parametrize("damage", HEADERS)
def test_damaged_headers_are_told(folder, config, tmp_path, damage):
    header = read_header(folder)
    HEADERS[damage](header)
    (tmp_path / "demos.json").write_text(json.dumps(header))
    key = damage if damage in header or damage in ("images", "task") else "shards"
    for read in (read_header, lambda path: check_fits(path, config), lambda path: list(read_demos(path))):
        with pytest.raises(DemosError, match=f"demos.json: is damaged, '{key}' is missing or wrong"):
            read(tmp_path)


def test_stay_follows_the_buildings_there_are(config):
    assert _expert_config(config).scenes.episodes_per_building == 4  # 8 trajectories, 2 buildings
    one = config.model_copy(update={"scenes": dataclasses.replace(config.scenes, buildings=1)})
    assert _expert_config(one).scenes.episodes_per_building == 8


@pytest.mark.parametrize("damage", ["cut", "pickle", "missing", "array", "header", "text"])
def test_damage_is_told(folder, tmp_path, damage):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / "shard_00000.npz"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:5000])
    elif damage == "pickle":
        np.savez(shard, **{name: np.array([{}], object) for name in ("poses", "actions")})
    elif damage == "missing":
        shard.unlink()
    elif damage == "array":
        with np.load(shard) as file:
            arrays = dict(file)
        np.savez(shard, **(arrays | {"poses": arrays["poses"][:-1]}))
    elif damage == "header":
        (tmp_path / "demos.json").write_text(json.dumps({"format": 9}))
    else:
        shard.write_bytes(b"hello")
        assert not zipfile.is_zipfile(shard)
    with pytest.raises(DemosError) as caught:
        list(read_demos(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


class FakeMinari:
    """Stands in for Minari, whose numpy 2 cannot be installed beside ours: records what it is given."""

    def __init__(self):
        self.calls = []
        self.EpisodeBuffer = lambda **fields: fields

    def create_dataset_from_buffers(self, dataset_id, buffers, **options):
        if "/" not in dataset_id:
            raise ValueError("malformed\ndataset id")
        self.calls.append((dataset_id, buffers, options))


def test_minari_export(folder, config, monkeypatch):
    fake = FakeMinari()
    monkeypatch.setitem(sys.modules, "minari", fake)
    monkeypatch.setitem(sys.modules, "minari.data_collector", fake)
    assert export_minari(folder, config, "pointnav/expert-v0") == "pointnav/expert-v0"
    ((_, buffers, options),) = fake.calls
    assert len(buffers) == 8
    for buffer, trajectory in zip(buffers, read_demos(folder), strict=True):
        steps = len(buffer["actions"])
        assert steps == len(trajectory.actions) - 1
        assert all(len(values) == steps + 1 for values in buffer["observations"].values())
        assert buffer["actions"].min() >= 0
        assert buffer["rewards"].sum() == pytest.approx(trajectory.rewards.sum())
        assert buffer["terminations"].tolist() == [False] * (steps - 1) + [True]
        first = {key: values[0] for key, values in buffer["observations"].items()}
        assert options["observation_space"].contains(first)
        assert options["action_space"].contains(buffer["actions"][0])
    with pytest.raises(SideAgentsError, match="Minari refuses 'expert': malformed dataset id"):
        export_minari(folder, config, "expert")


def test_minari_is_missing(folder, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(SideAgentsError, match="Minari is not installed"):
        export_minari(folder, config, "pointnav/expert-v0")
