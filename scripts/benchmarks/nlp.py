"""What a training step of each method costs on a T5: memory at its peak, counted by live tensors, and time."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, cast

import torch
from torch import nn

from sideagents.adaptation.peft_methods import import_peft
from sideagents.errors import SideAgentsError, nearest
from sideagents.language.cost import training_cost
from sideagents.language.nlp_methods import METHODS

SIZES: Mapping[str, Mapping[str, int]] = {
    "tiny": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 3, "num_heads": 4, "vocab_size": 100},
    "t5-small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "t5-base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "t5-large": {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
}
RIVALS = ("full", "adapters", "lora", "bitfit", "prompt")
# Ladders: the paper's, with a side layer beside three of four layers (9 of 12), and how far below them one can go.
LADDERS: Mapping[str, Mapping[str, Any]] = {
    "lst": {},
    "lst_dropped": {"without_every": 4},
    "lst_recomputed": {"recomputed": True},
    "lst_slice": {"down": "slice", "recomputed": True},
    "lst_one_layer": {"down": "slice", "recomputed": True, "last_alone": True},
    "lst_bf16": {"down": "slice", "recomputed": True, "bf16": True},
    "lst_floor": {"down": "slice", "recomputed": True, "last_alone": True, "bf16": True},
}
CHOICES = (*RIVALS, *LADDERS)


def benchmark_nlp(
    methods: Sequence[str] = (),
    size: str = "t5-base",
    batch: int = 32,
    source: int = 128,
    target: int = 8,
    threads: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Measure one training step (forward, backward, AdamW) of each method, each in a process of its own.

    A randomly initialised T5 of that size, `batch` examples of `source` tokens in and `target` out. Rows: `method`,
    `peak_bytes_total`, `peak_bytes_above_weights`, `weight_bytes`, `state_bytes` (gradients and AdamW's), and what is
    left, `activation_bytes`; `rss_bytes` of the process, `seconds_per_step`, `trainable` weights; and beside full
    fine-tuning, where it was measured, `saved_total` and `saved_above_weights`, shares. Raises `SideAgentsError`.
    """
    names = list(methods or CHOICES)
    for name in names:
        if name not in CHOICES:
            raise SideAgentsError(f"unknown method {name!r}{nearest(name, CHOICES)} (known: {', '.join(CHOICES)})")
    if size not in SIZES:
        raise SideAgentsError(f"unknown size {size!r}{nearest(size, SIZES)} (known: {', '.join(SIZES)})")
    rows = []
    for name in names:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows.append(pool.submit(measure, name, size, batch, source, target, threads).result())
        progress(f"{name}: {rows[-1]['peak_bytes_total'] / 1e9:.2f} GB, {rows[-1]['seconds_per_step']:.1f} s a step")
    whole = next((row for row in rows if row["method"] == "full"), None)
    if whole is not None:
        for row in rows:
            for key, peak in (("saved_total", "peak_bytes_total"), ("saved_above_weights", "peak_bytes_above_weights")):
                row[key] = 1 - row[peak] / whole[peak]
    return rows


def measure(method: str, size: str, batch: int, source: int, target: int, threads: int = 0) -> dict[str, Any]:
    """Measure one method in this process; see `benchmark_nlp`."""
    if threads:
        torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 100, (batch, source), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, :target].contiguous()}
    cost = training_cost(_model(method, size), inputs)
    scale = 1024 if sys.platform != "darwin" else 1
    return {
        "method": method,
        **cost,
        "rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale,
        "size": size,
        "batch": batch,
        "source": source,
        "target": target,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _model(method: str, size: str) -> nn.Module:
    import_peft()  # and transformers, where torchvision was built for another torch
    from transformers import T5Config, T5ForConditionalGeneration

    from sideagents.ladder import LadderModel

    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 32128, "decoder_start_token_id": 0, "use_cache": False} | dict(SIZES[size])
    model = T5ForConditionalGeneration(T5Config(**shape))
    if method not in LADDERS:
        return METHODS.get(method)(model)
    design = dict(LADDERS[method])
    layers, every = range(shape["num_layers"]), design.pop("without_every", 0)
    kept = [number for number in layers if not every or number % every != 0]
    if design.pop("last_alone", False):
        kept = kept[-1:]
    recomputed = design.pop("recomputed", False)
    if design.pop("bf16", False):
        cast(nn.Module, model).to(torch.bfloat16)
    ladder = LadderModel.from_backbone(model, 8, keep_encoder=kept, keep_decoder=kept, **design)
    if recomputed:
        ladder.activation_checkpointing_enable()
    return ladder
