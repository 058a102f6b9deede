"""Side-tuned encoders: a frozen transformer and one that learns beside it, merged (paper, section 4.3)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn
from typing_extensions import Self

from sideagents.core.alpha import Alpha
from sideagents.core.merge import alpha_for, make_merge
from sideagents.errors import SideAgentsError
from sideagents.ladder.backbone import task_heads
from sideagents.ladder.families import family_of
from sideagents.ladder.pruning import pruned
from sideagents.ladder.twin import checked_layers


class SideTunedText(nn.Module):
    """R(x) = merge(alpha, B(x), S(x)) of last hidden states, then the model's own head, which is trained.

    model: a Hugging Face model of one tower of layers, such as `BertForQuestionAnswering`, which is taken over: its
    layers stop requiring gradients and stay in eval mode. side: a tower that takes what the model's takes, None for the
    frozen one alone. merge: by name, see `make_merge`; the states of each token are merged as vectors. Takes and
    returns what the model does. Raises `SideAgentsError` for other models, and for merges that mix tokens.
    """

    def __init__(
        self, model: Any, side: nn.Module | None, alpha: Alpha | str | float = "learned", merge: str = "alpha"
    ) -> None:
        super().__init__()
        if side is not None and len(family_of(model).stacks) > 1:
            raise SideAgentsError(f"side-tuning of text needs a model of one tower, a {type(model).__name__} has more")
        self.model, self.side = model, side
        self.merge = make_merge(merge if side is not None else "alpha", (int(model.config.hidden_size),))
        if not self.merge.modeless:
            raise SideAgentsError(
                f"merge {merge!r} has BatchNorm, which would count the padding of texts: take another one"
            )
        self.alpha = alpha_for(self.merge, alpha if side is not None else 1.0)
        freeze_layers(model)
        if side is not None:
            tower_of(model).register_forward_hook(self._blend, with_kwargs=True)
        self.train(self.training)

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """Return the model's output, of the blended states."""
        return self.model(*args, **inputs)

    def share(self) -> float:
        """Return the weight of the frozen model; nan for a merge that has none."""
        return float("nan") if self.alpha is None else self.alpha.value()

    def _blend(self, tower: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if self.share() == 1.0:
            return output
        own: Tensor = cast(nn.Module, self.side)(*args, **kwargs).last_hidden_state
        alpha = None if self.alpha is None else self.alpha()
        merged = self.merge(output.last_hidden_state.flatten(0, 1), own.flatten(0, 1), alpha)
        states = merged.unflatten(0, own.shape[:2])
        output["last_hidden_state"] = states
        if (pooler := getattr(tower, "pooler", None)) is not None:
            output["pooler_output"] = pooler(states)
        return output

    def train(self, mode: bool = True) -> Self:
        """Switch the modes of side and head; the frozen layers stay in eval mode."""
        super().train(mode)
        base = getattr(self.model, "base_model", self.model)
        for stack in family_of(self.model).stacks:
            base.get_submodule(stack.path).eval()
        return self


def tower_of(model: Any) -> nn.Module:
    """Return the module that runs the (first) tower of layers of a Hugging Face model."""
    base = getattr(model, "base_model", model)
    return cast(nn.Module, base.get_submodule(family_of(model).stacks[0].path))


def freeze_layers(model: Any) -> None:
    """Leave gradients to `learned_heads`; a language model's head is frozen too."""
    model.requires_grad_(False)
    for part in learned_heads(model).values():
        part.requires_grad_(True)


def learned_heads(model: Any) -> dict[str, nn.Module]:
    """Return by name the parts of a model that every method trains: a task's head, and the pooler before it."""
    heads = task_heads(model)
    pooler = getattr(getattr(model, "base_model", model), "pooler", None)
    return task_heads(model, pooler=True) if heads and pooler is not None else heads


def side_tower(model: Any, reduction: int = 1, layers: Sequence[int] | None = None) -> nn.Module:
    """Return a copy of a model's tower to learn beside it: its width divided by `reduction`, these of its layers.

    A narrower one keeps the weights of largest magnitude (`sideagents.ladder.pruning.pruned`) and ends in a projection
    to the model's width. Raises `SideAgentsError`.
    """
    tower: Any = tower_of(model)
    if reduction == 1:
        stack = family_of(model).stacks[0]
        side = copy.deepcopy(tower)
        owner, _, last = stack.layers.rpartition(".")
        found = stack.layers_of(tower)
        numbers = checked_layers(range(len(found)) if layers is None else layers, len(found), "layers")
        copies = stack.layers_of(side)
        setattr(side.get_submodule(owner), last, nn.ModuleList(copies[number] for number in numbers))
    else:
        side = Narrow(*pruned(model, reduction, layers))
    if getattr(side, "pooler", None) is not None:
        side.pooler = None
    return cast(nn.Module, side.requires_grad_(True).train())


class Narrow(nn.Module):
    """A narrow tower and a projection of its last states to the full width."""

    def __init__(self, tower: nn.Module, width: int, wide: int) -> None:
        super().__init__()
        self.tower, self.up = tower, nn.Linear(width, wide)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the tower's output with widened states."""
        output = self.tower(*args, **kwargs)
        output["last_hidden_state"] = self.up(output.last_hidden_state)
        return output
