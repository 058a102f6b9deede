from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sideagents_envs.habitat import importing

if not importing.has_habitat_lab():
    pytest.skip("habitat-lab is not installed (the `habitat` extra)", allow_module_level=True)

from sideagents.errors import SideAgentsError
from sideagents_envs.batch.build import BatchSpec, make_batch
from sideagents_envs.config import HabitatConfig, NavMeshConfig, ScenesConfig, TaskConfig
from sideagents_envs.episodes.files import generate_episodes, read_episodes, write_episodes
from sideagents_envs.habitat import register
from sideagents_envs.habitat.lab import lab_config
from sideagents_envs.scenes.stage import SUFFIX
from sideagents_envs.walk.navmesh import cached_navmesh
from sideagents_policies import HabitatAgent
from sideagents_policies.agent.checks import read_config
from sideagents_policies.cli.main import main
from small_agent import SMALL, dataset_of

register()

import habitat  # noqa: E402


@pytest.fixture(scope="module")
def run(homes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent trained for a few frames through the habitat-lab path, stopped and resumed."""
    runs = tmp_path_factory.mktemp("runs")
    words = ["pointnav/demo", *homes, *SMALL, "env=habitat", "habitat_simulator=sideagents", f"runs={runs}", "name=lab"]
    assert main(["train", *words]) == 0
    (run,) = runs.iterdir()
    assert main(["train", "--resume", str(run), "ppo.frames=192"]) == 0
    return run


def test_a_run_through_habitat_lab_is_evaluated_and_says_so(
    run: Path,
    homes: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["eval", str(run), "--split", "val"]) == 0
    assert main(["eval", str(run), "--split", "val", "env=embedded"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| lab_train")]
    lab, embedded = rows
    assert lab == embedded  # the same episodes, the same agent, the same measures
    assert "habitat_simulator: sideagents" in (run / "config.yaml").read_text()


def test_an_episode_s_chance_does_not_depend_on_the_list(
    run: Path,
    homes: list[str],
    tmp_path: Path,
) -> None:
    folder = dataset_of(homes)
    episodes = read_episodes(folder / "episodes" / "val.json.gz")
    navmesh = cached_navmesh(folder / "train" / "two.glb", NavMeshConfig())
    episodes += generate_episodes(navmesh, "train/two.glb", 3, seed=1)
    rows = {}
    for name, listed, count, n_envs in (("all", episodes, 0, 2), ("backwards", episodes[::-1], 4, 1)):
        write_episodes(tmp_path / f"{name}.json.gz", listed)
        options = ["--episodes-file", str(tmp_path / f"{name}.json.gz"), "--scene-dir", str(folder)]
        assert main(["eval", str(run), *options, "--episodes", str(count), f"eval.n_envs={n_envs}"]) == 0
        text = next((run / "eval").glob(f"{name}_*/episodes.jsonl")).read_text()
        rows[name] = [json.loads(line) | {"number": None} for line in text.splitlines()]
    assert len(rows["all"]) == 9
    assert [row["scene_id"] for row in rows["backwards"]] == ["train/two.glb", "val/three.glb"] * 2
    assert all(row in rows["all"] for row in rows["backwards"])


def test_chance_of_habitat_lab_s_agent_belongs_to_the_episode(run: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def actions(agent: HabitatAgent, metres: float) -> list[str]:
        agent.reset()
        seen = {"rgb": image, "pointgoal_with_gps_compass": np.array([metres, 0.3])}
        return [agent.act(seen)["action"] for _ in range(40)]

    first, second = HabitatAgent.from_run(run), HabitatAgent.from_run(run)
    near = actions(first, 3.0)
    far = actions(second, 4.0)
    assert near != far
    assert actions(first, 4.0) == far  # what was played before does not matter
    assert actions(second, 3.0) == near


def test_cloning_through_habitat_lab(homes: list[str], tmp_path: Path) -> None:
    words = ["pointnav/demo", *homes, *SMALL, "env=habitat", f"runs={tmp_path}", "name=lab"]
    assert main(["clone", *words]) == 0
    assert list(tmp_path.glob("lab_clone_*/checkpoints/step_*"))


def test_the_benchmark_of_habitat_lab_evaluates_it(run: Path, homes: list[str], tmp_path: Path) -> None:
    config = read_config(str(run / "config.yaml"))
    folder = shutil.copytree(dataset_of(homes), tmp_path / "homes")
    for path in folder.rglob("*.glb"):  # Habitat would put Z up without
        path.with_name(path.stem + SUFFIX).write_text(json.dumps({"render_asset": path.name}))
    tree = lab_config(
        HabitatConfig(
            overrides=(
                f"habitat.dataset.data_path={folder / 'episodes' / 'val.json.gz'}",
                f"habitat.dataset.scenes_dir={folder}",
            )
        ),
        config.camera,
        config.task,
        NavMeshConfig(),
        "sideagents",
    )
    benchmark = habitat.Benchmark.__new__(habitat.Benchmark)
    benchmark._eval_remote = False
    benchmark._env = habitat.Env(tree)
    metrics = benchmark.evaluate(HabitatAgent.from_run(run), num_episodes=2)
    assert set(metrics) >= {"success", "spl", "distance_to_goal"}
    assert np.isfinite(list(metrics.values())).all()


def test_it_sees_what_the_agent_saw_in_training(run: Path, homes: list[str]) -> None:
    # the same episode, in our environment and by habitat-lab's observations alone: map, goal, image are the same
    folder = str(dataset_of(homes))
    config = read_config(str(run / "config.yaml"))
    scenes = ScenesConfig(dataset=folder)
    spec = BatchSpec(1, "val", 0, config.camera, TaskConfig(), scenes, habitat=HabitatConfig())
    batch: Any = make_batch(spec)
    agent = HabitatAgent.from_run(run)
    batch.begin(0, 0)
    agent.reset()
    names = ("move_forward", "turn_left", "turn_right", "stop")
    for _ in range(25):
        action = agent.act(batch.bodies._seen[0])
        seen, shown = batch.observe(), agent._given.content
        np.testing.assert_array_equal(shown["rgb"], seen["rgb"])
        np.testing.assert_allclose(shown["goal"], seen["goal"], atol=1e-6)
        assert (shown["map"] != seen["map"]).mean() < 0.002  # a place on the border of two cells
        batch.step(np.array([names.index(action["action"])]))


def test_what_it_needs_is_told(run: Path) -> None:
    agent = HabitatAgent.from_run(run)
    agent.reset()
    with pytest.raises(SideAgentsError, match="needs the sensor pointgoal_with_gps_compass"):
        agent.act({"rgb": np.zeros((32, 32, 3), np.uint8)})
    with pytest.raises(SideAgentsError, match=r"rgb must be an image \(32, 32, 3\), got \(8, 8, 3\)"):
        agent.act({"rgb": np.zeros((8, 8, 3), np.uint8), "pointgoal_with_gps_compass": np.array([1.0, 0.0])})


def test_it_stops_by_itself_where_it_was_trained_to(run: Path) -> None:
    agent = HabitatAgent.from_run(run)
    agent.reset()
    image = np.zeros((32, 32, 3), np.uint8)
    assert agent.act({"rgb": image, "pointgoal_with_gps_compass": np.array([0.1, 0.3])}) == {"action": "stop"}
    assert agent.act({"rgb": image, "pointgoal_with_gps_compass": np.array([2.0, 0.3])})["action"] != "stop"
