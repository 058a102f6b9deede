"""What the tables of language models compare: tasks, methods, learning rates, sides, as words of a configuration."""

from __future__ import annotations

GLUE = ("RTE", "MRPC", "CoLA", "STS-B", "SST-2")
_LST = "options={reduction: 8, init: %s}"
GATES = "alpha_learning_rate=1e-2"  # of gates, and of side-tuning's alpha
METHODS: dict[str, list[str]] = {
    "full": ["method=full", "options={}"],
    "features": ["method=features", "options={}"],
    "lora": ["method=lora", "options={rank: 32}"],
    "bitfit": ["method=bitfit", "options={}"],
    "adapters": ["method=adapters", "options={width: 48}"],
    "sidetune": ["method=sidetune", "options={}", GATES],
    "lst_random": ["method=lst", _LST % "random", GATES],
    "lst_magnitude": ["method=lst", _LST % "magnitude", GATES],
    "lst_fisher": ["method=lst", _LST % "fisher", GATES],
}
RATES: dict[str, tuple[float, ...]] = {
    "full": (5e-5, 2e-4),
    "features": (1e-3, 5e-3),
    "lora": (5e-4, 2e-3),
    "bitfit": (1e-3, 4e-3),
    "adapters": (5e-4, 2e-3),
    "sidetune": (1e-4, 4e-4),
    "lst_random": (1e-3, 2e-3),
    "lst_magnitude": (1e-3, 2e-3),
    "lst_fisher": (1e-3, 2e-3),
}
FUSED = "model_options={attn_implementation: sdpa}"
OFTEN = ("full", "features", "lora", "lst_random")  # with three seeds
BASELINE = "lora"
CURVE = "CoLA"
_LADDERS = {f"r={r}": f"options={{reduction: {r}}}" for r in (2, 4, 8, 16, 32)} | {
    f"r=8, {len(kept)} layers": f"options={{reduction: 8, keep_encoder: {list(kept)}}}"
    for kept in ((0, 1, 2, 3, 5), (1, 3, 4, 5), (1, 3, 5), (2, 5), (5,))
}
CURVES: dict[str, list[str]] = {f"lst {name}": ["method=lst", words, GATES] for name, words in _LADDERS.items()} | {
    f"lora r={rank}": ["method=lora", f"options={{rank: {rank}}}"] for rank in (4, 8, 16, 32)
}
JUDGED = ("CoLA", "MRPC", "STS-B")  # where a ladder is behind LoRA
DESIGNS = {
    "r=8": "reduction: 8",
    "r=4": "reduction: 4",
    "r=2": "reduction: 2",
    "r=4, 3 layers": "reduction: 4, keep_encoder: [1, 3, 5]",
    "distilled": "reduction: 8, init: distilled",
    "magnitude, sliced": "reduction: 4, init: magnitude, down: slice",
    "residual mix": "reduction: 8, mix: residual",
    "cross-attention": "reduction: 8, fusion: cross_attention",
    "adapter blocks": "reduction: 8, block: adapter",
}
SQUAD: dict[str, list[str]] = {
    "full": ["method=full", "options={}", "learning_rate=1e-4"],
    "features": ["method=features", "options={}", "learning_rate=1e-3"],
    "scratch": ["method=scratch", "options={}", "learning_rate=1e-4"],
    "sidetune": [],
}
