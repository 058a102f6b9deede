"""PPO training as a whole: starting from a clone, stopping, killing, resuming, several processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from run_files import latest, rows_of, told, weights
from sideagents.bases import load_base, save_base
from sideagents.core.base import FrozenBase
from sideagents.core.sidetuned import SideTuned
from sideagents.errors import CheckpointError, ConfigError
from sideagents.machine.devices import processor_name
from sideagents.run.checkpoint import load_checkpoint
from sideagents.run.folder import RunFolder
from sideagents.storage.lock import locked
from sideagents_envs.errors import EnvsError
from sideagents_policies.agent.checks import default_config
from sideagents_policies.agent.policy import SideTunedPolicy
from sideagents_policies.agent.ppo import SideTunedPPO
from sideagents_policies.agent.runs import load_agent
from sideagents_policies.cli.main import main
from sideagents_policies.evaluate.evaluation import evaluate_run
from sideagents_policies.train.reinforcement import resume, train
from sideagents_policies.train.session import reopen
from sideagents_policies.views.plan import agent_base
from small_agent import dataset_of


@pytest.fixture(scope="module")
def whole(homes, tmp_path_factory) -> Path:
    """A run of four updates that nothing disturbed."""
    return train(default_config([*homes, f"runs={tmp_path_factory.mktemp('whole')}"]))


def interrupt_after(monkeypatch, updates: int) -> list[int]:
    """Press Ctrl-C in the middle of training; return a list that gets an entry for each update."""
    original, done = SideTunedPPO.train, []

    def interrupted(self):
        original(self)
        done.append(1)
        if len(done) == updates:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(SideTunedPPO, "train", interrupted)
    return done


def test_run_folder(whole):
    assert {path.name for path in whole.iterdir()} >= {"config.yaml", "command.txt", "versions.json", "progress.csv"}
    rows = rows_of(whole)
    assert [int(row["frames"]) for row in rows] == [32, 64, 96, 128]
    assert float(rows[-1]["train/alpha"]) == pytest.approx(0.5, abs=0.05)
    assert float(rows[-1]["rollout/success"]) <= 1.0
    # each row holds a rollout and the update that followed it: the rate falls from 1 to 0.1 of what is set
    rates = [float(row["train/learning_rate"]) / 2.5e-4 for row in rows]
    assert rates == pytest.approx([1.0 - 0.9 * done / 4 for done in (1, 2, 3, 4)])
    assert all(row["train/loss"] and row["time/rollout_fps"] for row in rows)
    assert any((whole / "tensorboard").iterdir())
    assert latest(whole).name == "step_000000128"


def test_checkpoint_holds_no_base(whole):
    loaded = load_agent(whole)
    tensors = load_checkpoint(latest(whole)).tensors
    assert not any("perception.base" in name for name in tensors)
    assert loaded.base is not None
    assert load_checkpoint(latest(whole)).fingerprint == loaded.base.fingerprint
    assert any("alpha" in name for name in tensors)


def test_only_the_critic_learns_at_first(homes, tmp_path):
    run = train(default_config([*homes, f"runs={tmp_path}", "ppo.critic_warmup_frames=128"]))
    after = load_agent(run).policy
    config = default_config([*homes, f"runs={tmp_path}"])
    torch.manual_seed(config.seed)
    from sideagents_policies.agent.build import build_agent
    from sideagents_policies.views.environments import build_venv

    venv = build_venv(config)
    fresh = build_agent(config, venv, agent_base(config)).policy
    venv.close()
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, after.state_dict()[name]) != name.startswith("value_net"), name


def test_stopped_and_resumed_is_the_same(homes, whole, tmp_path, monkeypatch):
    updates = interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(default_config([*homes, f"runs={tmp_path}"]))
    run = next(tmp_path.iterdir())
    assert latest(run).name == "step_000000064"
    assert resume(run) == run
    assert len(updates) == 4
    assert weights(run) == weights(whole)
    assert told(run) == told(whole)
    assert len((run / "command.txt").read_text().splitlines()) == 2


def test_evaluation_in_training_leaves_no_trace_in_it(homes, whole, tmp_path, monkeypatch):
    words = [*homes, "eval.every_frames=50", "eval.during_episodes=3"]
    examined = train(default_config([*words, f"runs={tmp_path / 'whole'}"]))
    assert weights(examined) == weights(whole)

    def plain(run: Path) -> list[dict[str, str]]:
        kept = [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in told(run)]
        return [row for row in kept if row["train/loss"]]

    assert plain(examined) == plain(whole)
    found = [row for row in told(examined) if row["eval/success"]]
    assert [row["frames"] for row in found] == ["64", "128"]  # the first updates after 50 and 100
    for row, name in zip(found, ("step_000000064", "step_000000128"), strict=True):
        checkpoint = examined / "checkpoints" / name
        metrics = evaluate_run(checkpoint, episodes=3)["metrics"]
        for metric in ("success", "spl", "nav_reward"):
            assert float(row[f"eval/{metric}"]) == metrics[metric]["mean"]
        assert load_checkpoint(checkpoint).score == (metrics["success"]["mean"], metrics["spl"]["mean"])

    assert main(["eval", str(examined), "--best", "--episodes", "1", "--json", str(tmp_path / "best.json")]) == 0
    assert json.loads((tmp_path / "best.json").read_text())["checkpoint"] == RunFolder.open(examined).best().name

    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(default_config([*words, f"runs={tmp_path / 'stopped'}"]))
    run = next((tmp_path / "stopped").iterdir())
    assert load_checkpoint(latest(run)).score is None  # the evaluation waits for the resumed run
    assert weights(resume(run)) == weights(whole)
    assert told(run) == told(examined)
    assert [load_checkpoint(path).score for path in sorted((run / "checkpoints").iterdir())] == [
        load_checkpoint(path).score for path in sorted((examined / "checkpoints").iterdir())
    ]


def test_the_experts_actions_pull_and_change_nothing_else(homes, whole, tmp_path, monkeypatch):
    words = [*homes, "ppo.expert_coef=3", "ppo.critic_warmup_frames=0", "ppo.n_epochs=6", "ppo.learning_rate=0.003"]
    labelled = train(default_config([*words, f"runs={tmp_path / 'whole'}"]))
    losses = [float(row["train/auxiliary_loss"]) for row in rows_of(labelled) if row["train/auxiliary_loss"]]
    assert min(losses[1:]) < 0.9 * losses[0]
    assert "train/auxiliary_loss" not in rows_of(whole)[0]
    plain, checkpoint = load_checkpoint(latest(whole)), load_checkpoint(latest(labelled))
    assert {k: v.shape for k, v in plain.tensors.items()} == {k: v.shape for k, v in checkpoint.tensors.items()}
    assert "expert" not in load_agent(labelled).policy.observation_space.spaces
    train(default_config([*homes, f"runs={tmp_path / 'from'}", "ppo.frames=32"]), init=labelled)

    updates = interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(default_config([*words, f"runs={tmp_path / 'stopped'}"]))
    run = resume(next((tmp_path / "stopped").iterdir()))
    assert len(updates) == 4
    assert weights(run) == weights(labelled)
    with pytest.raises(ConfigError, match=r"ppo\.expert_coef: the run has 3\.0, now it is 1\.0"):
        resume(run, None, ["ppo.expert_coef=1.0"])


def test_the_weight_of_the_entropy_goes_on_where_it_was(homes, tmp_path, monkeypatch):
    words = [*homes, "ppo.ent_coef=0.01", "ppo.final_ent_coef=0.002"]
    undisturbed = train(default_config([*words, f"runs={tmp_path / 'whole'}"]))
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(default_config([*words, f"runs={tmp_path / 'stopped'}"]))
    run = resume(next((tmp_path / "stopped").iterdir()))
    assert weights(run) == weights(undisturbed)
    for rows in (rows_of(undisturbed), rows_of(run)):
        assert [float(row["train/ent_coef"]) for row in rows] == pytest.approx([0.008, 0.006, 0.004, 0.002])


def test_killed_and_resumed_is_the_same(homes, whole, tmp_path):
    command = [sys.executable, "-m", "sideagents_policies.cli.main", "train", "pointnav/demo"]
    config = yaml.safe_load((whole / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"runs": str(tmp_path / "runs")}))
    command[-1] = str(tmp_path / "config.yaml")
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = tmp_path / "runs" / "agent_train_1"
    deadline = time.monotonic() + 300
    while not (run / "checkpoints" / "step_000000064").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    resume(run)
    assert weights(run) == weights(whole)
    assert told(run) == told(whole)


def test_a_damaged_state_is_one_line(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    path = latest(run) / "state.json"
    good = json.loads(path.read_text())
    for damage in ("last_obs", "optimizer", "rng"):
        bad = json.loads(json.dumps(good))
        bad["state"]["processes"][0]["ppo"][damage] = 3
        path.write_text(json.dumps(bad))
        with pytest.raises(CheckpointError, match=r"state is damaged|does not fit") as caught:
            resume(run)
        assert "\n" not in str(caught.value)


def test_two_processes_on_one_run(homes, whole, tmp_path, capfd):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with locked(run):
        assert main(["train", "--resume", str(run), "ppo.frames=256"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert f"{run}: process {os.getpid()} is working on it" in err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_own_networks_are_imported_when_the_command_names_them(homes, tmp_path, capsys, monkeypatch):
    words = [*homes, f"runs={tmp_path}", "model.side=small_agent:DropoutSide", "workers=1"]
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(default_config(words))
    run = next(tmp_path.iterdir())
    command = f"sideagents train --resume {run} model.side=small_agent:DropoutSide"
    assert command in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"model\.side names code to import; if you trust it"):
        resume(run)
    assert main(command.split()[1:]) == 0
    assert main(["eval", str(run), "model.side=small_agent:DropoutSide", "--episodes", "1"]) == 0
    assert main(["eval", str(run), "model={side: small_agent:DropoutSide}", "--episodes", "1"]) == 0
    assert main(["eval", str(run), "model.base=small_agent:DropoutSide_", "--episodes", "1"]) == 2


def test_only_what_goes_on_keeps_its_precision(whole, monkeypatch):
    """The run of float32 on a machine where bfloat16 is fast."""
    monkeypatch.setattr("sideagents.machine.precision._fast", lambda device: "bfloat16")
    assert load_agent(whole).config.precision == "bfloat16"
    assert load_agent(whole, ["precision=float32"]).config.precision == "float32"
    assert reopen(whole, None, [])[1].precision == "float32"
    assert reopen(whole, str(whole / "config.yaml"), [])[1].precision == "float32"
    assert reopen(whole, None, ["precision=auto"])[1].precision == "bfloat16"
    config = default_config(["precision=auto"])
    assert config.precision == "bfloat16"
    assert json.loads((whole / "versions.json").read_text())["processor"] == processor_name()


def test_nothing_left_to_do(whole, capsys):
    before = weights(whole)
    resume(whole)
    assert "128 of 128 frames are done" in capsys.readouterr().out
    assert weights(whole) == before


def test_resume_goes_further_and_says_what_its_schedules_do(homes, tmp_path, capsys):
    rates = ["ppo.learning_rate=0.001", "ppo.final_lr_fraction=0.1", "ppo.final_ent_coef=0.0", "model.alpha=linear"]
    run = train(default_config([*homes, f"runs={tmp_path}", "ppo.frames=32", *rates]))
    assert "schedules are now" not in capsys.readouterr().out
    resume(run, None, ["ppo.frames=64"])
    # half of 64 frames are done: half way between 0.001 and 0.0001, where 32 of 32 had come to its end
    said = [line for line in capsys.readouterr().out.splitlines() if "schedules are now" in line]
    assert said == [
        "note: schedules are now spread over 64 frames, not 32: the learning rate goes from 0.0001 to 0.00055, the "
        "entropy's coefficient is on its way from 0.005 to 0 again, alpha, which never rises, waits until its "
        "curriculum is there"
    ]
    assert latest(run).name == "step_000000064"
    assert yaml.safe_load((run / "config.yaml").read_text())["ppo"]["frames"] == 64


def test_resume_finds_data_that_was_moved(homes, tmp_path, monkeypatch):
    folder = dataset_of(homes)
    for name in ("here", "there", "other"):
        shutil.copytree(folder, tmp_path / name)
        base = load_base("random", seed=int(name == "other"))
        save_base(tmp_path / name / "base.safetensors", base, "midlevel", {}, {})
    (tmp_path / "other" / "train" / "one.glb").rename(tmp_path / "other" / "train" / "nine.glb")
    (tmp_path / "other" / "train" / "two.glb").rename(tmp_path / "other" / "train" / "ten.glb")

    def data(name: str) -> list[str]:
        return [f"scenes.dataset={tmp_path / name}", f"model.base_weights={tmp_path / name / 'base.safetensors'}"]

    words = [*homes, "model.base=depth"]
    undisturbed = train(default_config([*words, *data("here"), f"runs={tmp_path / 'whole'}"]))
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(default_config([*words, *data("here"), f"runs={tmp_path / 'stopped'}"]))
    run = next((tmp_path / "stopped").iterdir())
    shutil.rmtree(tmp_path / "here")
    with pytest.raises(ConfigError, match=r"model\.base_weights: no such file"):
        resume(run)
    with pytest.raises(EnvsError, match="is not among those loaded"):
        resume(run, None, [data("other")[0], data("there")[1]])
    with pytest.raises(CheckpointError, match="trained on the base with fingerprint"):
        resume(run, None, [data("there")[0], data("other")[1]])
    assert weights(resume(run, None, data("there"))) == weights(undisturbed)


def test_resume_refuses_another_run(whole):
    with pytest.raises(ConfigError, match=r"ppo\.n_steps: the run has 8, now it is 16"):
        resume(whole, None, ["ppo.n_steps=16"])
    first = whole / "checkpoints" / "step_000000064"
    with pytest.raises(CheckpointError, match="not the run's latest checkpoint"):
        resume(first)


def test_init_continues_the_same_networks(homes, whole, tmp_path):
    run = train(
        default_config([*homes, f"runs={tmp_path}", "ppo.frames=32", "ppo.critic_warmup_frames=64"]), init=whole
    )
    before, after = load_checkpoint(latest(whole)).tensors, load_checkpoint(latest(run)).tensors
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {"value_net.weight", "value_net.bias"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.hidden=16"], "tensor .* is float32"),
        (["model.method=features"], "belongs to another model: it .*has besides"),
        (["model.base=pixels"], "the model needs|fingerprint"),
        (["model.use_map=false"], "belongs to another model"),
    ],
)
def test_init_refuses_another_model(homes, whole, tmp_path, overrides, message):
    with pytest.raises(CheckpointError, match=message):
        train(default_config([*homes, f"runs={tmp_path}", *overrides]), init=whole)
    assert not any(tmp_path.iterdir())


def test_what_is_trained_is_built_once(homes, tmp_path, monkeypatch):
    """Nothing is built to ask it a question: `train --init` makes one base, one policy and one perception."""
    name = "pointnav/sidetune_curvature"
    words = [*homes, f"runs={tmp_path}", "name=once"]
    assert main(["clone", name, *words]) == 0
    built: dict[str, int] = {}
    for kind in (FrozenBase, SideTuned, SideTunedPolicy):

        def counted(self, *args, kind=kind, make=kind.__init__, **kwargs):
            built[kind.__name__] = built.get(kind.__name__, 0) + 1
            make(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", counted)
    assert main(["train", name, *words, "--init", str(tmp_path / "once_clone_1")]) == 0
    assert built == {"FrozenBase": 1, "SideTuned": 1, "SideTunedPolicy": 1}
    built.clear()
    assert main(["eval", str(tmp_path / "once_train_1")]) == 0
    assert built == {"FrozenBase": 1, "SideTuned": 1, "SideTunedPolicy": 1}
