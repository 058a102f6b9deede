"""Every kind of bad input to agents and pretraining: one clear line on stderr, exit code 2, no traceback, nothing
half-written. What `adapt`, `relevance` and `lifelong` are given wrongly is in tests/test_bad_vision_input.py.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from damaged_files import cut
from hostile import refused, refused_by_command
from sideagents_envs.batch.navigation_batch import NavigationBatch
from sideagents_policies.cli.main import main
from troubles import (
    Place,
    building,
    check,
    checked_file,
    demos_of,
    edited,
    evaluated,
    hostile_shard,
    hostile_weights,
    naming_code,
    on_file,
    pickled,
    poor_weights,
    resumed_with,
    retensored,
    run_with,
    table_top,
    train,
    without_folder,
)


@pytest.fixture(scope="module")
def made(homes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    config = ["pointnav/demo", *homes, "task.max_steps=60", f"runs={folder / 'runs'}"]
    assert main(["demos", *config, "--out", str(folder / "demos")]) == 0
    assert main(["train", *config, "ppo.frames=32"]) == 0
    return folder


@pytest.fixture
def place(homes, made, tmp_path, monkeypatch) -> Place:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDEAGENTS_DATA", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Place(tmp_path, [*homes, "task.max_steps=60"], made)


CASES: dict[str, tuple[Callable[[Place], list[str]], str]] = {
    # the command line
    "no verb": (lambda p: [], "a verb is missing"),
    "unknown verb": (lambda p: ["trian"], "did you mean 'train'"),
    "unknown option": (lambda p: ["eval", "r", "--jsn", "f"], "did you mean '--json'"),
    "option without its value": (lambda p: ["eval", "r", "--json"], "expected one argument"),
    "value out of its choices": (lambda p: ["eval", "r", "--split", "tset"], "did you mean 'test'"),
    "negative count": (lambda p: ["eval", "r", "--episodes", "-3"], "whole number of at least 0"),
    "no configuration": (lambda p: ["train"], "train needs a CONFIG"),
    "two configurations": (lambda p: ["train", "pointnav/demo", "pointnav/blind"], "unexpected argument"),
    "init and resume": (lambda p: ["train", "--init", "a", "--resume", "b"], "not allowed with"),
    # configurations
    "unknown configuration": (lambda p: ["check", "pointnav/dmeo"], "did you mean 'pointnav/demo'"),
    "configuration is a folder": (lambda p: ["check", "."], "is a folder"),
    "broken YAML": (checked_file("ppo: {frames: 3"), "is no valid YAML"),
    "YAML list": (checked_file("- 1\n- 2\n"), "must hold `key: value` lines"),
    "binary file": (lambda p: ["check", str(p.file("x.yaml", b"\xff\xfe\x00\x01"))], "UTF-8"),
    "unknown key": (checked_file("ppo: {framse: 3}"), "did you mean"),
    "unknown section": (checked_file("poo: {frames: 3}"), "unknown key 'poo'"),
    "key in another section": (checked_file("frames: 3"), "did you mean 'model.frames'"),
    "text for a number": (check("ppo.frames=many"), "must be a valid integer, got 'many'"),
    "fraction for a whole number": (check("vec.n_envs=2.5"), "vec.n_envs must be"),
    "nan": (check("ppo.learning_rate=.nan"), "must be a finite number"),
    "infinity": (check("camera.hfov_deg=.inf"), "must be a finite number"),
    "below the limit": (check("ppo.gamma=-0.1"), "must be greater than 0"),
    "text for a switch": (check("model.use_rgb=perhaps"), "must be a valid boolean"),
    "section for a value": (check("ppo.frames.a=1"), "has no keys below it"),
    "override without a key": (check("=3"), "unexpected argument"),
    "batch that does not divide": (check("ppo.batch_size=17"), "must divide"),
    "unknown base": (check("model.base=curvatur"), "did you mean 'curvature'"),
    "unknown method": (check("model.method=finetun"), "did you mean 'finetune'"),
    "unknown merge": (check("model.merge=films"), "did you mean 'film'"),
    "merge with BatchNorm": (check("model.merge=mlp2_batchnorm"), "use 'mlp2'"),
    "unknown side": (check("model.side=convv"), "did you mean 'conv'"),
    "alpha out of range": (check("model.alpha=fixed:1.5"), "alpha lies in [0, 1]"),
    "side of another shape": (check("model.side=fcn4"), "must map"),
    "map too small": (check("task.map_cells=20"), "(task.map_cells in a configuration)"),
    "map too small for the blind": (check("model.use_rgb=false", "task.map_cells=20"), "has 20 x 20 pixels"),
    "depth image too small": (
        check("task.depth=true", "camera.width=32", "camera.height=32"), "obs['depth'] has 32 x 32 pixels"
    ),
    "cells wider than the agent": (check("scenes.navmesh.cell_m=0.3"), "scenes.navmesh: agent_radius_m (0.1) must be"),
    # bases
    "no such student": (train("model.side_init=no.safetensors"), "model.side_init: no such file no.safetensors"),
    "no such weights": (train("model.base=taskonomy:curvature", "model.base_weights=no.pth"), "no such file no.pth"),
    "weights of another network": (poor_weights, "does not fit"),
    "weights that run code": (hostile_weights, "refused"),
    "base that is no network": (train("model.base=json:JSONDecoder"), "not a torch.nn.Module class"),
    # buildings
    "no such dataset": (train("scenes.dataset=nowhere"), "no such folder nowhere"),
    "dataset without buildings": (lambda p: train("scenes.dataset=.")(p), "no .glb"),
    "cut building": (building(lambda data: data[: len(data) // 2]), "one.glb"),
    "building of noughts": (building(lambda data: bytes(len(data))), "one.glb"),
    "empty building": (building(lambda data: b""), "one.glb"),
    "nowhere to stand": (lambda p: ["scenes", "check", str(table_top(p.here / "t.glb"))], "cannot be used"),
    "no such building": (lambda p: ["scenes", "check", "x.glb"], "no such file"),
    "text as a building": (lambda p: ["scenes", "check", str(p.file("x.glb", "house"))], "x.glb"),
    "episode file of another type": (lambda p: ["scenes", "episodes", "x.glb", "--out", "e.csv"], ".json.gz"),
    "episode file that is not packed": (lambda p: ["scenes", "episodes", "x.glb", "--out", "e.json"], ".json.gz"),
    "render nothing": (lambda p: ["scenes", "render", "x.glb", "--out", "out"], "no such file"),
    # episodes
    "no such episode file": (lambda p: ["eval", "--agent", "expert", *p.good, "--episodes-file", "x.gz"], "no such"),
    "cut episode file": (on_file(gzip.compress(b"{}" * 1000)[:25]), "cut off"),
    "episodes are no JSON": (on_file(gzip.compress(b"hello")), "not JSON"),
    "no episodes": (on_file('{"episodes": []}', "bad.json"), "holds no episodes"),
    "episodes of another building": (evaluated(scene_id="val/nowhere.glb"), "is not among"),
    "goal inside a wall": (evaluated(goal=[0.0, 0.0, 0.0]), "whose nearest point"),
    "start in the air": (evaluated(start_position=[40.0, 0.0, 40.0]), "not on the walkable space"),
    "nan in an episode": (evaluated(start_position=[float("nan"), 0.0, 0.0]), "3 finite numbers"),
    "turned by nothing": (evaluated(start_rotation=[0, 0, 0, 0]), "quaternion"),
    "no such scene folder": (evaluated("--scene-dir", "nowhere"), "no such folder"),
    # runs and checkpoints
    "no such run": (lambda p: ["eval", str(p.run().parent / "demo_trian_1")], "did you mean 'demo_train_1'"),
    "not a run": (lambda p: ["eval", "."], "is no run"),
    "no checkpoint yet": (run_with(without_folder), "has no checkpoint yet"),
    "checkpoint that runs code": (run_with(lambda c: pickled(c / "model.safetensors")), "a pickle"),
    "cut checkpoint": (run_with(lambda c: cut(c / "model.safetensors")), "cut or damaged"),
    "no fingerprint": (run_with(lambda c: retensored(c, None)), "features_extractor._extra_state"),
    "broken fingerprint": (run_with(lambda c: retensored(c, torch.tensor([300, -1]))), "with fingerprint none"),
    "fingerprint of nothing": (
        run_with(lambda c: retensored(c, torch.zeros(2, 2, dtype=torch.uint8))), "with fingerprint none"
    ),
    "another fingerprint": (
        run_with(lambda c: retensored(c, torch.full((64,), 200, dtype=torch.uint8))), "trained on the base with"
    ),
    "state without processes": (resumed_with(lambda state: state.pop("processes")), "lacks processes"),
    "state without environments": (
        resumed_with(lambda state: state["processes"][0].pop("environments")), "lacks environments"
    ),
    "state without common": (resumed_with(lambda state: state.pop("common")), "lacks common"),
    "state without the learner's": (resumed_with(lambda state: state["processes"][0].pop("ppo")), "lacks ppo"),
    "state of another kind": (resumed_with(lambda state: state.update(processes=[3])), "lacks processes"),
    "cut state": (run_with(lambda c: cut(c / "state.json")), "no valid JSON"),
    "checkpoint of another format": (run_with(lambda c: (c / "meta.json").write_text('{"format": 99}')), "format 99"),
    "another network": (run_with(lambda c: edited(c.parents[1] / "config.yaml", model={"hidden": 64})), "needs"),
    "another base": (run_with(lambda c: edited(c.parents[1] / "config.yaml", model={"base": "pixels"})), "model"),
    "broken run configuration": (run_with(lambda c: edited(c.parents[1] / "config.yaml", seed="one")), "seed must be"),
    "resume as another run": (lambda p: ["train", "--resume", str(p.run()), "seed=3"], "seed: the run has 1"),
    "resume by another verb": (
        lambda p: ["clone", "--resume", str(p.run()), "--demos", str(p.demos())], "cannot resume"
    ),
    "run that names code": (naming_code("eval", side="hostile:Net"), "behind the command: model.side=hostile:Net"),
    "run with a base of code": (naming_code("enjoy", base="hostile:Net"), "behind the command: model.base=hostile:Net"),
    "resume what names code": (naming_code("train", "--resume", side="hostile.Net"), "model.side=hostile.Net"),
    "clone on what names code": (naming_code("clone", "--resume", side="hostile:Net"), "model.side=hostile:Net"),
    "start from another network": (
        lambda p: ["train", "pointnav/demo", *p.good, "model.hidden=64", "--init", str(p.run())], "needs"
    ),
    "metrics of several runs": (lambda p: ["eval", "a", "b", "--json", "m.json"], "RUN/eval/*/metrics.json"),
    "best of a run that was not evaluated": (lambda p: ["eval", str(p.run()), "--best"], "eval.every_frames above 0"),
    "best of a baseline": (lambda p: ["enjoy", "--best", "--agent", "expert"], "not allowed with argument"),
    "evaluation without a list": (train("eval.every_frames=64", "eval.split=train"), "needs eval.split val or test"),
    "unknown agent": (lambda p: ["eval", "--agent", "exprt", *p.good], "did you mean 'expert'"),
    "film of another type": (lambda p: ["enjoy", str(p.run()), "--out", "f.avi"], ".mp4 or a .gif"),
    "film of a split without a list": (lambda p: ["enjoy", str(p.run()), "--split", "train"], "no fixed list"),
    "film in no buildings": (lambda p: ["enjoy", str(p.run()), "--scene-dir", "nowhere"], "no such folder"),
    "episode beyond the list": (lambda p: ["enjoy", str(p.run()), "--episode", "9", "--out", "f.gif"], "episodes 0 to"),
    "plot of no run": (lambda p: ["plot", ".", "--out", "f.png"], "no progress.csv in it"),
    "plot of another type": (lambda p: ["plot", str(p.run()), "--out", "f.docx"], "f.docx"),
    "metrics into a folder": (
        lambda p: ["eval", str(p.run()), "--episodes", "1", "--json", str(p.here)], "is a folder"
    ),
    "runs folder is a file": (lambda p: train(f"runs={p.file('runs', '')}")(p), "runs"),
    "no such device": (train("device=cuda:9"), "device"),
    "habitat-sim is not installed": (
        train("env=habitat", "habitat_simulator=habitat_sim"),
        "is not installed: ",
    ),
    # demonstrations
    "no such demonstrations": (lambda p: ["clone", "pointnav/demo", *p.good, "--demos", "d"], "no such folder"),
    "cut demonstrations": (demos_of(lambda d: cut(d / "shard_00000.npz", 9000)), "is cut off"),
    "demonstrations that run code": (demos_of(lambda d: hostile_shard(d / "shard_00000.npz")), "shard_00000"),
    "demonstrations of another camera": (demos_of(lambda d: None, "camera.hfov_deg=70.0"), "was collected with camera"),
    "demonstrations of another task": (demos_of(lambda d: None, "task.turn_deg=30.0"), "task.turn_deg"),
    "demonstrations where others are": (
        lambda p: ["demos", "pointnav/demo", *p.good, "seed=9", "--out", str(p.demos())], "holds demonstrations with"
    ),
    "nothing to learn": (demos_of(lambda d: None, "clone.epochs=0.0"), "there is nothing to train"),
    # kinds of configurations
    "train by adapters": (lambda p: ["train", "vision/adapters_cifar"], "is a configuration of `sideagents adapt`"),
    "train by a sequence": (lambda p: ["train", "lifelong/icifar"], "is a configuration of `sideagents lifelong`"),
    # pretraining
    "pretrain without data": (lambda p: ["pretrain", "task=depth"], "the key 'data' is missing"),
    "pretrain on nothing": (lambda p: ["pretrain", "task=depth", "data=nowhere"], "nowhere"),
    "pretrain an unknown task": (lambda p: ["pretrain", "task=dpth", "data=."], "did you mean 'depth'"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_written(place, capfd, case):
    make, message = CASES[case]
    refused(make(place), place.here, capfd, message)


def test_an_observation_that_is_no_number(place, capfd, monkeypatch):
    original = NavigationBatch.observe

    def broken(self, envs=None):
        content = original(self, envs)
        content["goal"][:] = np.nan
        return content

    monkeypatch.setattr(NavigationBatch, "observe", broken)
    assert main(train(f"runs={place.here / 'runs'}")(place)) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "nan" in errors[0].lower() or "finite" in errors[0]
    assert not list(place.here.rglob("step_*"))


@pytest.mark.parametrize("case", ["unknown key", "checkpoint that runs code", "cut building", "goal inside a wall"])
def test_as_real_processes(place, case):
    make, message = CASES[case]
    refused_by_command(make(place), place.here, message)
