"""A pre-trained model and a method of adapting it, from a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sideagents.core.counting import weights_of
from sideagents.errors import SideAgentsError
from sideagents.ladder import LadderModel
from sideagents.ladder.backbone import fingerprint_of, task_heads
from sideagents.ladder.pruning import fisher_importance
from sideagents.language.models import Kind, load_model
from sideagents.language.nlp_config import NlpConfig
from sideagents.language.nlp_methods import METHODS
from sideagents.language.texts import Texts, moved
from sideagents.machine.seeding import seed_everything

_PROMPT = 100  # tokens of a prompt, where options do not say
_NEEDS_TEXTS = ("fisher", "distilled")


@dataclass(frozen=True)
class Built:
    """An adapted model, whose state dict holds what learns alone; of the pre-trained one fingerprint and weights."""

    model: nn.Module
    fingerprint: str
    pretrained: int


def build(config: NlpConfig, kind: Kind, outputs: int, pad: int, train: Texts | None, device: torch.device) -> Built:
    """Load the model and adapt it.

    kind, outputs: of the task's head. pad: the tokenizer's padding, for models that know none. train: what sides start
    from that look at texts; None where what has been learned will be put in their place. Raises `SideAgentsError`.
    """
    seed_everything(config.seed)
    model: Any = load_model(config.model, kind, outputs, config.model_options).to(device)
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = pad
    _check_length(config, model)
    heads = task_heads(model)
    fingerprint, pretrained = fingerprint_of(model, heads), weights_of(model)
    options = dict(config.options)
    if options.get("init") in _NEEDS_TEXTS and train is None:
        options["init"] = "random"
    elif options.get("init") == "fisher" and train is not None:
        count = min(config.fisher_examples, len(train))
        options["importance"] = fisher_importance(model, _drawn(config, train, count, 1, device), count)
    elif options.get("init") == "distilled" and train is not None:
        options["batches"] = _drawn(config, train, len(train), config.batch_size, device, targets=False)
    adapted = METHODS.get(config.method)(model, **options).to(device)
    if not isinstance(adapted, LadderModel):  # which leaves out what is frozen by itself
        adapted.register_state_dict_post_hook(_forget_frozen)  # type: ignore[no-untyped-call]  # torch's annotations
    return Built(adapted, fingerprint, pretrained)


def _check_length(config: NlpConfig, model: Any) -> None:
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is None:
        return
    embeddings = getattr(model.base_model, "embeddings", None)
    if (first := getattr(embeddings, "padding_idx", None)) is not None:  # RoBERTa counts places from there
        longest -= first + 1
    own = int(config.options.get("tokens", _PROMPT)) if config.method == "prompt" else 0
    if config.length + own > longest:
        more = f" and {own} of the prompt" if own else ""
        raise SideAgentsError(f"length={config.length}{more}: model {config.model!r} takes {longest} tokens at most")


def _drawn(
    config: NlpConfig, train: Texts, count: int, size: int, device: torch.device, targets: bool = True
) -> Iterator[dict[str, Tensor]]:
    """Yield batches of `count` examples in an order of chance, which depends on the seed alone."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed))[:count]
    for index in torch.split(order, size):
        yield moved(train.batch(index, targets), device)


def _forget_frozen(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Take what does not learn out of a state dict: the pre-trained model is named, not stored."""
    learned = {prefix + name for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    for name in list(state):
        if name not in learned:
            del state[name]


def full_batch(train: Texts, size: int, length: int) -> Mapping[str, Tensor]:
    """Return a batch as large as one can become: an example again and again, stretched to `length` tokens."""
    ids = train.ids[0]
    inner = ids[:-1].repeat(-(-length // max(1, len(ids) - 1)))[: length - 1]  # some models want the last to be last
    size = min(size, len(train))
    tokens = torch.cat([inner, ids[-1:]]).expand(size, -1).contiguous()
    targets = {name: found[:size] for name, found in train.targets.items()}
    return {
        "input_ids": tokens,
        "token_type_ids": torch.zeros_like(tokens),
        "attention_mask": torch.ones_like(tokens),
    } | targets
