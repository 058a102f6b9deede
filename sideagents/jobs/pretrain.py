"""Pretraining of a mid-level base: encoder and decoder learn one task from a Taskonomy folder, the encoder is kept."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from sideagents.bases.encoder import MidLevelDecoder, MidLevelEncoder
from sideagents.bases.saved import save_base
from sideagents.config.typed import NEUTRAL
from sideagents.core.base import FrozenBase
from sideagents.core.counting import multiply_adds, weights_of
from sideagents.data.image_set import ImageSet
from sideagents.data.targets import TARGETS, Target
from sideagents.data.taskonomy_folder import data_root, read_parts
from sideagents.errors import SideAgentsError, nearest
from sideagents.jobs.job import Job
from sideagents.machine.precision import autocast, told, with_precision
from sideagents.machine.seeding import seed_everything
from sideagents.run.checkpoint import save_tensors
from sideagents.run.folder import RunFolder
from sideagents.run.provenance import command_line, versions
from sideagents.storage.files import find_data, missing_message, read_json
from sideagents.train.loop import FitConfig, fit
from sideagents.train.sheet import contact_sheet

_LOSSES = {
    "map": "mean squared error over valid pixels, targets in [-1, 1]",
    "segmentation": "mean cross-entropy over pixels",
}


class PretrainConfig(FitConfig):
    """What to learn from which images; the keys of `FitConfig` say how."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    kind: Literal["pretrain"] = Field(
        "pretrain",
        description="what the file is for; `sideagents pretrain` reads files without it too",
        json_schema_extra=NEUTRAL,
    )
    task: str = Field(description="curvature, denoising, depth, normals, autoencoding, edges, segmentation, ...")
    data: str = Field(description="folder in Taskonomy's layout, as given or below SIDEAGENTS_DATA")
    held_out: str | None = Field(None, description="folder with the held-out buildings, when it is another one")
    splits: str | None = Field(None, description="Taskonomy's split file (CSV: id,train,val,test)")
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="of the base; the task's")
    out: str | None = Field(None, description="folder for weights, card and picture; the run's own if not given")
    runs: str = Field("runs", description="folder of all runs")
    seed: int = Field(1, ge=0, le=2**32 - 1, description="of the weights, the order of images, mirrors and noise")
    threads: int = Field(0, ge=0, le=256, description="torch threads; 0 leaves torch's choice")
    size: int = Field(64, ge=16, le=4096, multiple_of=8, description="images are resized to size x size pixels")
    width: int = Field(32, ge=8, le=1024, multiple_of=8, description="channels of the encoder's first layer")
    images: int = Field(0, ge=0, le=10**9, description="training images at most, spread evenly; 0 = all")
    held_out_images: int = Field(2000, ge=0, le=10**9, description="held-out images at most; 0 = all")
    mirror: bool = Field(True, description="mirror half of the training images")
    noise: float = Field(0.25, ge=0.0, le=1.0, description="denoising: largest standard deviation, images in [0, 1]")
    pictures: int = Field(8, ge=1, le=32, description="held-out images shown in the picture")

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        known = [name for name, target in TARGETS.items() if target.kind != "category"]
        if task not in known:
            raise ValueError(f"unknown task {task!r}{nearest(task, known)} (known: {', '.join(known)})")
        return task

    @property
    def base_name(self) -> str:
        """The name of the base that is made."""
        return self.name or self.task


def missing_data(config: PretrainConfig) -> Iterator[str]:
    """Yield one line for everything on disk that the configuration needs and that is not there."""
    for folder in [config.data] if config.held_out is None else [config.data, config.held_out]:
        try:
            data_root(folder)
        except SideAgentsError as error:
            yield str(error)
    if config.splits is not None and not Path(find_data(config.splits)).is_file():
        yield missing_message(Path(find_data(config.splits)))


def pretrain(config: PretrainConfig, resume: bool = False) -> Path:
    """Train one base and write NAME.safetensors (encoder), NAME.json (card) and NAME.png; return the weights' path.

    The run folder keeps configuration, curves, checkpoints of every epoch and the decoder. With `resume`, the newest
    run of that name goes on where it stopped; its configuration must be the same. Raises `SideAgentsError` (data that
    is missing or broken, another configuration, a loss that explodes) with one line.
    """
    root, name = Path(config.runs).expanduser(), f"pretrain-{config.base_name}"
    config = RunFolder.going_on(config, root, name) if resume else with_precision(config)
    train, held_out = _read_data(config)
    print(told(config), flush=True)
    with RunFolder.working(root, name, config, resume) as run:
        return _train(config, run, train, held_out, resume)


def _train(config: PretrainConfig, run: RunFolder, train: ImageSet, held_out: ImageSet, resume: bool) -> Path:
    if config.threads:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    model = MapModel(train, config)
    constants = _constants(train)

    def loss(index: Tensor, generator: torch.Generator) -> Tensor:
        images, target, weight = train.batch(index)
        if config.mirror:
            images, target, weight = train.mirror(
                images, target, weight, torch.rand(len(index), generator=generator) < 0.5
            )
        images = model.corrupt(images, generator)
        predicted = model(images)
        return (_errors(predicted, target, train.target) * weight).sum() / (weight.sum() * _asked(train.target)).clamp(
            min=1.0
        )

    def evaluate() -> dict[str, float]:
        return {"eval/held_out_loss": held_out_loss(model, held_out, config).model}

    seconds = fit(
        model, loss, len(train), config, epochs=config.epochs, seed=config.seed, run=run, resume=resume,
        evaluate=evaluate, title=f"pretraining {config.base_name}",
    ).seconds  # fmt: skip
    losses = held_out_loss(model, held_out, config, constants)
    return _write(config, run, model, train, held_out, losses, seconds)


class MapModel(nn.Module):
    """Encoder and decoder of one task: images in [0, 1] (B, 3, S, S) -> maps or logits (B, C, S, S)."""

    def __init__(self, data: ImageSet, config: PretrainConfig) -> None:
        super().__init__()
        self.encoder = MidLevelEncoder(width=config.width)
        self.decoder = MidLevelDecoder(data.target.channels, width=config.width)
        self.noise = config.noise if data.target.noisy_input else 0.0
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs

    def forward(self, images: Tensor) -> Tensor:
        """Predict the target's map; float32."""
        images = ((images - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
        return cast(Tensor, self.decoder(self.encoder(images))).float()

    def corrupt(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Add the denoising task's noise: Gaussian, its standard deviation drawn per image up to `noise`."""
        if self.noise == 0:
            return images
        deviation = torch.rand(len(images), 1, 1, 1, generator=generator) * self.noise
        return (images + deviation * torch.randn(images.shape, generator=generator)).clamp(0, 1)


@dataclass(frozen=True)
class HeldOutLoss:
    """Mean errors on the held-out images: of the model, and of two constant predictions.

    Squared errors of maps in [-1, 1], cross-entropies of classes. `mean_image` predicts the training set's mean map;
    `mean_value` that map's mean per channel everywhere, which is the easier one to beat.
    """

    model: float
    mean_image: float = float("nan")
    mean_value: float = float("nan")


@torch.no_grad()
def held_out_loss(
    model: MapModel, data: ImageSet, config: PretrainConfig, constants: Mapping[str, Tensor] | None = None
) -> HeldOutLoss:
    """Measure the errors over all valid pixels of `data`; the noise is the same at every call.

    constants: predictions by name, (1, C, S, S) or (1, C, 1, 1); without them only the model is measured.
    """
    model.eval()
    generator = torch.Generator().manual_seed(0)
    constants = constants or {}
    errors = dict.fromkeys(["model", *constants], 0.0)
    pixels = 0.0
    for index in torch.split(torch.arange(len(data)), 256):
        images, target, weight = data.batch(index)
        with autocast(config.precision):
            predicted = model(model.corrupt(images, generator))
        for name, output in {"model": predicted, **constants}.items():
            whole = output if name == "model" else output.expand(len(index), -1, *target.shape[2:])
            errors[name] += float((_errors(whole, target, data.target) * weight).double().sum())
        pixels += float(weight.double().sum()) * _asked(data.target)
    return HeldOutLoss(**{name: error / max(pixels, 1.0) for name, error in errors.items()})


def _errors(predicted: Tensor, wanted: Tensor, target: Target) -> Tensor:
    """Return squared errors (B, C, H, W) of maps, cross-entropies (B, 1, H, W) of classes of pixels."""
    if target.kind == "map":
        return (predicted - wanted).square()
    return functional.cross_entropy(predicted, wanted.squeeze(1).long(), reduction="none").unsqueeze(1)


def _asked(target: Target) -> int:
    """Return how many errors a valid pixel has."""
    return target.channels if target.kind == "map" else 1


def _constants(data: ImageSet) -> dict[str, Tensor]:
    """Return predictions that do not look at the image: one for each pixel (1, C, S, S), and one for all (1, C, 1, 1).

    The mean over all images where a pixel is valid, and the mean of these means; of classes the logarithms of their
    shares.
    """
    classes = data.target.channels if data.target.kind == "segmentation" else 0
    total, count = torch.zeros(1), torch.zeros(1)
    for index in torch.split(torch.arange(len(data)), 256):
        _, target, weight = data.batch(index)
        if classes:
            target = functional.one_hot(target.squeeze(1).long(), classes).permute(0, 3, 1, 2)
        total = total + (target * weight).double().sum(0, keepdim=True)
        count = count + weight.double().sum(0, keepdim=True)
    overall = total.sum(dim=(2, 3), keepdim=True) / count.sum().clamp(min=1)
    image = torch.where(count > 0, total / count.clamp(min=1), overall).float()
    value = image.mean(dim=(2, 3), keepdim=True)
    if classes:
        image, value = (image + 1e-4).log(), (value + 1e-4).log()
    return {"mean_image": image, "mean_value": value}


def _read_data(config: PretrainConfig) -> tuple[ImageSet, ImageSet]:
    """Return the training and the held-out images; no building is in both."""
    root = data_root(config.data)
    held_out = None if config.held_out is None else data_root(config.held_out)
    splits = None if config.splits is None else Path(find_data(config.splits))
    return read_parts(
        root, config.task, held_out=held_out, splits=splits, size=config.size,
        images=config.images, held_out_images=config.held_out_images,
    )  # fmt: skip


def _write(
    config: PretrainConfig,
    run: RunFolder,
    model: MapModel,
    train: ImageSet,
    held_out: ImageSet,
    losses: HeldOutLoss,
    seconds: float,
) -> Path:
    folder = run.path if config.out is None else Path(config.out).expanduser()
    base = FrozenBase(copy.deepcopy(model.encoder), config.base_name, (config.size, config.size))
    reduction = 100 * (1 - losses.model / losses.mean_image) if losses.mean_image > 0 else 0.0
    card: dict[str, Any] = {
        "task": config.task,
        "data": _describe(config.data, train),
        "held_out": _describe(config.held_out or config.data, held_out),
        "loss": _LOSSES[train.target.kind],
        "held_out_loss": losses.model,
        "mean_image_loss": losses.mean_image,
        "mean_value_loss": losses.mean_value,
        "reduction_percent": round(reduction, 2),
        "epochs": config.epochs,
        "seconds": round(seconds, 1),
        "seed": config.seed,
        "command": _portable(command_line()).replace(" --resume", ""),  # a run that went on is one never stopped
        "config": config.model_dump(mode="json", exclude={"kind", "data", "held_out", "splits", "out", "runs"}),
        "multiply_adds": multiply_adds(base.encoder, (3, config.size, config.size)),
        "weights": weights_of(base),
        "versions": {key: value for key, value in versions().items() if key in ("sideagents", "torch", "python")},
    }
    save_tensors(run.path / f"{config.base_name}.decoder.safetensors", model.decoder.state_dict())
    _picture(folder / f"{config.base_name}.png", model, held_out, config)
    options = {"in_channels": 3, "code_channels": 8, "width": config.width}
    return save_base(folder / f"{config.base_name}.safetensors", base, "midlevel", options, card)


@torch.no_grad()
def _picture(path: Path, model: MapModel, data: ImageSet, config: PretrainConfig) -> None:
    index = torch.linspace(0, len(data) - 1, min(config.pictures, len(data))).round().long()
    images, target, weight = data.batch(index)
    images = model.corrupt(images, torch.Generator().manual_seed(0))
    valid = None if data.valid is None else weight
    predicted = model(images)
    if data.target.kind == "segmentation":
        last = data.target.channels - 1
        target, predicted = (2 * numbers.float() / last - 1 for numbers in (target, predicted.argmax(1, keepdim=True)))
    contact_sheet(path, {"input": images * 2 - 1, "target": target, "prediction": predicted}, valid)


def _describe(folder: str, data: ImageSet) -> dict[str, Any]:
    # the digest says which images they were; where they lay on this machine concerns nobody
    about: dict[str, Any] = {"folder": "/".join(Path(folder).parts[-2:]), "images": len(data)}
    about["buildings"] = data.buildings
    return {**about, "sha256": data.digest()}


def _portable(text: str) -> str:
    """Leave out where on this machine the working folder and the home lie: cards travel."""
    return text.replace(f"{Path.cwd()}/", "").replace(str(Path.home()), "~")


def _run(config: PretrainConfig, resume: bool = False) -> tuple[Path, dict[str, Any]]:
    """Train a base; return the folder of its weights and its card, with the weights' `file`."""
    weights = pretrain(config, resume)
    return weights.parent, {"file": str(weights), **read_json(weights.with_suffix(".json"))}


def summary_of(card: Mapping[str, Any]) -> str:
    """Return a result for people: the file of the base and what it is measured by."""
    return (
        f"{card['file']}: held-out loss {card['held_out_loss']:.5f}, {card['reduction_percent']:.1f} % below the mean "
        f"image ({card['mean_image_loss']:.5f}); card and picture beside it"
    )


JOB = Job("pretrain", PretrainConfig, with_precision, missing_data, _run, summary_of, needs_file=False)
