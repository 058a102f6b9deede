"""Where the transformers of each family keep their layers, and how a twin of theirs is made narrower."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from torch import nn

from sideagents.errors import SideAgentsError, nearest

_PLAIN = {"return_dict": True, "output_hidden_states": False}  # a twin's own output is read by name, its last state


@dataclass(frozen=True)
class Stack:
    """One tower of layers in a backbone.

    name: `encoder` or `decoder`. path: of the module that runs the tower, below the backbone's base model, "" for that
    itself. layers: of the list of layers, below the tower. count: the configuration's key for their number. embeddings:
    of what makes the first hidden state, below the tower; a twin needs none. takes: the argument that a twin gets the
    state by. runs_embeddings: whether the tower runs its embeddings on that argument too, whose place in a twin is then
    taken by what hands the state on. around: positions and a norm that the tower puts around its embeddings, which a
    twin goes without: its first state has been through them. heads: the configuration's key for the number of heads.
    """

    name: str
    path: str
    layers: str
    count: str
    embeddings: str
    takes: str = "inputs_embeds"
    runs_embeddings: bool = False
    around: tuple[str, ...] = ()
    heads: str = "num_attention_heads"

    def layers_of(self, tower: nn.Module) -> nn.ModuleList:
        """Return the layers of a tower, or of a twin's."""
        return cast(nn.ModuleList, tower.get_submodule(self.layers))


@dataclass(frozen=True)
class Family:
    """Transformers that are built alike: their towers, and the keys of the configuration that a twin divides by r."""

    stacks: tuple[Stack, ...]
    divided: tuple[str, ...]
    width: str
    as_wide: tuple[str, ...] = ()  # keys that become the twin's width
    fixed: Mapping[str, Any] = field(default_factory=dict)  # keys of the twin's configuration that differ
    still: Mapping[str, Any] = field(default_factory=dict)  # and those that differ when its layers do not attend
    cross: str = ""  # where a layer of a decoder has its attention to the encoder
    results: int = 0  # how many results the tower expects of a layer, the state alone for 0
    bias: str = ""  # where the first layer has a bias by position, which it takes as its second argument too
    sees: bool = False  # whether the first tower's side can read images beside words
    rotary: bool = False  # whether positions turn pairs of a head's dimensions
    adapters: bool = True  # whether block="adapter" can take the place of its layers

    def narrow(self, config: Any, stack: Stack, reduction: int, kept: Sequence[int], attends: bool = True) -> Any:
        """Return the configuration of a tower's twin: width / r, as many heads, the kept layers, no vocabulary.

        attends: whether its layers look at other places.

        Raises `SideAgentsError` when r does not divide what it must.
        """
        narrow = copy.deepcopy(config)
        for key in self.divided:
            value = getattr(config, key, None)
            if value is None:
                continue
            if value % reduction:
                raise SideAgentsError(f"reduction={reduction} does not divide the backbone's {key}={value}")
            setattr(narrow, key, value // reduction)
        if not attends and not self.adapters:
            raise SideAgentsError(f"block='adapter' is not known for a {config.model_type}: take 'transformer'")
        heads = int(getattr(config, stack.heads))
        inner = getattr(narrow, self.width)
        if "d_kv" not in self.divided and inner % heads:
            raise SideAgentsError(f"reduction={reduction} leaves a width of {inner}, which {heads} heads do not divide")
        if self.rotary and attends and (getattr(narrow, "head_dim", None) or inner // heads) % 2:
            raise SideAgentsError(self._odd(config, heads, reduction))
        setattr(narrow, stack.count, len(kept))
        if getattr(config, "layer_types", None):  # full or sliding attention, layer by layer
            narrow.layer_types = [config.layer_types[number] for number in kept]
        for key in self.as_wide:
            setattr(narrow, key, inner)
        for key, value in {**self.fixed, **({} if attends else self.still), **_PLAIN}.items():
            setattr(narrow, key, value)
        return narrow

    def _odd(self, config: Any, heads: int, reduction: int) -> str:
        """Say that heads become odd, and which reductions leave them even."""
        size = getattr(config, "head_dim", None) or getattr(config, self.width) // heads
        values = [value for key in self.divided if (value := getattr(config, key, None)) is not None]
        values.append(getattr(config, self.width) // heads)
        even = [r for r in range(1, size // 2 + 1) if not size % (2 * r) and not any(value % r for value in values)]
        return (
            f"reduction={reduction} leaves heads of {size // reduction} of the backbone's {size} dimensions, and "
            f"rotary positions turn pairs: take one that leaves an even number ({', '.join(map(str, even))})"
        )


_BERT = Family(
    (Stack("encoder", "", "encoder.layer", "num_hidden_layers", "embeddings", runs_embeddings=True),),
    ("hidden_size", "intermediate_size"),
    "hidden_size",
    (),
    {"vocab_size": 1, "max_position_embeddings": 1, "type_vocab_size": 1, "pad_token_id": 0},
    sees=True,
)
_DEBERTA = replace(
    _BERT,
    divided=("hidden_size", "intermediate_size", "attention_head_size"),
    as_wide=("embedding_size",),
    # places are relative to each other and reach as far as the backbone's
    fixed={"vocab_size": 1, "type_vocab_size": 1, "pad_token_id": 0},
    still={"relative_attention": False, "norm_rel_ebd": "none", "conv_kernel_size": 0},
    results=2,
    sees=False,
)
_LLAMA = Family(
    (Stack("decoder", "", "layers", "num_hidden_layers", "embed_tokens"),),
    ("hidden_size", "intermediate_size", "head_dim"),
    "hidden_size",
    (),
    {"vocab_size": 1, "pad_token_id": None},
    rotary=True,
)
_T5 = Family(
    (
        Stack("encoder", "encoder", "block", "num_layers", "embed_tokens"),
        Stack("decoder", "decoder", "block", "num_layers", "embed_tokens"),
    ),
    ("d_model", "d_ff", "d_kv"),
    "d_model",
    (),
    {"vocab_size": 1, "pad_token_id": 0},
    cross="layer.1",
    results=3,
    bias="layer.0.SelfAttention",
    sees=True,
)
_AROUND = ("embed_positions", "layernorm_embedding")
_BART = Family(
    (
        Stack("encoder", "encoder", "layers", "encoder_layers", "embed_tokens", around=_AROUND),
        Stack(
            "decoder", "decoder", "layers", "decoder_layers", "embed_tokens",
            around=_AROUND, heads="decoder_attention_heads",
        ),
    ),
    ("d_model", "encoder_ffn_dim", "decoder_ffn_dim"),
    "d_model",
    (),
    {"vocab_size": 1, "pad_token_id": 0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0},
    adapters=False,
)  # fmt: skip
_VIT = Family(
    (Stack("encoder", "", "layers", "num_hidden_layers", "embeddings", "pixel_values", runs_embeddings=True),),
    ("hidden_size", "intermediate_size"),
    "hidden_size",
)
_CLIP_VISION = Family(
    (Stack("encoder", "", "encoder.layers", "num_hidden_layers", "embeddings", "pixel_values", runs_embeddings=True),),
    ("hidden_size", "intermediate_size"),
    "hidden_size",
)
FAMILIES: dict[str, Family] = {
    "t5": _T5,
    "mt5": _T5,
    "umt5": replace(_T5, bias="", sees=False),  # each layer has its own bias
    "bart": _BART,
    "mbart": _BART,
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": replace(_BERT, as_wide=("embedding_size",)),
    "deberta-v2": _DEBERTA,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "smollm3": _LLAMA,
    "vit": _VIT,
    "deit": _VIT,
    "clip_vision_model": _CLIP_VISION,
}


def family_of(backbone: nn.Module) -> Family:
    """Return the family of a Hugging Face model; raises `SideAgentsError` for one that is not known."""
    kind = str(getattr(getattr(backbone, "config", None), "model_type", type(backbone).__name__))
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise SideAgentsError(f"no ladder for a backbone of type {kind!r}{nearest(kind, FAMILIES)} (known: {known})")
    return FAMILIES[kind]
