"""Small backbones of four families, their inputs, and ladders beside them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optional_packages import transformers_ready

if not transformers_ready():
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)

import transformers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from sideagents.ladder import LadderModel

transformers.logging.set_verbosity_error()

SMALL = {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 96, "vocab_size": 60}
IDS = torch.randint(3, 60, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.ones(3, 7, dtype=torch.long)
MASK[1, 4:] = 0
LABELS = torch.randint(3, 60, (3, 5), generator=torch.Generator().manual_seed(1))
SHADES = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1)


def t5(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4, vocab_size=60, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config)


def bert(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(**SMALL, num_labels=3))


def llama(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(SMALL | {"hidden_size": 64}), num_key_value_heads=2))


def vit(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = ViTConfig(
        **{k: v for k, v in SMALL.items() if k != "vocab_size"}, image_size=32, patch_size=8, num_labels=3
    )
    return ViTForImageClassification(config)


def ladder(make: Any, **options: Any) -> LadderModel:
    torch.manual_seed(1)
    return LadderModel.from_backbone(make(), 4, **options)


INPUTS: dict[Any, dict[str, Tensor]] = {
    t5: {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS},
    bert: {"input_ids": IDS, "attention_mask": MASK, "labels": torch.tensor([0, 1, 2])},
    llama: {"input_ids": IDS, "attention_mask": MASK.flip(1), "labels": IDS},
    vit: {"pixel_values": SHADES * torch.ones(3, 3, 32, 32), "labels": torch.tensor([0, 1, 2])},
}
MODELS = list(INPUTS)

# What several processes train, and the batch that they share.
SHARED: dict[str, tuple[Any, dict[str, Any]]] = {
    "t5": (t5, {"keep_encoder": [0, 2], "keep_decoder": [1]}),
    "t5 that sees": (t5, {"visual": 5}),
    "t5 of adapters": (t5, {"block": "adapter"}),
    "t5 of slices": (t5, {"down": "slice"}),
    "bert": (bert, {"fusion": "cross_attention"}),
    "llama": (llama, {"mix": "residual"}),
}


def batch(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(3, 60, (4, 7), generator=generator)
    labels = ids if name == "llama" else torch.tensor([0, 1, 2, 0]) if name == "bert" else ids[:, :5].clone()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return inputs | ({"visual": torch.randn(4, 3, 5, generator=generator)} if "sees" in name else {})


def build(name: str) -> LadderModel:
    make, options = SHARED[name]
    return ladder(make, **options).eval()  # dropout would differ from process to process
