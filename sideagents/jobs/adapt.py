"""`sideagents adapt`: adapt a base to one data set, evaluate it after every epoch, resume between epochs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sideagents.adaptation.adapt_config import AdaptConfig, for_domain
from sideagents.adaptation.adapt_plots import plot_epochs, plot_own_layers, plot_shares
from sideagents.adaptation.adapted import Adapted, adapt
from sideagents.adaptation.method import ADAPTATIONS
from sideagents.bases import load_base
from sideagents.bases.saved import architecture_of, save_base
from sideagents.config.typed import config_hash, load_config
from sideagents.core.base import FrozenBase
from sideagents.core.boosting import stacked
from sideagents.core.sidetuned import SideTuned
from sideagents.core.trainable import TrainableBase
from sideagents.data.cifar import load_cifar
from sideagents.data.codes import cached_codes
from sideagents.data.decathlon import DOMAINS, image_size, load_decathlon
from sideagents.data.examples import Examples
from sideagents.data.folders import load_folder
from sideagents.data.images import LabelledImages
from sideagents.data.mosaics import load_mosaics
from sideagents.data.targets import TARGETS, outputs_of
from sideagents.errors import ConfigError, SideAgentsError, nearest
from sideagents.jobs.job import Job
from sideagents.machine.devices import device_here, missing_device
from sideagents.machine.precision import base_dtype, resolved, told, with_precision
from sideagents.machine.seeding import seed_everything
from sideagents.run.folder import RunFolder
from sideagents.storage.files import find_data, find_file, missing, missing_folder, write_json
from sideagents.train.loop import fit
from sideagents.train.readouts import make_readout
from sideagents.train.rendered import read_rendered, require_fitting
from sideagents.train.student import DISTILLED, distil_side, missing_teachers
from sideagents.train.supervised import Predict, example_loss, totals

TASK = "task"
_SUMMARISED = 32  # images of the training step whose memory is reported


def located(config: AdaptConfig) -> AdaptConfig:
    """Return the configuration with its domain's own values in place and its data looked up; raises `ConfigError`."""
    config = for_domain(config)
    found = {"data": find_data(config.data), "base": find_file(config.base), "runs": os.path.expanduser(config.runs)}
    for key in ("cache", "stack_on"):
        if getattr(config, key) is not None:
            found[key] = os.path.expanduser(getattr(config, key))
    for key in ("base_weights", "held_out_data"):
        if getattr(config, key) is not None:
            found[key] = find_data(getattr(config, key))
    return config.model_copy(update=found)


def checked(config: AdaptConfig) -> AdaptConfig:
    """Return the configuration as `located`, in a precision; raises `ConfigError` for unknown names and parts."""
    config = with_precision(located(config))
    try:
        ADAPTATIONS.check(config.method, config.options)
        if (config.reader in ("decathlon", "taskonomy")) != (config.domain is not None):
            raise ConfigError("domain is needed by the readers decathlon and taskonomy, and by no other")
        if config.reader == "taskonomy" and config.domain not in TARGETS:
            raise ConfigError(f"domain: unknown task {config.domain!r}{nearest(str(config.domain), TARGETS)}")
        if config.reader == "decathlon":
            image_size(str(config.domain))  # or it is unknown
        elif config.seen_as != "base":
            raise ConfigError("seen_as: domain is for the reader decathlon, whose domains have means and sizes")
        rendered = config.reader == "taskonomy"
        maps = rendered and TARGETS[str(config.domain)].kind != "category"
        require_fitting(config, rendered, ("first_class", "classes", "per_class", "held_out"), maps)
        if config.save_base and ADAPTATIONS.get(config.method).frozen_base:
            raise ConfigError(f"save_base keeps a network that was trained as a whole, method {config.method!r} is not")
        if not list(missing_data(config)):
            if config.save_base:
                architecture_of(base_of(config).encoder)
            adapted = adapt(base_of(config), config.method, **_options(config))
            adapted.add_task(TASK, images=_images(config), **_readout(config, adapted.base, None))
    except ConfigError:
        raise
    except SideAgentsError as error:
        raise ConfigError(str(error)) from None
    return config


def missing_data(config: AdaptConfig) -> Iterator[str]:
    """Yield one line for everything on disk that the configuration needs and that is not there."""
    for key, folder in {"data": config.data, "held_out_data": config.held_out_data}.items():
        if folder is not None and not Path(folder).exists():
            yield f"{key}: {missing_folder(folder)}"
    if config.stack_on is None:
        yield from missing({"base_weights": config.base_weights, "base": config.base})
    elif not (Path(config.stack_on) / TASK / "task.json").is_file():
        yield f"stack_on: {config.stack_on} is no folder of a finished run"
    if _distilled(config):
        yield from missing_teachers(config.distil)
    if line := missing_device(config.device):
        yield line


def _readout(config: AdaptConfig, base: FrozenBase, train: Examples | None) -> dict[str, Any]:
    """Return what `add_task` needs; before the data is read, with two classes where only the data knows how many."""
    if config.reader != "taskonomy":
        return {"classes": 2 if train is None else train.outputs[0], "norm_groups": config.norm_groups}
    outputs = outputs_of(TARGETS[str(config.domain)], config.size) if train is None else train.outputs
    return {"readout": make_readout(base.out_shape, outputs, config.norm_groups or 0)}


def _distilled(config: AdaptConfig) -> bool:
    return config.method == "sidetune" and config.options.get("side_init") == DISTILLED


def _options(config: AdaptConfig) -> dict[str, Any]:
    """Return the method's options; a side that is distilled starts as the framework draws it."""
    return config.options | ({"side_init": "default"} if _distilled(config) else {})


def _images(config: AdaptConfig) -> dict[str, Any]:
    """Return how the task's images are read where not as the base's."""
    if config.seen_as == "base":
        return {}
    domain = DOMAINS[str(config.domain)]
    return {"mean": domain.mean, "std": domain.std, "input_size": (domain.size, domain.size)}


def read_data(config: AdaptConfig) -> tuple[Examples, Examples]:
    """Return the examples to train on and those to evaluate on; with `held_out` the test set is never opened."""
    if config.reader == "taskonomy":
        return read_rendered(config, config.data, str(config.domain), config.size)
    train = _read(config, "train")
    test = None if config.held_out else _read(config, "test")
    if test is not None and test.classes != train.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))[:1] or ["their order"]
        raise SideAgentsError(f"{config.data}: training and test images are not of the same classes: {odd[0]!r}")
    if config.first_class or config.classes:
        count = config.classes or len(train.classes) - config.first_class
        train = train.of_classes(config.first_class, count)
        test = None if test is None else test.of_classes(config.first_class, count)
    if test is None:
        train, test = train.split_per_class(config.held_out, seed=0)
        test = test.centre(image_size(str(config.domain))) if config.reader == "decathlon" else test
    return (train.first_per_class(config.per_class) if config.per_class else train), test


def _read(config: AdaptConfig, split: str) -> LabelledImages:
    root = Path(config.data)
    if config.reader == "cifar":
        return load_cifar(root, cast(Any, split))
    if config.reader == "mosaics":
        return load_mosaics(root, cast(Any, split))
    if config.reader == "decathlon":
        # the test annotations of the challenge were never published with it: its validation images stand in for it
        domain, learned = str(config.domain), split == "train"
        cropped = learned and config.augment == "flip_crop" and image_size(domain) == 64
        return load_decathlon(root, domain, "train" if learned else "val", 72 if cropped else None)
    return load_folder(root / split, config.size, "square")


def base_of(config: AdaptConfig) -> FrozenBase:
    """Load the base as the configuration says; it computes in the type of training.

    Raises `SideAgentsError` where `stack_on` is no finished side-tuned run.
    """
    if config.stack_on is not None:
        return _stack(Path(config.stack_on))
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in config.base_options.items()}
    options.setdefault("dtype", base_dtype(config.precision, config.device))
    return load_base(config.base, weights=config.base_weights, **options)


def _stack(folder: Path) -> FrozenBase:
    """Return the network of a side-tuned run as a base."""
    run = RunFolder.open(folder)
    below = load_config(AdaptConfig, run.config_path)
    if below.method != "sidetune":
        raise SideAgentsError(f"stack_on: {folder} is a run of {below.method}, only side-tuned networks are stacked")
    adapted = adapt(base_of(below), below.method, **_options(below))
    readout = _readout(below, adapted.base, None).get("readout")
    return stacked(cast(SideTuned, adapted.load_task(run.path / TASK, TASK, readout).net))


def adapt_run(config: AdaptConfig, resume: bool = False) -> tuple[Path, dict[str, Any]]:
    """Adapt the base to the data; return the run's folder and its result.

    The result holds `accuracy` (None for maps) and `loss` at the end, `measure` (which of them counts), `epochs` (that
    after each), `alpha`, and the costs of `Adapted.costs`. The run's folder holds the task (`task/`, for
    `Adapted.load_task`), with `save_base` `base.safetensors`, and with `side_init: distilled` the side as it began,
    `student.safetensors`. `resume` goes on with the newest run of that name
    after its last finished epoch. A task of `taskonomy` has a readout of its own, which `load_task` must be given:
    `make_readout(base.out_shape, outputs, norm_groups)`. Raises `SideAgentsError`.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    if resume:
        config = RunFolder.going_on(config, Path(config.runs), config.name)
    train, test = read_data(config)
    base = base_of(config)
    print(told(config), flush=True)
    seed_everything(config.seed)
    adapted = adapt(base, config.method, **_options(config))
    adapted.add_task(TASK, images=_images(config), **_readout(config, base, train))
    adapted.to(device_here(config.device))  # weights were drawn on the CPU: the same ones everywhere
    with RunFolder.working(Path(config.runs), config.name, config, resume, may_change=("device",)) as run:
        if _distilled(config):
            task = adapted.task(TASK)
            side = cast(nn.Module, cast(SideTuned, task.net).side)
            distil_side(task.base, side, train.images, test.images, config.distil, run.path / "student.safetensors")
        result = _train(config, adapted, run, train, test, resume)
        adapted.save_task(TASK, run.path / TASK)
        if config.save_base:
            _save_base(config, adapted, run)
        write_json(run.path / "result.json", result)
        plot_epochs(result, run.path / "plots" / "epochs.png")
        if config.method == "taps":
            plot_own_layers(adapted, run.path / "plots" / "own_layers.png")
            plot_shares(adapted, run.path / "plots" / "own_shares.png")
    return run.path, result


def _train(
    config: AdaptConfig, adapted: Adapted, run: RunFolder, train: Examples, test: Examples, resume: bool
) -> dict[str, Any]:
    task = adapted.task(TASK)

    def predictor(codes: Tensor | None) -> Predict:
        if codes is None:
            return lambda images, index: cast(Tensor, adapted(images))
        return lambda images, index: cast(Tensor, task.readout(task.net(images, codes[index].to(images.device))))

    device = adapted.base.device
    shown, tested_at = train.images.shape[-1], test.images.shape[-1]
    crop = tested_at if shown > tested_at else None

    learned = predictor(_codes(config, adapted, train) if config.augment == "none" else None)
    tested = predictor(_codes(config, adapted, test))

    def evaluate() -> dict[str, float]:
        found = totals(tested, test, config.precision, device)
        return {"eval/accuracy": found.accuracy, "eval/loss": found.mean_loss}

    rows = fit(
        task,
        lambda index, generator: example_loss(learned, train, config.augment, index, generator, crop, device),
        len(train),
        config,
        epochs=config.epochs,
        seed=config.seed,
        run=run,
        resume=resume,
        penalty=lambda epoch: adapted.penalty() if epoch >= config.penalty_warmup else torch.zeros(()),
        evaluate=evaluate,
        title=config.method,
        about={
            "config_hash": config_hash(config),
            "base": adapted.base.name,
            "fingerprint": adapted.base.fingerprint,
        },
    ).rows
    measure = "accuracy" if test.asks_classes else "loss"
    return {
        "method": config.method,
        "precision": resolved(config.precision, device),
        "measure": measure,
        "accuracy": rows[-1]["eval/accuracy"] if test.asks_classes else None,
        "loss": rows[-1]["eval/loss"],
        "epochs": [row[f"eval/{measure}"] for row in rows],
        "alpha": adapted.alpha(),
        "images": len(train),
        "judged": len(test),
        "classes": train.outputs[0] if len(train.outputs) == 1 else None,
        **adapted.costs(batch=_SUMMARISED),
    }


def _codes(config: AdaptConfig, adapted: Adapted, data: Examples) -> Tensor | None:
    """Return the frozen base's codes of images as they are, computed once, for methods that read them."""
    net = adapted.task(TASK).net
    if not (isinstance(net, SideTuned) and net.reads_codes):
        return None
    return cached_codes(adapted.task(TASK).base, data.images, None if config.cache is None else Path(config.cache))


def score_of(result: Mapping[str, Any]) -> str:
    """Return what a result is measured by, for people: accuracy in percent, or the loss of maps."""
    if result["measure"] == "accuracy":
        return f"accuracy {100 * result['accuracy']:.2f} %"
    return f"loss {result['loss']:.4f}"


def _save_base(config: AdaptConfig, adapted: Adapted, run: RunFolder) -> None:
    net, old = cast(TrainableBase, adapted.task(TASK).net), adapted.task(TASK).base
    base = old.with_encoder(net.encoder, config.name)
    card = {"config": config.model_dump(mode="json", exclude={"data", "base_weights", "runs"})}
    save_base(run.path / "base.safetensors", base, *architecture_of(net.encoder), card)


def summary_of(result: Mapping[str, Any]) -> str:
    """Return a result for people: the method, what it is measured by, and what is stored of it."""
    return f"{result['method']}: {score_of(result)}, {result['multiple']:.3f} x the base"


JOB = Job("adapt", AdaptConfig, checked, missing_data, adapt_run, summary_of)
