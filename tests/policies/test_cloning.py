"""Behaviour cloning: it learns, its frames are those it was given, it stops and goes on, PPO takes it over."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from run_files import latest, rows_of, told, weights
from sideagents.errors import CheckpointError, ConfigError, DivergedError, SideAgentsError
from sideagents.run.checkpoint import load_checkpoint
from sideagents.storage.lock import locked
from sideagents_policies.agent.checks import default_config
from sideagents_policies.agent.runs import load_agent, open_run
from sideagents_policies.cli.main import main
from sideagents_policies.config import DemosConfig
from sideagents_policies.demos import collect as demos_module
from sideagents_policies.demos.collect import DemosError, collect
from sideagents_policies.demos.frames import returns_to_go
from sideagents_policies.train import cloner as cloner_module
from sideagents_policies.train.cloner import Cloner
from sideagents_policies.train.cloning import clone, resume
from sideagents_policies.train.dagger import dagger_seed
from sideagents_policies.train.reinforcement import resume as resume_ppo
from sideagents_policies.train.reinforcement import train

DAGGER = ["clone.dagger_frames=128", "clone.dagger_round_frames=64", "clone.dagger_buffer_frames=150"]


@pytest.fixture(scope="module")
def demos(homes, tmp_path_factory) -> Path:
    return collect(default_config([*homes, "task.max_steps=200"]), tmp_path_factory.mktemp("clone") / "demos")


def configured(homes, folder, *overrides):
    return default_config([*homes, "task.max_steps=200", f"runs={folder}", *overrides])


@pytest.fixture(scope="module")
def whole(homes, demos, tmp_path_factory) -> Path:
    """A clone with two DAgger rounds that nothing disturbed."""
    return clone(configured(homes, tmp_path_factory.mktemp("whole"), *DAGGER), demos)


def test_learns_what_the_expert_does(homes, demos, tmp_path):
    overrides = ["clone.epochs=20.0", "clone.learning_rate=0.003", "model.use_map=false", "model.goal_history=1"]
    run = clone(configured(homes, tmp_path, *overrides), demos)
    rows = rows_of(run)
    assert float(rows[0]["clone/accuracy"]) < 0.8
    assert float(rows[-1]["clone/accuracy"]) > 0.9
    assert float(rows[-1]["clone/value_loss"]) < 0.5 * float(rows[0]["clone/value_loss"])
    assert float(rows[-1]["train/alpha"]) != 0.5
    assert float(rows[-1]["clone/learning_rate"]) == pytest.approx(0.0003, rel=0.05)  # cosine to a tenth


def test_frames_in_files_are_learnt_from_alike_and_removed(homes, demos, whole, tmp_path):
    run = clone(configured(homes, tmp_path, *DAGGER, "clone.frames_in=disk"), demos)
    assert weights(run) == weights(whole)
    assert not list(run.glob("frames*"))


def test_dagger_rounds(whole):
    rows = rows_of(whole)
    assert {row["clone/round"] for row in rows} >= {"0", "1", "2"}
    assert sum(bool(row["time/dagger_fps"]) for row in rows) == 2
    assert not (whole / "buffer").exists()
    checkpoint = load_checkpoint(latest(whole))
    assert checkpoint.state["common"]["place"]["round"] == 3
    assert checkpoint.state["processes"][0]["explorer"]["noise"]["seed"] == dagger_seed(open_run(whole)[1])


@pytest.mark.parametrize("moment", ["demonstrations", "training of a round", "collecting"])
def test_stopped_and_resumed_is_the_same(homes, demos, whole, tmp_path, monkeypatch, moment):
    original, steps = Cloner._step, []
    explore, rounds = cloner_module.Explorer.collect, []
    build, seeds = cloner_module.build_venv, []
    total = int(rows_of(whole)[-1]["step"])
    stop_at = {"demonstrations": 2, "training of a round": total - 2}.get(moment)

    def step(self, *args):
        steps.append(1)
        if len(steps) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)

    def collecting(self, *args):
        rounds.append(1)
        if moment == "collecting" and len(rounds) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return explore(self, *args)

    def building(config, **options):
        seeds.append(options["seed"])
        return build(config, **options)

    monkeypatch.setattr(Cloner, "_step", step)
    monkeypatch.setattr(cloner_module.Explorer, "collect", collecting)
    monkeypatch.setattr(cloner_module, "build_venv", building)
    with pytest.raises(KeyboardInterrupt):
        clone(configured(homes, tmp_path, *DAGGER), demos)
    run = next(tmp_path.iterdir())
    taken = len(steps)
    assert latest(run).name == f"step_{taken:09d}"
    assert taken < total
    resume(run)
    assert seeds == [dagger_seed(open_run(run)[1])] * 2  # PPO's environments have the configuration's own
    assert len(steps) == total
    assert weights(run) == weights(whole)
    assert told(run) == told(whole)


def test_networks_that_draw_random_numbers_go_on_where_they_were(homes, demos, tmp_path, monkeypatch):
    side = "model.side=small_agent:DropoutSide"
    words = [*DAGGER, side, "clone.checkpoint_every_s=1000.0"]
    undisturbed = clone(configured(homes, tmp_path / "whole", *words), demos)
    original, steps = Cloner._step, []

    def step(self, *args):
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)

    monkeypatch.setattr(Cloner, "_step", step)
    with pytest.raises(KeyboardInterrupt):
        clone(configured(homes, tmp_path / "stopped", *words), demos)
    run = next((tmp_path / "stopped").iterdir())
    resume(run, None, [side])
    assert weights(run) == weights(undisturbed)


def test_a_kill_goes_back_to_the_checkpoint(homes, demos, whole, tmp_path, monkeypatch):
    original, steps = Cloner._step, []

    def step(self, *args):
        steps.append(1)
        if len(steps) == total - 1:
            raise SystemExit(9)  # as sudden as can be within a process: nothing is saved
        return original(self, *args)

    total = int(rows_of(whole)[-1]["step"])
    monkeypatch.setattr(Cloner, "_step", step)
    with pytest.raises(SystemExit):
        clone(configured(homes, tmp_path, *DAGGER, "clone.checkpoint_every_s=0.001"), demos)
    run = next(tmp_path.iterdir())
    assert latest(run).name == f"step_{total - 2:09d}"
    monkeypatch.undo()
    resume(run)
    assert weights(run) == weights(whole)


def test_cloning_that_diverges_ends_with_one_line(homes, demos, tmp_path, monkeypatch):
    original, steps = Cloner._step, []

    def step(self, *args):
        steps.append(1)
        if len(steps) == 3:
            with torch.no_grad():
                self._critic[0].fill_(float("inf"))
        return original(self, *args)

    monkeypatch.setattr(Cloner, "_step", step)
    with pytest.raises(DivergedError, match=r"diverged, .*the last good checkpoint is .*step_00000000[12]$"):
        clone(configured(homes, tmp_path, "clone.checkpoint_every_s=0.001"), demos)


def test_a_folder_of_demonstrations_that_is_worked_on_is_refused(homes, tmp_path):
    folder = tmp_path / "demos"
    folder.mkdir()
    with locked(folder), pytest.raises(SideAgentsError, match=f"{folder}: process {os.getpid()} is working on it"):
        collect(configured(homes, tmp_path), folder)
    assert list(folder.iterdir()) == []


def test_ppo_takes_the_clone_over(homes, whole, tmp_path):
    config = configured(homes, tmp_path, "ppo.frames=64", "ppo.critic_warmup_frames=64")
    run = train(config, init=whole)
    before, after = load_checkpoint(latest(whole)).tensors, load_checkpoint(latest(run)).tensors
    assert {n for n, tensor in before.items() if not torch.equal(tensor, after[n])} == {
        "value_net.weight",
        "value_net.bias",
    }
    with pytest.raises(CheckpointError, match=r"was saved by `sideagents clone`, `sideagents train` cannot resume it"):
        resume_ppo(whole)


def test_without_demos_they_are_collected_first(homes, tmp_path):
    run = clone(configured(homes, tmp_path, "demos.trajectories=4", "model.use_rgb=false"))
    assert (run / "demos" / "demos.json").exists()
    assert load_agent(run).base is None
    before = weights(run)
    moved = run.rename(tmp_path / "moved")  # where the demonstrations were, none are any more
    assert resume(moved) == moved
    assert weights(moved) == before


def test_a_damaged_state_is_one_line(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    path = latest(run) / "state.json"
    good = json.loads(path.read_text())
    for key, message in (("place", "it lacks place"), ("moments", "it lacks moments"), ("rank", "state is damaged")):
        bad = json.loads(json.dumps(good))
        common = bad["state"]["common"]
        common["place"].update(rank=1) if key == "rank" else common.pop(key)
        path.write_text(json.dumps(bad))
        with pytest.raises(CheckpointError, match=message) as caught:
            resume(run)
        assert "\n" not in str(caught.value)


def test_other_demonstrations_are_refused(homes, demos, tmp_path):
    with pytest.raises(DemosError, match="was collected with camera"):
        clone(configured(homes, tmp_path, "camera.hfov_deg=80.0"), demos)
    with pytest.raises(ConfigError, match="there is nothing to train"):
        clone(configured(homes, tmp_path, "clone.epochs=0.0"), demos)
    assert not any(tmp_path.iterdir())


def test_a_run_says_how_many_demonstrations_it_learnt_from(homes, demos, whole, tmp_path, capsys):
    words = [*DAGGER, "demos.trajectories=500", "demos.images=false"]
    run = clone(configured(homes, tmp_path / "runs", *words), demos)
    assert f"{demos} holds 8 demonstrations, not 500: all of them are used" in capsys.readouterr().out
    assert open_run(run)[1].demos == open_run(whole)[1].demos == DemosConfig(trajectories=8, images=True)
    assert weights(run) == weights(whole)
    fewer = collect(configured(homes, tmp_path, "demos.trajectories=4"), tmp_path / "fewer")
    with pytest.raises(DemosError, match="fewer: holds 4 demonstrations, the run learns from 8"):
        resume(run, demos=fewer)


def test_settings_that_are_seldom_meant_are_told(homes, demos, tmp_path, capsys):
    clone(configured(homes, tmp_path, "clone.epochs=0.2", "ppo.critic_warmup_frames=128", "ppo.frames=128"), demos)
    assert "note: ppo.critic_warmup_frames=128 covers all of ppo.frames=128" in capsys.readouterr().out


def test_two_workers(homes, demos, tmp_path):
    run = clone(configured(homes, tmp_path, *DAGGER, "workers=2", "vec.n_envs=2"), demos)
    state = load_checkpoint(latest(run)).state
    assert len(state["processes"]) == 2
    assert state["common"]["place"]["round"] == 3
    assert not (run / "buffer").exists()


# the parts


def test_interrupted_while_collecting(homes, whole, tmp_path, monkeypatch, capsys):
    write, shards = demos_module._write_npz, []

    def writing(*args):
        if len(shards) == 2:
            raise KeyboardInterrupt
        shards.append(write(*args))

    monkeypatch.setattr(demos_module, "_write_npz", writing)
    monkeypatch.setattr(demos_module, "PER_SHARD", 2)
    with pytest.raises(KeyboardInterrupt):
        clone(configured(homes, tmp_path), init=whole)
    run = tmp_path / "agent_clone_1"
    said = re.findall("`(sideagents .*?)`", capsys.readouterr().out)
    with pytest.raises(CheckpointError) as caught:
        resume(run)
    told = re.findall("`(sideagents .*?)`", str(caught.value))
    assert said == [told[0], f"{told[1]} --init {latest(whole)}"]
    shards.clear()
    for command in said:
        assert main(command.split()[1:]) == 0
    assert latest(tmp_path / "agent_clone_2")

    shards[:] = [1, 2]
    with pytest.raises(KeyboardInterrupt):
        clone(configured(homes, tmp_path))
    assert "nothing was kept" in capsys.readouterr().out
    assert not (tmp_path / "agent_clone_3").exists()


def test_returns_to_go():
    assert returns_to_go(np.array([1.0, 2.0, 4.0], np.float32), 0.5).tolist() == [3.0, 4.0, 4.0]
    assert returns_to_go(np.array([1.0], np.float32), 0.5, last=6.0).tolist() == [4.0]
