"""The supervised loop: schedule by hand, which parameters decay, stop and resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sideagents.core.alpha import LearnedAlpha
from sideagents.errors import DivergedError
from sideagents.run.checkpoint import list_checkpoints, load_checkpoint
from sideagents.run.folder import RunFolder
from sideagents.run.scalars import read_scalars
from sideagents.train.loop import FitConfig, fit


def settings(**changes: object) -> FitConfig:
    values: dict[str, object] = {"epochs": 4, "batch_size": 8, "learning_rate": 0.05, "precision": "float32"}
    return FitConfig.model_validate(values | changes)


class Noisy(nn.Module):
    """A regression whose dropout draws from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
        self.alpha = LearnedAlpha()
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) * self.alpha()
        return out


INPUTS = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
WANTED = INPUTS.sum(1, keepdim=True)


def run_fit(config: FitConfig, run: RunFolder | None = None, resume: bool = False) -> Noisy:
    torch.manual_seed(3)
    model = Noisy()

    def loss(index: Tensor, generator: torch.Generator) -> Tensor:
        noise = 0.01 * torch.randn(len(index), 3, generator=generator)
        return nn.functional.mse_loss(model(INPUTS[index] + noise), WANTED[index])

    fit(model, loss, len(INPUTS), config, epochs=config.epochs, seed=5, run=run, resume=resume)
    return model


def test_it_learns_and_ends_in_eval_mode() -> None:
    model = run_fit(settings(epochs=30))
    assert not model.training
    assert nn.functional.mse_loss(model(INPUTS), WANTED) < 0.1 * WANTED.var()
    assert model.frozen == 1


def test_batches_are_drawn_as_given() -> None:
    seen: list[list[int]] = []

    def loss(index: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(index.tolist())
        return model(INPUTS[index]).square().mean()

    def halves(generator: torch.Generator) -> list[Tensor]:
        start = int(torch.randint(10, (1,), generator=generator))
        return [torch.arange(start, 50), torch.arange(start)]

    model = Noisy()
    fit(model, loss, 50, settings(batch_size=25), epochs=2, seed=5, batches=halves)
    assert [one + other for one, other in zip(seen[1::2], seen[::2], strict=True)] == [list(range(50))] * 2
    assert seen[0] != seen[2]


def test_vectors_and_alpha_do_not_decay(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "run", "")
    run_fit(settings(epochs=1, weight_decay=0.3), run)
    run.close()
    optimizer = load_checkpoint(list_checkpoints(run.checkpoints)[-1]).optimizer
    assert optimizer is not None
    groups = {group["name"]: group["weight_decay"] for group in optimizer[1]["param_groups"]}
    assert groups == {"weights": 0.3, "vectors": 0.0, "alpha": 0.0}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resume_equals_not_stopping(tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(precision=precision)
    whole = RunFolder.create(tmp_path, "whole", "")
    expected = run_fit(config, whole)
    stopped = RunFolder.create(tmp_path, "stopped", "")
    write = stopped.log

    def interrupt(step: int, values: dict[str, float]) -> None:
        write(step, values)
        if step == 3:
            raise KeyboardInterrupt  # between the row and the checkpoint of the third epoch

    monkeypatch.setattr(stopped, "log", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_fit(config, stopped)
    stopped.close()
    resumed = RunFolder.open(stopped.path)
    found = run_fit(config, resumed, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), found.parameters(), strict=True))
    rows = [read_scalars(run.path / "progress.csv") for run in (whole, resumed)]
    assert rows[0] == rows[1]
    for run in (whole, resumed):
        run.close()


@pytest.mark.parametrize("when", ["loss", "weights"])
def test_training_that_diverges_says_so_and_keeps_the_last_good_checkpoint(tmp_path: Path, when: str) -> None:
    run = RunFolder.create(tmp_path, "fit", "")
    config = settings()
    model = Noisy()
    bad = torch.tensor(float("inf"))

    def loss(index: Tensor, generator: torch.Generator) -> Tensor:
        value = nn.functional.mse_loss(model(INPUTS[index]), WANTED[index])
        if list_checkpoints(run.checkpoints):
            if when == "loss":
                return value * bad
            with torch.no_grad():  # what an update of finite gradients can do too
                model.frozen.fill_(bad)
        return value

    good = run.checkpoints / "step_000000001"
    with pytest.raises(DivergedError, match=f"the last good checkpoint is {good}$") as caught:
        fit(model, loss, len(INPUTS), config, epochs=config.epochs, run=run)
    assert "\n" not in str(caught.value)
    assert list_checkpoints(run.checkpoints) == [good]
    assert all(torch.isfinite(tensor).all() for tensor in load_checkpoint(good).tensors.values())
    with pytest.raises(DivergedError, match="lower"):
        fit(model, loss, len(INPUTS), config, epochs=1)  # without a folder too
