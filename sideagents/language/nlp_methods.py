"""Ways to adapt a Hugging Face model: sides, all of it, biases, adapters; LoRA, IA3 and prompts by PEFT.

A method is one function and one registration: it takes the model over, and its keywords are the method's options.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from sideagents.adaptation.peft_methods import import_peft
from sideagents.core.alpha import FixedAlpha, LearnedAlpha, make_alpha
from sideagents.core.merge import merge_name
from sideagents.core.protocol import Methods, says
from sideagents.errors import SideAgentsError, first_line
from sideagents.ladder import LadderModel
from sideagents.ladder.backbone import task_heads
from sideagents.ladder.design import Block, Down, Fusion, Mix, Orientation
from sideagents.ladder.model import Init
from sideagents.language.sidetuned_text import SideTunedText, freeze_layers, learned_heads, side_tower

_ENCODERS = ("Bert", "Roberta", "Electra", "DebertaV2")
_ADAPTED = (
    *("T5LayerSelfAttention", "T5LayerCrossAttention", "T5LayerFF"),
    *(f"{name}{part}" for name in _ENCODERS for part in ("SelfOutput", "Output")),
)
AtLeastOne = Annotated[int, Field(ge=1)]
MergeName = Annotated[str, AfterValidator(merge_name)]


class Adapter(nn.Module):
    """x + up(act(down(x))), down to `width`: starts as the identity (Houlsby et al. 2019, section 2.1)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.down, self.up, self.act = nn.Linear(inputs, width), nn.Linear(width, inputs), nn.GELU()
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Adapt hidden states (B, T, inputs)."""
        return cast(Tensor, x + self.up(self.act(self.down(x))))


@says(frozen_base=False)
def full(model: Any) -> nn.Module:
    """Train everything."""
    return cast(nn.Module, model.requires_grad_(True))


@says(frozen_base=False)
def scratch(model: Any) -> nn.Module:
    """Train everything, from fresh weights."""
    return cast(nn.Module, type(model)(model.config))


@says(reads_codes=True, needs_images=False)
def features(model: Any) -> nn.Module:
    """Train the head alone, and the pooler before it."""
    return SideTunedText(model, None)


@says(has_side=True, reads_codes=True)
def sidetune(
    model: Any,
    reduction: AtLeastOne = 1,
    layers: Sequence[int] | None = None,
    alpha: str | float = "learned",
    merge: MergeName = "alpha",
) -> nn.Module:
    """Train a copy of the frozen encoder beside it, or one that is pruned to width / reduction and to some layers.

    Alpha is learned or fixed: a curriculum would have to be told how far training is. merge: see `SideTunedText`.
    """
    if not isinstance(make_alpha(alpha), LearnedAlpha | FixedAlpha):
        raise SideAgentsError(f"alpha={alpha!r}: text is side-tuned by alpha=learned, or a number for a fixed one")
    return SideTunedText(model, side_tower(model, reduction, layers), alpha, merge)


@says(has_side=True, reads_codes=True, needs_images=False)
def lst(
    model: Any,
    reduction: AtLeastOne = 8,
    keep_encoder: Sequence[int] | None = None,
    keep_decoder: Sequence[int] | None = None,
    init: Init = "random",
    mix: Mix = "none",
    block: Block = "transformer",
    fusion: Fusion = "gate",
    down: Down = "linear",
    orientation: Orientation = "paper",
    recompute: bool = False,
    importance: Mapping[str, Tensor] | None = None,
    batches: Iterable[Mapping[str, Tensor]] | None = None,
) -> nn.Module:
    """Ladder Side-Tuning, see `LadderModel.from_backbone`; a pooler before a task's head learns.

    recompute: compute the side's layers again in the backward pass, in place of keeping their activations.
    """
    ladder = LadderModel.from_backbone(
        model,
        reduction,
        keep_encoder,
        keep_decoder,
        init,
        importance=importance,
        batches=batches,
        mix=mix,
        block=block,
        fusion=fusion,
        down=down,
        orientation=orientation,
        train_pooler=len(learned_heads(model)) > len(task_heads(model)),
    )
    if recompute:
        ladder.activation_checkpointing_enable()
    return ladder


@says(frozen_base=False)
def bitfit(model: Any) -> nn.Module:
    """Train the biases, and the weights of norms where they have none (T5), and the head (Ben Zaken et al. 2021).

    T5 has no biases: there the authors of Ladder Side-Tuning train the norms' scales, and so does this, for LLaMA too.
    """
    freeze_layers(model)
    biases = [p for name, p in model.base_model.named_parameters() if name.endswith("bias") and "relative" not in name]
    for parameter in biases or [p for n, p in model.named_parameters() if "norm" in n.lower()]:
        parameter.requires_grad = True
    return cast(nn.Module, model)


@says(frozen_base=False)
def adapters(model: Any, width: AtLeastOne = 48) -> nn.Module:
    """Train bottlenecks after each attention and feed-forward part, before the residual sum, norms, and the head.

    Raises `SideAgentsError` for a model that has no such parts, which T5's and BERT's have.
    """
    freeze_layers(model)
    config = model.config
    inputs = int(getattr(config, "d_model", None) or config.hidden_size)
    places = [part for part in model.modules() if type(part).__name__ in _ADAPTED]
    if not places:
        raise SideAgentsError(f"adapters: {type(model).__name__} has none of {', '.join(_ADAPTED)}")
    for part in places:
        part.dropout = nn.Sequential(part.dropout, Adapter(inputs, width))
    for name, parameter in model.named_parameters():
        if "layer_norm" in name or "LayerNorm" in name:
            parameter.requires_grad = True
    return cast(nn.Module, model)


def lora(model: Any, rank: AtLeastOne = 32) -> nn.Module:
    """Train low-rank differences of queries and values by PEFT, and the head."""
    settings = import_peft().LoraConfig(r=rank, lora_alpha=rank, target_modules=_queries_and_values(model))
    return _by_peft(model, settings)


def ia3(model: Any) -> nn.Module:
    """Train scales of keys, values and inner activations by PEFT, as it knows them for this kind of model."""
    return _by_peft(model, import_peft().IA3Config())


def prompt(model: Any, tokens: AtLeastOne = 100) -> nn.Module:
    """Train so many vectors before the input by PEFT, and the head."""
    peft = import_peft()
    return _by_peft(model, peft.PromptTuningConfig(num_virtual_tokens=tokens, task_type=_task(model)))


METHODS: Methods[Callable[..., nn.Module]] = Methods(
    "language", given=("model", "importance", "batches"), label="method of language adaptation"
)
for _method in (full, scratch, features, sidetune, lst, bitfit, adapters, lora, ia3, prompt):
    METHODS.register(_method.__name__, _method)


def _by_peft(model: Any, settings: Any) -> nn.Module:
    settings.modules_to_save = [name.rpartition(".")[2] for name in learned_heads(model)] or None
    with warnings.catch_warnings():
        # PEFT asks transformers by a name that is on its way out
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        try:
            return cast(nn.Module, import_peft().get_peft_model(model, settings))
        except ValueError as error:
            raise SideAgentsError(f"PEFT cannot adapt a {type(model).__name__}: {first_line(error)}") from None


def _queries_and_values(model: Any) -> list[str] | None:
    """Return the names of a model's queries and values, None where PEFT must know them."""
    found = {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    for pair in (("q", "v"), ("query", "value"), ("q_proj", "v_proj")):
        if found.issuperset(pair):
            return list(pair)
    return None


def _task(model: Any) -> str:
    name = type(model).__name__
    kinds = {"ForConditionalGeneration": "SEQ_2_SEQ_LM", "ForCausalLM": "CAUSAL_LM"}
    return next((kind for end, kind in kinds.items() if name.endswith(end)), "SEQ_CLS")
