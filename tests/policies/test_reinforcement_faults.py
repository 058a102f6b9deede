"""What stops PPO training: divergence, memory, a full disk; each is one line, and what is kept can be gone on from."""

from __future__ import annotations

import pytest
import torch

from run_files import latest
from sideagents.run import checkpoint as checkpoint_module
from sideagents_policies.agent.ppo import SideTunedPPO
from sideagents_policies.cli.main import main
from sideagents_policies.train.reinforcement import resume


def test_training_that_diverges_ends_with_one_line_and_no_such_checkpoint(homes, tmp_path, capfd, monkeypatch):
    words = ["train", "pointnav/demo", *homes, f"runs={tmp_path / 'runs'}"]
    original = SideTunedPPO.train

    def diverges_at(frames):
        def train_(self):
            if self.num_timesteps == frames:
                with torch.no_grad():
                    self.policy.value_net.weight.fill_(float("nan"))
            original(self)

        monkeypatch.setattr(SideTunedPPO, "train", train_)

    diverges_at(32)
    assert main(words) == 2
    err = capfd.readouterr().err.splitlines()[-1]
    assert "diverged" in err
    assert err.endswith("there is no checkpoint yet")
    assert not (tmp_path / "runs").exists()
    diverges_at(96)
    assert main(words) == 2
    run = next((tmp_path / "runs").iterdir())
    err = capfd.readouterr().err.splitlines()[-1]
    assert err.startswith("error: ")
    assert err.endswith(f"the last good checkpoint is {run / 'checkpoints' / 'step_000000064'}")
    assert latest(run).name == "step_000000064"
    assert not (run / ".lock").exists()
    diverges_at(0)
    resume(run)


def test_a_rollout_that_the_machine_does_not_hold_is_refused(homes, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    large = ["ppo.n_steps=100000", "vec.n_envs=64", "ppo.batch_size=64", "camera.width=256", "camera.height=256"]
    words = ["pointnav/demo", *homes, *large, "model.method=finetune", f"runs={tmp_path / 'runs'}"]
    assert main(["train", *words]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "PPO's rollout takes 1" in err
    assert "the machine has" in err
    assert not (tmp_path / "runs").exists()
    assert main(["check", *words]) == 0
    assert "# too large: PPO's rollout takes" in capfd.readouterr().out


NO_MEMORY = {"python": MemoryError(), "torch": RuntimeError("DefaultCPUAllocator: not enough memory")}


@pytest.mark.parametrize("error", NO_MEMORY)
def test_no_memory_left_is_one_line_and_leaves_no_folder(homes, tmp_path, capfd, monkeypatch, error):
    def out(self):
        raise NO_MEMORY[error]

    monkeypatch.setattr(SideTunedPPO, "train", out)
    assert main(["train", "pointnav/demo", *homes, f"runs={tmp_path / 'runs'}"]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: this does not fit into memory")
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_names_the_file_and_how_to_go_on(homes, tmp_path, capfd, monkeypatch):
    saved = []

    def full(path, tensors, metadata=None):
        saved.append(path)
        if len(saved) > 2:  # the second checkpoint
            raise OSError(28, "No space left on device", str(path))
        return save(path, tensors, metadata)

    save = checkpoint_module.save_tensors
    monkeypatch.setattr(checkpoint_module, "save_tensors", full)
    assert main(["train", "pointnav/demo", *homes, f"runs={tmp_path}"]) == 2
    run = next(tmp_path.iterdir())
    err = capfd.readouterr().err.splitlines()[-1]
    assert "model.safetensors: No space left on device; make room" in err
    assert err.endswith(f"then go on with `sideagents train --resume {run}`")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_000000064"]
