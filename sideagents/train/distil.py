"""Distillation of a frozen base into a side network: one of the ways a side can start (paper, section 5.3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from sideagents.core.base import FrozenBase
from sideagents.errors import SideAgentsError
from sideagents.machine.devices import device_of
from sideagents.ram import require_memory
from sideagents.run.checkpoint import save_tensors
from sideagents.run.folder import RunFolder
from sideagents.train.loop import FitConfig, fit

_BATCH = 256  # images encoded at a time


class DistilConfig(FitConfig):
    """How the student learns; the other keys are those of `FitConfig`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    seed: int = Field(1, ge=0, le=2**32 - 1, description="of the order of images, and of mirrors")
    mirror: bool = Field(True, description="mirror half of the images")
    code: float = Field(1.0, ge=0.0, le=1e6, description="weight of the squared error of the code")
    perceptual: float = Field(0.0, ge=0.0, le=1e6, description="weight of the error after the base's decoder")
    labels: float = Field(0.0, ge=0.0, le=1e6, description="weight of the divergence from the base's soft labels")
    temperature: float = Field(1.0, gt=0.0, le=1e6, description="that both logits are divided by")

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if self.code == self.perceptual == self.labels == 0.0:
            raise ValueError("code, perceptual and labels are all 0: there is nothing to learn")
        return self


@dataclass(frozen=True)
class Distilled:
    """The student's file, its mean squared error to the base's code, and the share of the code's variance explained."""

    path: Path
    error: float
    explained: float
    seconds: float


def distil(
    base: FrozenBase,
    side: nn.Module,
    images: Tensor,
    held_out: Tensor,
    config: DistilConfig,
    out: Path,
    *,
    decoder: nn.Module | None = None,
    classifier: nn.Module | None = None,
    run: RunFolder | None = None,
    resume: bool = False,
) -> Distilled:
    """Train `side` in place to give the base's codes, and write its tensors to `out` (.safetensors).

    images, held_out: uint8 (N, C, H, W). side: images in [0, 1] -> (B, *base.out_shape). The loss is `code` times the
    mean squared error of the codes, plus `perceptual` times that of `decoder(code)`, as the original distils its
    Taskonomy sides through the base's own frozen decoder, plus `labels` times T^2 KL(teacher || student) of
    softmax(`classifier(code)` / T) with the base's own frozen classifier (Hinton et al. 2015, section 2): the original
    distils its CIFAR side by that, at T = 1. The base encodes every image once (twice with mirrors). Raises
    `SideAgentsError` when the side's code has another shape, or a decoder or classifier is missing.
    """
    for key, part in {"decoder": decoder, "classifier": classifier}.items():
        weight = "perceptual" if key == "decoder" else "labels"
        if getattr(config, weight) > 0 and part is None:
            raise SideAgentsError(f"distil: {weight} above 0 needs the base's {key}")
    device = device_of(side)
    with torch.no_grad():
        shape = tuple(side(images[:1].to(device).float() / 255).shape[1:])
    if shape != base.out_shape:
        raise SideAgentsError(f"distil: the side's code is {shape}, that of base {base.name!r} {base.out_shape}")
    for part in (decoder, classifier):
        if part is not None:
            part.eval().requires_grad_(False)
    codes = encode_all(base, images)
    mirrored = encode_all(base, images.flip(3)) if config.mirror else None

    def loss(index: Tensor, generator: torch.Generator) -> Tensor:
        batch, wanted = images[index], codes[index]
        if mirrored is not None:
            which = (torch.rand(len(index), generator=generator) < 0.5).view(-1, 1, 1, 1)
            batch = torch.where(which, batch.flip(3), batch)
            wanted = torch.where(which.view(-1, *[1] * (wanted.dim() - 1)), mirrored[index], wanted)
        wanted = wanted.to(device)
        found = side(batch.to(device).float() / 255).float()
        value = config.code * functional.mse_loss(found, wanted)
        if decoder is not None and config.perceptual > 0:
            seen = functional.mse_loss(decoder(found).float(), _teacher(decoder, wanted))
            value = value + config.perceptual * seen
        if classifier is not None and config.labels > 0:
            labels = _teacher(classifier, wanted)
            value = value + config.labels * soft_label_loss(classifier(found), labels, config.temperature)
        return value

    title = f"distilling {base.name}"
    seconds = fit(
        side, loss, len(images), config, epochs=config.epochs, seed=config.seed, run=run, resume=resume, title=title
    ).seconds
    save_tensors(out, side.state_dict())
    error, explained = code_error(base, side, held_out)
    return Distilled(out, error, explained, seconds)


@torch.no_grad()
def _teacher(part: nn.Module, codes: Tensor) -> Tensor:
    """Return what the base's own decoder or classifier makes of its codes, whatever type the student computes in."""
    with torch.autocast(codes.device.type, enabled=False):
        return cast(Tensor, part(codes)).float()


def soft_label_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over logits (B, classes); scalar."""
    log_student = functional.log_softmax(student.float() / temperature, dim=1)
    log_teacher = functional.log_softmax(teacher.float() / temperature, dim=1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


@torch.no_grad()
def encode_all(base: nn.Module, images: Tensor) -> Tensor:
    """Return the codes (N, *code) float32, on the CPU, of uint8 images (N, C, H, W)."""
    device = device_of(base)
    codes: list[Tensor] = []
    for batch in torch.split(images, _BATCH):
        codes.append(base(batch.to(device).float() / 255).float().cpu())
        if len(codes) == 1:
            size = codes[0][0].nbytes * len(images)
            require_memory(size, f"codes of {len(images)} images", "take fewer images, or smaller ones")
    return torch.cat(codes)


def code_error(base: FrozenBase, side: nn.Module, images: Tensor) -> tuple[float, float]:
    """Return the mean squared error between both codes of `images`, and 1 - error / variance of the base's code."""
    side.eval()
    wanted, found = encode_all(base, images), encode_all(side, images)
    error = float(functional.mse_loss(found, wanted))
    variance = float((wanted - wanted.mean(dim=0, keepdim=True)).square().mean())
    return error, 1 - error / max(variance, 1e-12)
