"""The supervised loop over epochs, resumed as if it had never stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from sideagents.errors import CheckpointError
from sideagents.machine.seeding import capture_rng, restore_rng
from sideagents.run.checkpoint import (
    check_finite,
    list_checkpoints,
    load_checkpoint,
    restore_optimizer,
    restore_tensors,
    restoring,
    save_checkpoint,
)
from sideagents.run.folder import RunFolder
from sideagents.run.progress import Progress
from sideagents.train.step import StepConfig, Stepper

Loss = Callable[[Tensor, torch.Generator], Tensor]


class FitConfig(StepConfig):
    """How long and how fast to learn."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    epochs: int = Field(20, ge=1, le=10**6, description="passes over the data")
    beta2: float = Field(0.99, ge=0.0, lt=1.0, description="of all but `sgd`: memory of squared gradients")
    learning_rate: float = Field(2e-3, gt=0.0, le=1e3, description="at its highest")
    weight_decay: float = Field(1e-4, ge=0.0, le=1e3, description="not applied to vectors (norms, biases) and alpha")
    warmup: float = Field(0.05, ge=0.0, lt=1.0, description="share of all steps in which the rate rises from 0")
    final_lr_fraction: float = Field(0.01, ge=0.0, le=1.0, description="cosine decay down to this share of the rate")


@dataclass(frozen=True)
class Fitted:
    """The seconds that training took and the scalars of each epoch, earlier parts of a resumed run included."""

    seconds: float
    rows: list[dict[str, float]]


def fit(
    module: nn.Module,
    loss: Loss,
    items: int,
    config: StepConfig,
    *,
    epochs: int,
    seed: int = 0,
    batches: Callable[[torch.Generator], Sequence[Tensor]] | None = None,
    run: RunFolder | None = None,
    resume: bool = False,
    penalty: Callable[[int], Tensor] | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    title: str = "training",
    about: Mapping[str, str] | None = None,
) -> Fitted:
    """Train the parameters of `module` that want a gradient, and leave it in eval mode.

    `loss(index, generator)` gives the loss (scalar) of the items `index` (B,) int64; what is random in it is drawn
    from the generator, which depends on seed and epoch alone. `batches(generator)` draws an epoch's batches, as many as
    there are without it, where all items are in an order of chance. `penalty(epoch)`, counted from 0, is added to it.
    `evaluate` gives scalars after each epoch. With `run`, every epoch leaves a row of progress.csv and a checkpoint
    (`about`: its `config_hash`, `base`, `fingerprint`), and `resume` continues after the newest one: on the CPU the
    same final bytes as without the stop. Raises `DivergedError`, which names the last good checkpoint, when the loss or
    a weight is no longer finite.
    """
    drawn = batches or (lambda g: torch.split(torch.randperm(items, generator=g), config.batch_size))
    steps = math.ceil(items / config.batch_size)
    stepper = Stepper(config, module, steps * epochs, steps, title=title)
    about = dict(about or {})
    rows, seconds = _restore(stepper, run.checkpoints, about.get("fingerprint")) if run and resume else ([], 0.0)
    stepper.done = steps * len(rows)
    if run and resume:
        run.go_on(len(rows))
    telling = nullcontext() if run is None else run.telling()
    with telling, Progress(stepper.total, title, unit="step", done=stepper.done) as shown:
        for epoch in range(len(rows), epochs):
            started = time.perf_counter()
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            module.train()
            losses = []
            for index in drawn(generator):

                def total(index: Tensor = index, epoch: int = epoch, g: torch.Generator = generator) -> Tensor:
                    value = loss(index, g)
                    return value if penalty is None else value + penalty(epoch)

                losses.append(stepper.step(total))
                shown.update(1, loss=losses[-1])
            module.eval()
            seconds += time.perf_counter() - started
            check_finite(module.state_dict(), stepper.done)
            rate = stepper.optimizer.param_groups[0]["lr"]
            row = {"train/loss": sum(losses) / len(losses), "train/learning_rate": rate}
            rows.append(row | dict(evaluate() if evaluate is not None else {}))
            if run:
                run.log(epoch + 1, rows[-1])
                state = {"seconds": seconds, "rng": capture_rng(), "rows": list(rows)}
                save_checkpoint(
                    run.checkpoints,
                    epoch + 1,
                    module.state_dict(),
                    state,
                    optimizer=stepper.optimizer,
                    keep=2,
                    config_hash=about.get("config_hash", ""),
                    base=about.get("base", ""),
                    fingerprint=about.get("fingerprint", ""),
                )
    module.eval()
    return Fitted(seconds, rows)


def _restore(stepper: Stepper, folder: Path, fingerprint: str | None) -> tuple[list[dict[str, float]], float]:
    """Put module, optimizer and generators back; return the scalars of the finished epochs and their seconds."""
    found = list_checkpoints(folder)
    if not found:
        return [], 0.0
    checkpoint = load_checkpoint(found[-1], fingerprint=fingerprint)
    restore_tensors(stepper.trained.state_dict(), checkpoint.tensors, found[-1])
    with restoring(checkpoint):
        rows = [{str(key): float(value) for key, value in row.items()} for row in checkpoint.state["rows"]]
        seconds = float(checkpoint.state["seconds"])
        if len(rows) != checkpoint.step:
            raise ValueError(f"{len(rows)} rows of {checkpoint.step} epochs")
        restore_rng(checkpoint.state["rng"])
    if checkpoint.optimizer is None:
        raise CheckpointError(f"{found[-1]}: holds no optimizer, so training cannot go on from it")
    restore_optimizer(stepper.optimizer, *checkpoint.optimizer)
    return rows, seconds
