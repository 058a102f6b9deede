"""What one training step of each method costs beside fine-tuning: time, and what is kept for the backward pass."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from sideagents.adaptation.adapted import Adapted, adapt
from sideagents.adaptation.method import ADAPTATIONS
from sideagents.bases import load_base
from sideagents.data.codes import cached_codes
from sideagents.errors import SideAgentsError

_OPTIONS: dict[str, dict[str, Any]] = {"sidetune": {"side": "conv"}}
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {"series_adapters": ("residual_adapters", {"kind": "series"})}
_REFERENCE = "finetune"
_CLASSES = 50


def benchmark_adapt(
    methods: Sequence[str] = (),
    base: str = "resnet26",
    batch: int = 32,
    repeats: int = 7,
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Time one training step of each method on the same mini-batch, in turns, and count what it keeps.

    methods: by default all that can be built here; fine-tuning is always among them. Rows: `adapt_step_ms_METHOD` (the
    median, with `low`, `high` and `ratio` to fine-tuning), `adapt_activation_mb_METHOD` (kept for the backward pass),
    `adapt_peak_mb_METHOD` (the most at one time, gradients included), `adapt_total_mb_METHOD` (weights and momentum
    too) and `adapt_trainable_METHOD` (weights without the readout's); without a choice of methods also
    `adapt_cached_codes`, see `benchmark_cached_codes`, and `adapt_cached_epoch`, see `benchmark_cached_epoch`. Raises
    `SideAgentsError` for unknown methods.
    """
    names = list(dict.fromkeys([_REFERENCE, *(methods or (*ADAPTATIONS.names(), *_VARIANTS))]))
    network = load_base(base)
    images = torch.rand(batch, network.channels, *network.input_size, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(batch) % _CLASSES
    steps: dict[str, Callable[[], None]] = {}
    costs: dict[str, dict[str, Any]] = {}
    for name in names:
        method, options = _VARIANTS.get(name, (name, _OPTIONS.get(name, {})))
        adapted = adapt(network, method, **options)
        try:
            adapted.add_task("task", classes=_CLASSES)
        except SideAgentsError as error:
            if methods:
                raise
            progress(f"{name} is left out: {error}")
            continue
        costs[name] = adapted.costs(batch=batch) | {"held": _held(adapted)}
        steps[name] = _step_of(adapted.train(), images, labels)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - begin)
        progress(f"round {turn} of {repeats}")
    about = {"base": base, "batch": batch, "threads": torch.get_num_threads(), "torch": torch.__version__}
    reference = float(np.median(seconds[_REFERENCE]))
    rows: list[dict[str, Any]] = []
    for name, samples in seconds.items():
        kept, weights = costs[name]["activation_bytes"] / 1e6, costs[name]["trainable"]
        peak = costs[name]["peak_bytes"] / 1e6
        spread = {"low": 1e3 * min(samples), "high": 1e3 * max(samples)}
        median = float(np.median(samples))
        ratio = median / reference
        rows += [
            {"name": f"adapt_step_ms_{name}", "value": 1e3 * median, "unit": "ms", **spread, "ratio": ratio, **about},
            {"name": f"adapt_activation_mb_{name}", "value": kept, "unit": "MB", **about},
            {"name": f"adapt_peak_mb_{name}", "value": peak, "unit": "MB", **about},
            {"name": f"adapt_total_mb_{name}", "value": peak + costs[name]["held"] / 1e6, "unit": "MB", **about},
            {"name": f"adapt_trainable_{name}", "value": weights, "unit": "weights", **about},
        ]
    return rows if methods else [*rows, benchmark_cached_codes(batch, repeats), benchmark_cached_epoch(batch, repeats)]


def _held(adapted: Adapted) -> int:
    """Return the bytes of all weights, and of the momentum of those that are trained."""
    weights = {id(p): p for part in (adapted, adapted.base) for p in part.parameters()}
    momentum = sum(p.nbytes for p in weights.values() if p.requires_grad)
    return sum(p.nbytes for p in weights.values()) + momentum


def benchmark_cached_codes(batch: int = 32, repeats: int = 7) -> dict[str, Any]:
    """Return how many times faster side-tuning's step is with the base's codes computed before.

    Paper-sized: `fcn4` beside `cifar:resnet44`. `value` is the ratio of the medians, `low` and `high` of single pairs.
    """
    adapted = adapt("cifar:resnet44", "sidetune", side="fcn4").train()
    adapted.add_task("task", classes=_CLASSES)
    task = adapted.task("task")
    images = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels, codes = torch.arange(batch) % _CLASSES, adapted.base(images)
    optimizer = torch.optim.SGD(adapted.parameter_groups(lr=1e-3), momentum=0.9)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(repeats + 1):
        for cached in (False, True):
            begin = time.perf_counter()
            logits = task.readout(task.net(images, codes if cached else None))
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if turn:  # the first warms up
                seconds[cached].append(time.perf_counter() - begin)
    pairs = [plain / cached for plain, cached in zip(seconds[False], seconds[True], strict=True)]
    about = {"base": "cifar:resnet44", "batch": batch, "threads": torch.get_num_threads(), "torch": torch.__version__}
    ratio = float(np.median(seconds[False]) / np.median(seconds[True]))
    return {"name": "adapt_cached_codes", "value": ratio, "unit": "x", "low": min(pairs), "high": max(pairs), **about}


def benchmark_cached_epoch(batch: int = 32, repeats: int = 7, items: int = 512) -> dict[str, Any]:
    """Return how many times faster an epoch of `features` is with codes from the cache's file.

    A linear readout on `cifar:resnet44`, `items` images in a fresh order. `value` is the ratio of the medians, `low`
    and `high` of single pairs; `seconds` is an epoch's without cached codes, `encoding_s` what computing them once
    took.
    """
    adapted = adapt("cifar:resnet44", "features").train()
    task = adapted.add_task("task", classes=_CLASSES)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (items, 3, 32, 32), dtype=torch.uint8, generator=generator)
    optimizer = torch.optim.SGD(adapted.parameter_groups(lr=1e-3), momentum=0.9)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        codes = cached_codes(adapted.base, images, Path(folder))
        encoding = time.perf_counter() - begin

        def epoch(known: torch.Tensor | None) -> float:
            begin = time.perf_counter()
            for index in torch.split(torch.randperm(items, generator=generator), batch):
                code = task.net(images[index].float() / 255, None if known is None else known[index])
                optimizer.zero_grad(set_to_none=True)
                functional.cross_entropy(task.readout(code), index % _CLASSES).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            return time.perf_counter() - begin

        epoch(codes)  # warms up
        pairs = [(epoch(None), epoch(codes)) for _ in range(repeats)]
        del codes
    plain, cached = (float(np.median(seconds)) for seconds in zip(*pairs, strict=True))
    ratios = [slow / fast for slow, fast in pairs]
    about = {"base": "cifar:resnet44", "batch": batch, "threads": torch.get_num_threads(), "torch": torch.__version__}
    about |= {"images": items, "seconds": plain, "encoding_s": encoding}
    return {
        "name": "adapt_cached_epoch", "value": plain / cached, "unit": "x", "low": min(ratios), "high": max(ratios),
        **about,
    }  # fmt: skip


def _step_of(adapted: Adapted, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(adapted.parameter_groups(lr=1e-3), momentum=0.9)

    def step() -> None:
        loss = functional.cross_entropy(adapted(images), labels) + adapted.penalty()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step
