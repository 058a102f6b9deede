"""The supervised loop: AdamW with warm-up and cosine decay, resumed at epochs as if it had never stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from sideagents.core.groups import parameter_groups
from sideagents.errors import SideAgentsError
from sideagents.run.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    restore_optimizer,
    restore_tensors,
    save_checkpoint,
)
from sideagents.run.folder import RunFolder
from sideagents.run.progress import Progress
from sideagents.run.seeding import capture_rng, restore_rng

Loss = Callable[[Tensor, torch.Generator], Tensor]


class FitConfig(BaseModel):
    """How long and how fast to learn."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    epochs: int = Field(20, ge=1, description="passes over the data")
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(2e-3, gt=0.0)
    weight_decay: float = Field(1e-4, ge=0.0, description="not applied to vectors (norms, biases) and alpha")
    warmup: float = Field(0.05, ge=0.0, lt=1.0, description="share of all steps in which the rate rises from 0")
    final_lr_fraction: float = Field(0.01, ge=0.0, le=1.0, description="cosine decay down to this share of the rate")
    max_grad_norm: float = Field(1.0, gt=0.0)
    bf16: bool = Field(True, description="bfloat16 autocast of the networks")


def fit(
    module: nn.Module,
    loss: Loss,
    items: int,
    config: FitConfig,
    *,
    seed: int = 0,
    run: RunFolder | None = None,
    resume: bool = False,
    evaluate: Callable[[], dict[str, float]] | None = None,
    title: str = "training",
) -> float:
    """Train the parameters of `module` that want a gradient; return the seconds it took, earlier parts included.

    `loss(index, generator)` gives the loss (scalar) of the items `index` (B,) int64; what is random in it is drawn
    from the generator, which depends on seed and epoch alone. With `run`, every epoch leaves a row of progress.csv
    and a checkpoint, and `resume` continues after the newest one: on the CPU the same final bytes as without the stop.
    Raises `SideAgentsError` when the loss is no longer finite.
    """
    groups = parameter_groups(module, config.learning_rate, weight_decay=config.weight_decay, decay_vectors=False)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    steps = math.ceil(items / config.batch_size)
    finished, seconds = _restore(module, optimizer, run.checkpoints) if run and resume else (0, 0.0)
    if run:
        run.rewind(finished)
    with Progress(steps * config.epochs, title, unit="step", done=steps * finished) as shown:
        for epoch in range(finished, config.epochs):
            started = time.perf_counter()
            row = _epoch(module, optimizer, loss, items, config, epoch, seed, shown)
            seconds += time.perf_counter() - started
            module.eval()
            if evaluate is not None:
                row |= evaluate()
            if run:
                run.log(epoch + 1, row)
                state = {"seconds": seconds, "rng": capture_rng()}
                save_checkpoint(run.checkpoints, epoch + 1, module.state_dict(), state, optimizer=optimizer, keep=2)
    module.eval()
    return seconds


def _epoch(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    items: int,
    config: FitConfig,
    epoch: int,
    seed: int,
    shown: Progress,
) -> dict[str, float]:
    """Pass once over all items in an order that depends on seed and epoch alone; return the scalars of its row."""
    module.train()
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    batches = torch.split(torch.randperm(items, generator=generator), config.batch_size)
    total, device = len(batches) * config.epochs, next(module.parameters()).device
    losses = []
    for number, index in enumerate(batches):
        rate = config.learning_rate * _rate(epoch * len(batches) + number, total, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.bf16):
            value = loss(index, generator)
        losses.append(float(value.detach()))
        if not math.isfinite(losses[-1]):
            where = f"epoch {epoch + 1}, step {number + 1}"
            raise SideAgentsError(f"{shown.title}: the loss became {losses[-1]} ({where}); lower learning_rate")
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
        optimizer.step()
        shown.update(1, loss=losses[-1])
    return {"train/loss": sum(losses) / len(losses), "train/learning_rate": rate}


def _restore(module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> tuple[int, float]:
    """Put module, optimizer and generators back; return the number of finished epochs and their seconds."""
    found = list_checkpoints(folder)
    if not found:
        return 0, 0.0
    checkpoint = load_checkpoint(found[-1])
    restore_tensors(module.state_dict(), checkpoint.tensors, found[-1])
    if checkpoint.optimizer is not None:
        restore_optimizer(optimizer, *checkpoint.optimizer)
    restore_rng(checkpoint.state["rng"])
    return checkpoint.step, float(checkpoint.state["seconds"])


def _rate(step: int, total: int, config: FitConfig) -> float:
    """Return the share of the learning rate at a step: linear warm-up, then half a cosine."""
    warm = round(config.warmup * total)
    if step < warm:
        return (step + 1) / warm
    share = (step - warm) / max(1, total - warm)
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * 0.5 * (1 + math.cos(math.pi * share))
