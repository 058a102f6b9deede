"""Evaluation: a fixed list, rows in its order, intervals, the same result however many environments play."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sideagents.errors import SideAgentsError
from sideagents.machine.devices import processor_name
from sideagents_envs.config import NavMeshConfig
from sideagents_envs.episodes.bundled import BUNDLED_SPLITS, episodes_file
from sideagents_envs.episodes.files import Episode, generate_episodes, read_episodes, write_episodes
from sideagents_envs.errors import EnvsError
from sideagents_envs.versions import LISTS_VERSION
from sideagents_envs.walk.navmesh import cached_navmesh
from sideagents_policies.agent.checks import default_config
from sideagents_policies.cli.main import main
from sideagents_policies.config import EvalConfig
from sideagents_policies.evaluate.agents import baseline
from sideagents_policies.evaluate.enjoy import record
from sideagents_policies.evaluate.evaluation import (
    METRICS,
    evaluate_baseline,
    evaluate_run,
    evaluate_runs,
    run_episodes,
    summarise,
)
from sideagents_policies.train.reinforcement import train
from sideagents_policies.views.environments import build_venv
from small_agent import dataset_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:stable_baselines3.*")


def rows_of(run: Path, folder: str = "val_sampled_step128_first3") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "eval" / folder / "episodes.jsonl").read_text().splitlines()]


def test_summary_is_mean_and_interval() -> None:
    rows: list[dict[str, Any]] = [{"scene_id": "house"} | {m: float(i % 2) for m in METRICS} for i in range(100)]
    stats = summarise(rows)
    assert stats["success"]["mean"] == 0.5
    # the standard error of the mean of 100 coin flips is 0.05; the 95 % interval reaches 1.96 of them either way
    assert stats["success"]["low"] == pytest.approx(0.402, abs=0.02)
    assert stats["success"]["high"] == pytest.approx(0.598, abs=0.02)


def test_summary_resamples_buildings() -> None:
    """Two buildings, one of them always solved: means 0, 1/2, 1 with 1/4, 1/2, 1/4, whatever the number of episodes."""
    rows: list[dict[str, Any]] = [{"scene_id": f"{i % 2}"} | dict.fromkeys(METRICS, float(i % 2)) for i in range(100)]
    assert summarise(rows)["spl"] == {"mean": 0.5, "low": 0.0, "high": 1.0}


def test_expert_reaches_every_goal(homes: list[str], tmp_path: Path) -> None:
    config = default_config([*homes, "task.max_steps=500"])
    result = evaluate_baseline("expert", config, episodes=0, json_path=tmp_path / "r.json")
    assert result["episodes"] == 6
    assert result["metrics"]["success"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert result["metrics"]["spl"]["mean"] > 0.9
    assert json.loads((tmp_path / "r.json").read_text()) == result


def test_reward_is_the_papers_whatever_training_added(homes: list[str]) -> None:
    others = ["task.slack_reward=-0.5", "task.distance_reward=3.0", "task.success_reward=1.0"]
    results = [
        evaluate_baseline("forward", default_config([*homes, *words]))
        for words in ([], ["task.collision_penalty=0.5"], others)
    ]
    assert results[0]["metrics"]["collisions"]["mean"] > 0
    assert results[0]["metrics"] == results[1]["metrics"] == results[2]["metrics"]


def test_random_does_not_depend_on_the_number_of_environments(homes: list[str]) -> None:
    config = default_config([*homes, "task.max_steps=40"])
    results = []
    for n_envs in (1, 2, 5):
        one = config.model_copy(update={"eval": config.eval.model_copy(update={"n_envs": n_envs})})
        results.append(evaluate_baseline("random", one, episodes=0))
    assert results[0]["metrics"] == results[1]["metrics"] == results[2]["metrics"]
    assert 0.0 < results[0]["metrics"]["steps"]["mean"] <= 40.0


def test_rows_follow_the_list(tiny_run: Path, homes: list[str]) -> None:
    result = evaluate_run(tiny_run, episodes=5)
    rows = rows_of(tiny_run, "val_sampled_step128_first5")
    folder = dataset_of(homes)
    listed = read_episodes(Path(folder) / "episodes" / "val.json.gz")[:5]
    assert [row["episode_id"] for row in rows] == [episode.episode_id for episode in listed]
    assert {row["buildings"] for row in rows} == {result["buildings"]} == {Path(folder).name}
    assert result["metrics"]["nav_reward"]["mean"] == pytest.approx(np.mean([row["nav_reward"] for row in rows]))


@pytest.fixture(scope="module")
def street(homes: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Lists of the same ten episodes in three buildings, where ids repeat: by building, reversed, shuffled."""
    dataset = dataset_of(homes)
    episodes: list[Episode] = []
    for scene_id, count in (("train/one.glb", 3), ("train/two.glb", 3), ("val/three.glb", 4)):
        navmesh = cached_navmesh(dataset / scene_id, NavMeshConfig())
        episodes += generate_episodes(navmesh, scene_id, count, seed=1)
    orders = {"sorted": range(10), "reversed": range(9, -1, -1), "shuffled": np.random.default_rng(0).permutation(10)}
    folder = tmp_path_factory.mktemp("lists")
    for name, order in orders.items():
        write_episodes(folder / f"{name}.json.gz", [episodes[i] for i in order])
    return {name: folder / f"{name}.json.gz" for name in orders} | {"dataset": dataset}


def by_name(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows by the names of their episodes, without their places in a list."""
    return {(row["scene_id"], row["episode_id"]): {k: v for k, v in row.items() if k != "number"} for row in rows}


def test_any_number_of_episodes_visits_the_buildings_evenly(
    homes: list[str],
    street: dict[str, Path],
) -> None:
    config = default_config([*homes, "task.max_steps=5"])
    for name in ("sorted", "reversed"):
        for count, shares in ((3, [1, 1, 1]), (5, [1, 2, 2]), (0, [3, 3, 4])):
            result = evaluate_baseline("forward", config, episodes=count, episodes_file=street[name])
            assert sorted(building["episodes"] for building in result["by_building"].values()) == shares
            assert (result["buildings_played"], result["episodes"]) == (3, sum(shares))
            weighed = sum(b["episodes"] * b["soft_spl"] for b in result["by_building"].values()) / sum(shares)
            assert result["metrics"]["soft_spl"]["mean"] == pytest.approx(weighed)
            assert result["lists"] == LISTS_VERSION


def test_the_bundled_lists_do_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--agent", "forward", "--split", "val", "--episodes", "28", "--json", str(tmp_path / "r.json")]
    assert main(["eval", *words, "task.max_steps=3"]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["buildings_played"] == len(BUNDLED_SPLITS["val"]) == 14
    assert EvalConfig().during_episodes % 14 == 0  # what chooses a "best" checkpoint sees all of them alike
    assert {building["episodes"] for building in result["by_building"].values()} == {2}
    assert "| forward | 14        | 28 " in capsys.readouterr().out
    episodes = read_episodes(episodes_file("val"))  # as the file has them: nothing is left to be dealt
    for first in range(0, len(episodes), 14):
        assert len({episode.scene_id for episode in episodes[first : first + 14]}) == 14


def test_neither_order_nor_number_of_environments_nor_company_changes_an_episode(
    tiny_run: Path,
    homes: list[str],
    street: dict[str, Path],
) -> None:
    config = default_config([*homes, "task.max_steps=30"])

    def at_random(order: str, n_envs: int, count: int, seed: int = 1) -> list[dict[str, Any]]:
        venv = build_venv(config, "val", n_envs, episodes_file=street[order], perceive=False)
        try:
            return run_episodes(venv, baseline("random")(venv, config.task, seed), count)
        finally:
            venv.close()

    def trained(order: str, n_envs: int, count: int) -> list[dict[str, Any]]:
        options = {"episodes_file": street[order], "scenes_dir": street["dataset"], "episodes": count}
        evaluate_run(tiny_run, overrides=[f"eval.n_envs={n_envs}"], **options)  # type: ignore[arg-type]
        return rows_of(tiny_run, f"{order}_sampled_step128" + (f"_first{count}" if count else ""))

    for play in (at_random, trained):
        listed = play("sorted", 2, 0)
        assert [row["number"] for row in listed] == list(range(10))
        assert [row["scene_id"] for row in listed[:3]] == ["train/one.glb", "train/two.glb", "val/three.glb"]
        whole = by_name(listed)
        assert len(whole) == 10
        assert by_name(play("reversed", 1, 0)) == whole
        assert by_name(play("shuffled", 5, 0)) == whole
        some = by_name(play("shuffled", 3, 4))
        assert len(some) == 4
        assert some.items() <= whole.items()
    assert by_name(at_random("sorted", 2, 0, seed=2)) != by_name(at_random("sorted", 2, 0))


def test_a_film_is_of_the_episode_that_eval_counted(
    tiny_run: Path,
    street: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options: dict[str, Any] = {"episodes_file": street["reversed"], "scenes_dir": street["dataset"]}
    evaluate_run(tiny_run, **options, episodes=0)
    row = rows_of(tiny_run, "reversed_sampled_step128")[4]
    capsys.readouterr()
    record(tiny_run, episode=4, out=tmp_path / "one.png", **options)
    said = f"{row['scene_id']} episode {row['episode_id']}: did not reach the goal in {row['steps']} steps"
    assert capsys.readouterr().out.startswith(f"{said}, SPL {row['spl']:.2f}")


def test_same_run_same_result(tiny_run: Path) -> None:
    first = evaluate_run(tiny_run)
    rows = rows_of(tiny_run)
    assert evaluate_run(tiny_run, overrides=["eval.n_envs=3"])["metrics"] == first["metrics"]
    assert rows_of(tiny_run) == rows


def test_a_result_says_what_it_was_computed_in(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("float32", "bfloat16"):
        monkeypatch.setattr("sideagents.machine.precision._fast", lambda device, word=word: word)
        found = evaluate_run(tiny_run)
        assert (found["precision"], found["processor"]) == (word, processor_name())


def test_argmax_is_kept_apart(tiny_run: Path) -> None:
    assert evaluate_run(tiny_run, deterministic=True)["actions"] == "argmax"
    assert len(rows_of(tiny_run, "val_argmax_step128_first3")) == 3


def test_evaluations_do_not_overwrite_each_other(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def folder_of(*overrides: str, path: Path = tiny_run, **options: Any) -> str:
        result = evaluate_run(path, overrides=overrides, **options)
        said = capsys.readouterr().out.splitlines()[-1]
        folder = Path(said.removeprefix("wrote "))
        assert folder.parent == tiny_run / "eval"
        assert json.loads((folder / "metrics.json").read_text()) == result
        assert (result["overrides"], len(result["config_hash"])) == (list(overrides), 64)
        return folder.name

    assert folder_of() == "val_sampled_step128_first3"
    assert folder_of("eval.n_envs=1", "threads=2", "device=cpu") == "val_sampled_step128_first3"
    assert folder_of(episodes=0) == "val_sampled_step128"
    assert folder_of("eval.temperature=0.5") == "val_sampled_step128_first3_temperature0.5"
    assert folder_of("eval.temperature=0.5", deterministic=True) == "val_argmax_step128_first3"
    assert folder_of(path=tiny_run / "checkpoints" / "step_000000064") == "val_sampled_step64_first3"
    names = {folder_of("seed=7"), folder_of("seed=8"), folder_of("task.max_steps=9")}
    assert len(names) == 3
    assert all(re.fullmatch(r"val_sampled_step128_first3_[0-9a-f]{8}", name) for name in names)


def test_several_runs_share_a_table(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = tiny_run / "checkpoints" / "step_000000064"
    alone = evaluate_run(earlier, episodes=2)
    capsys.readouterr()
    results = evaluate_runs([tiny_run, earlier], episodes=2)
    assert [result["checkpoint"] for result in results] == ["step_000000128", "step_000000064"]
    assert results[1] == alone
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("wrote ")] == [
        f"wrote {tiny_run / 'eval' / f'val_sampled_step{step}_first2'}" for step in (128, 64)
    ]
    rows = [line.split("|")[1].strip() for line in said if line.startswith("| ")]
    assert rows == ["agent", str(tiny_run), str(earlier)]  # both are called tiny_train_1
    with pytest.raises(SideAgentsError, match="no such run, did you mean 'tiny_train_1'"):
        evaluate_runs([tiny_run, tiny_run.with_name("tiny_train_2")])


def test_a_device_that_is_not_here_is_said(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = evaluate_run(tiny_run)["metrics"]
    capsys.readouterr()
    assert evaluate_run(tiny_run, overrides=["device=cuda:99"])["metrics"] == before
    assert capsys.readouterr().out.startswith("torch finds no cuda:99 here: computing on the CPU\n")


def python_of(title: str) -> list[str]:
    """Return the Python blocks of a section of docs/evaluation.md."""
    page = Path(__file__).parents[2] / "docs" / "evaluation.md"
    section = page.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)


def test_examples_open_a_run_and_predict(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run, tmp_path / "runs" / "sidetune_curvature_train_1")
    monkeypatch.chdir(tmp_path)
    examples = python_of("A run in Python")
    assert len(examples) == 2
    places = []
    for example in examples:
        place: dict[str, Any] = {}
        exec(compile(example, "docs/evaluation.md", "exec"), place)
        places.append(place)
    assert places[0]["infos"][0]["steps"] <= 15  # it played to the episode's end
    success, spl, alpha = capsys.readouterr().out.split()
    assert success in ("True", "False")
    assert 0.0 <= float(spl) <= 1.0
    assert 0.0 < float(alpha) < 1.0
    policy = places[1]["agent"].policy
    observations = places[1]["observations"]
    assert places[1]["actions"].tolist() == policy.logits(observations).argmax(axis=1).tolist()
    assert policy.predict_values(policy.obs_to_tensor(observations)[0]).shape == (1, 1)


def test_example_evaluates_from_python(tiny_run: Path) -> None:
    example = next(text for text in python_of("`sideagents eval`") if "evaluate_run" in text)
    place: dict[str, Any] = {}
    exec(compile(example.replace("episodes=200", "episodes=2"), "docs/evaluation.md", "exec"), place)
    assert 0.0 <= place["success_of"](tiny_run) <= 1.0


def test_train_split_has_no_list(tiny_run: Path) -> None:
    with pytest.raises(SideAgentsError, match="--episodes-file"):
        evaluate_run(tiny_run, split="train")


def test_file_of_other_buildings(tiny_run: Path, tmp_path: Path, homes: list[str]) -> None:
    with pytest.raises(EnvsError, match=r"gone\.json\.gz"):
        evaluate_run(tiny_run, episodes_file=tmp_path / "gone.json.gz")
    with pytest.raises(SideAgentsError, match="no such folder"):
        evaluate_run(tiny_run, scenes_dir=tmp_path / "gone")


def test_blind_agents_are_evaluated(homes: list[str], tmp_path: Path) -> None:
    blind = train(default_config([*homes, "model.use_rgb=false", f"runs={tmp_path}", "name=blind"]))
    assert evaluate_run(blind)["episodes"] == 3
