"""A BERT of 16 channels and 20 words, as a folder."""

from __future__ import annotations

from pathlib import Path

import torch

from sideagents.language.models import import_transformers

WORDS = "the a man woman dog cat runs sleeps sits is not in on house garden who what where ? . red".split()  # noqa: SIM905
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def tiny_model(folder: Path) -> Path:
    """Write a BERT of 16 channels with random weights and its tokenizer."""
    transformers = import_transformers()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, vocab_size=len(vocabulary), max_position_embeddings=64)
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder
