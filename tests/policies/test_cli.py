"""The command line: help, names, overrides, whole trips in a small building, real processes for what needs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sideagents_policies.agent.checks import read_config, remarks
from sideagents_policies.cli.main import main
from sideagents_policies.config import ModelConfig
from small_agent import dataset_of

VERBS = ["train", "demos", "clone", "eval", "enjoy", "plot", "check", "list", "scenes", "pretrain"]
VERBS += ["adapt", "relevance", "lifelong"]


def out(capsys, *words: str) -> str:
    code = main([str(word) for word in words])
    found = capsys.readouterr()
    assert code == 0, found.err
    return str(found.out)


def failed(capsys, *words: str) -> str:
    assert main([str(word) for word in words]) == 2
    found = capsys.readouterr()
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    return str(found.err)


@pytest.mark.parametrize(
    "verb", [[], *([verb] for verb in VERBS), *(["scenes", v] for v in ("make", "check", "episodes", "render"))]
)
def test_help(capsys, verb):
    text = out(capsys, *verb, "--help")
    assert "usage: sideagents" in text
    assert "sideagents" in text.split("usage:")[1].split("\n\n", 1)[1]  # examples
    if not verb:
        assert all(name in text for name in VERBS)


def test_version(capsys):
    assert out(capsys, "--version").strip() == "0.1.0"


def test_check_remarks_on_what_is_seldom_meant(capsys):
    text = out(capsys, "check", "pointnav/sidetune_curvature", "ppo.frames=2048", "model.base=timm:resnet18")
    notes = [line for line in text.splitlines() if line.startswith("# note: ")]
    assert "ppo.critic_warmup_frames=16384 covers all of ppo.frames=2048" in notes[0]
    assert "model.base=timm:resnet18 without model.base_weights has random weights" in notes[1]
    assert "# note" not in out(capsys, "check", "pointnav/sidetune_curvature")
    own = read_config("pointnav/demo").model_copy(update={"model": ModelConfig(base="my_nets:Patches")})
    assert "unless the class makes the same weights each time" in next(remarks(own))


def test_near_names(capsys):
    assert "did you mean 'train'" in failed(capsys, "trian")
    assert "did you mean '--split'" in failed(capsys, "eval", "run", "--splt", "val")
    assert "did you mean 'bases'" in failed(capsys, "list", "base")
    assert "did you mean 'val'" in failed(capsys, "eval", "run", "--split", "vall")
    assert "a verb is missing" in failed(capsys)


def test_list(capsys):
    bases = json.loads(out(capsys, "list", "bases", "--json"))
    assert {"curvature", "denoising", "random"} <= {row["name"] for row in bases}
    assert "taps" in {row["name"] for row in json.loads(out(capsys, "list", "adaptations", "--json"))}
    configs = json.loads(out(capsys, "list", "configs", "--json"))
    assert "pointnav/sidetune_curvature" in {row["name"] for row in configs}
    assert all(row["summary"] for row in configs)
    shown = {"methods": "stagewise", "merges": "film", "sides": "copy", "tasks": "imagenav", "readers": "goal_image"}
    for what, name in shown.items():
        rows = json.loads(out(capsys, "list", what, "--json"))
        assert name in {row["name"] for row in rows}
        assert name in out(capsys, "list", what)


def test_check_prints_the_resolved_configuration(capsys):
    text = out(capsys, "check", "pointnav/demo", "model.base=random", "ppo.frames=4096")
    found = yaml.safe_load(text)
    assert found["ppo"]["frames"] == 4096
    assert found["ppo"]["gamma"] == 0.99
    assert found["model"]["base"] == "random"
    (read,) = [line for line in text.splitlines() if line.startswith("# reads: ")]
    assert {word for word in read.replace("(", " (").split() if word.isidentifier()} >= {"base", "goal", "map", "rgb"}
    assert "goal (12,)" in read  # four readings of three numbers


def test_check_reports_absent_data_and_succeeds(capsys):
    text = out(capsys, "check", "pointnav/demo", "model.base=random", "scenes.dataset=nowhere")
    assert "# missing: scenes.dataset: no such folder nowhere" in text
    yaml.safe_load(text)
    assert "no such folder nowhere" in failed(
        capsys, "train", "pointnav/demo", "model.base=random", "scenes.dataset=nowhere"
    )


def test_overrides_may_follow_options(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\nmodel: {base: random}\n")
    found = yaml.safe_load(out(capsys, "check", tmp_path / "mine.yaml", "seed=7", "vec.n_envs=8", "ppo.n_steps=64"))
    assert (found["seed"], found["vec"]["n_envs"]) == (7, 8)
    assert "unexpected argument 'second'" in failed(capsys, "check", "pointnav/demo", "second")


@pytest.fixture(scope="module")
def trip(homes, tmp_path_factory) -> Path:
    """Demos, clone, train: each by its command; returns the folder with everything in it."""
    folder = tmp_path_factory.mktemp("trip")
    config = ["pointnav/demo", *homes, "task.max_steps=60", f"runs={folder / 'runs'}"]
    assert main(["demos", *config, "--out", str(folder / "demos")]) == 0
    assert main(["clone", *config, "--demos", str(folder / "demos")]) == 0
    assert main(["train", "--init", str(folder / "runs" / "demo_clone_1"), *config]) == 0
    return folder


def test_demos_need_no_network(capsys, homes, tmp_path):
    words = ["model.base=taskonomy:curvature", "device=cuda:7", "demos.trajectories=2"]
    assert "demonstrations" in out(capsys, "demos", "pointnav/demo", *homes, *words, "--out", tmp_path / "demos")
    assert (tmp_path / "demos" / "demos.json").exists()
    assert "model.base_weights" in failed(capsys, "clone", "pointnav/demo", *homes, *words, f"runs={tmp_path}")


def test_trip_leaves_runs_that_explain_themselves(trip):
    run = trip / "runs" / "demo_train_1"
    assert {path.name for path in (trip / "runs").iterdir()} == {"demo_clone_1", "demo_train_1"}
    assert {"config.yaml", "command.txt", "versions.json", "progress.csv", "checkpoints"} <= {
        p.name for p in run.iterdir()
    }
    assert not [path for path in trip.rglob("*") if ".tmp" in path.name]


def test_eval(capsys, trip):
    run = trip / "runs" / "demo_train_1"
    text = out(capsys, "eval", run, "--split", "val", "--episodes", "2", "--json", trip / "metrics.json")
    assert "demo_train_1" in text
    found = json.loads((trip / "metrics.json").read_text())
    assert found["episodes"] == 2
    for metric in ("success", "spl", "soft_spl", "nav_reward", "steps", "collisions"):
        assert found["metrics"][metric]["low"] <= found["metrics"][metric]["mean"] <= found["metrics"][metric]["high"]


def test_eval_baseline_on_an_episode_file(capsys, trip, homes):
    data = dataset_of(homes)
    house = data / "val" / "three.glb"
    file = trip / "house.json.gz"
    assert "usable" in out(capsys, "scenes", "check", house)
    out(capsys, "scenes", "episodes", house, "--out", file, "--count", "3", "--seed", "5")
    words = ["--episodes-file", file, "--scene-dir", data / "val", "--json", trip / "expert.json"]
    out(capsys, "eval", "--agent", "expert", "eval.n_envs=2", *words)
    found = json.loads((trip / "expert.json").read_text())
    assert found["episodes"] == 3
    assert found["metrics"]["success"]["mean"] == 1.0


def test_eval_and_enjoy_need_no_training_data_and_no_gpu(capsys, trip, homes):
    data = dataset_of(homes)
    elsewhere = ["scenes.dataset=nowhere", "device=cuda:7"]
    words = ["--episodes-file", data / "episodes" / "val.json.gz", "--scene-dir", data]
    run = trip / "runs" / "demo_train_1"
    assert "demo_train_1" in out(capsys, "eval", run, *elsewhere, *words, "--episodes", "1")
    assert "far.png" in out(capsys, "enjoy", run, *elsewhere, *words, "--out", trip / "far.png")
    assert "expert" in out(capsys, "eval", "--agent", "expert", *homes, *elsewhere[:1], *words, "--episodes", "1")
    words.append("task.kind=imagenav")  # whose pictures are not rendered for agents that see nothing
    assert "random" in out(capsys, "eval", "--agent", "random", *homes, *words, "--episodes", "1")
    assert "nowhere" in failed(capsys, "eval", run, "scenes.dataset=nowhere")
    assert "no cuda:7" in failed(capsys, "train", "--resume", run, "device=cuda:7")


def test_enjoy_and_plot(capsys, trip, homes):
    run = trip / "runs" / "demo_train_1"
    assert "film.gif" in out(capsys, "enjoy", run, "--episode", "1", "--out", trip / "film.gif")
    assert (trip / "film.gif").read_bytes().startswith(b"GIF8")
    assert "two.gif" in out(capsys, "enjoy", "--agent", "expert", *homes, "--fps", "6", "--out", trip / "two.gif")
    assert "needs a RUN" in failed(capsys, "enjoy", "--out", trip / "none.gif")
    assert "curves.png" in out(capsys, "plot", run, "--out", trip / "curves.png")
    assert (trip / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_resume_by_command(capsys, trip):
    run = trip / "runs" / "demo_train_1"
    text = out(capsys, "train", "--resume", run)
    assert "128 of 128 frames are done" in text


def test_render_and_pretrain_need_their_data(capsys, tmp_path):
    assert "the key 'data' is missing" in failed(capsys, "pretrain", "task=curvature")
    assert "no such file" in failed(capsys, "scenes", "render", tmp_path / "no.glb", "--out", tmp_path / "out")


# real processes


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sideagents_policies.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def test_help_is_quick():
    import time

    started = time.perf_counter()
    assert run("--help").returncode == 0
    assert time.perf_counter() - started < 3.0


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m sideagents_policies.cli.main list configs | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 141)
    assert done.stderr == ""


def test_exit_codes_of_the_process():
    wrong = run("check", "pointnav/demo", "ppo.framse=1")
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    assert wrong.stderr == "error: override 'ppo.framse=1': unknown key 'ppo.framse', did you mean 'ppo.frames'?\n"
