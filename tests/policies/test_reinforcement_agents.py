"""PPO training of agents of every kind: methods, sides, blind ones, in two workers."""

from __future__ import annotations

import pytest

from run_files import latest, rows_of
from sideagents.core.base import FrozenBase
from sideagents.run.checkpoint import load_checkpoint
from sideagents_policies import parallel
from sideagents_policies.agent.checks import default_config
from sideagents_policies.agent.extractor import SideTunedExtractor
from sideagents_policies.agent.ppo import SideTunedPPO
from sideagents_policies.agent.runs import load_agent
from sideagents_policies.cli.main import main
from sideagents_policies.train.reinforcement import train
from sideagents_policies.views.plan import agent_base, observation_space
from small_agent import SMALL


@pytest.mark.parametrize("method", ["features", "stagewise", "finetune"])
def test_methods_train(homes, tmp_path, method):
    run = train(default_config([*homes, f"runs={tmp_path}", f"model.method={method}", "ppo.frames=64"]))
    assert load_agent(run).checkpoint.step == 64


def test_a_side_that_reads_activations_runs_the_base_once_for_each_look(homes, tmp_path, monkeypatch):
    """No codes are computed for it: what is stored are images, and base and side read one pass together."""
    size = ["camera.width=64", "camera.height=64"]  # the base's: activations are of its images
    config = default_config([*homes, *size, f"runs={tmp_path}", "model.side=feedback", "ppo.frames=64"])
    assert sorted(observation_space(config, agent_base(config))) == ["goal", "map", "rgb"]
    passes = {"codes": 0, "activations": 0}
    looks = []

    def counted(name, key):
        method = getattr(FrozenBase, name)
        monkeypatch.setattr(FrozenBase, name, lambda *given: passes.update({key: passes[key] + 1}) or method(*given))

    def learn(self, *given, **more):
        counted("_encode", "codes")
        counted("tapped", "activations")
        return original(self, *given, **more)

    original, merged = SideTunedPPO.learn, SideTunedExtractor.forward
    monkeypatch.setattr(SideTunedPPO, "learn", learn)
    monkeypatch.setattr(SideTunedExtractor, "forward", lambda self, obs: looks.append(0) or merged(self, obs))
    train(config)
    assert passes == {"codes": 0, "activations": len(looks)}
    learning = 2 * 2 * 2  # rollouts, epochs, mini-batches
    assert len(looks) >= 2 * 8 + 2 + learning


def test_blind_agent_trains(homes, tmp_path):
    run = train(default_config([*homes, f"runs={tmp_path}", "model.use_rgb=false", "ppo.frames=32"]))
    loaded = load_agent(run)
    assert loaded.base is None
    assert loaded.checkpoint.base == ""


def test_two_workers(homes, tmp_path, capfd):
    run = train(default_config([*homes, f"runs={tmp_path}", "workers=2", "vec.n_envs=2", "eval.every_frames=64"]))
    checkpoint = load_checkpoint(latest(run))
    assert checkpoint.step == 128
    assert len(checkpoint.state["processes"]) == 2
    first, second = (process["ppo"]["last_obs"]["rgb"] for process in checkpoint.state["processes"])
    assert (first != second).any()
    said = capfd.readouterr().out
    assert said.count("in optimiser") == said.count("in each of 2 processes") == 1
    # as under torchrun: every process is given the command, the first alone writes
    words = ["train", "--resume", str(run), "ppo.frames=160"]
    assert parallel.launch(2, ["-m", "sideagents_policies.cli.main", *words]) == 0
    assert latest(run).name == "step_000000160"
    assert len((run / "command.txt").read_text().splitlines()) == 2
    rows = rows_of(run)
    assert [int(row["frames"]) for row in rows if row["train/loss"]] == [32, 64, 96, 128, 160]
    assert [int(row["frames"]) for row in rows if row["eval/success"]] == [64, 128]
    assert SMALL  # the environments of both processes together are those of one process: see test_parallel


def test_what_an_agent_lacks_is_not_logged(homes, tmp_path):
    run = train(default_config([*homes, f"runs={tmp_path}", "model.use_rgb=false", "ppo.frames=64"]))
    assert "train/alpha" not in rows_of(run)[-1]
    assert main(["plot", str(run), "--out", str(tmp_path / "curves.png")]) == 0
