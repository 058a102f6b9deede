"""The side network of one tower: the backbone's own kind of layers at width / r, fed from its layers through gates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from sideagents.arguments import whole_number
from sideagents.errors import SideAgentsError
from sideagents.ladder.design import Design
from sideagents.ladder.families import Family, Stack
from sideagents.ladder.side_blocks import FEED, Bottleneck, Feed, Reader, Rung, Slice, as_weights

TEMPERATURE = 0.1
# of a tower's call, what is not for its twin
_INPUTS = ("input_ids", "inputs_embeds", "pixel_values", "output_hidden_states", "output_attentions")


@dataclass
class Images:
    """Images as a twin reads them: states (B, V, wide), and mask (B, T + V) of the words and of these."""

    states: Tensor
    mask: Tensor


class Twin(nn.Module):
    """A tower at width / r.

    kept: numbers of the backbone's layers that have a side layer, ascending; the others leave a gate and nothing else.
    The first of the down-projections makes the side's first hidden state of the backbone's (ladder 0).
    """

    tower: Any  # of the backbone's class

    def __init__(
        self, tower: nn.Module, config: Any, family: Family, stack: Stack, design: Design, kept: Sequence[int]
    ) -> None:
        super().__init__()
        layers = len(stack.layers_of(tower))
        self.kept = checked_layers(kept, layers, f"keep_{stack.name}")
        self.layers, self.design = layers, design
        self.stack, self.family = stack, family
        narrow = family.narrow(config, stack, design.reduction, self.kept, design.block == "transformer")
        self.wide, self.width = int(getattr(config, family.width)), int(getattr(narrow, family.width))
        options = {"add_pooling_layer": False} if hasattr(tower, "pooler") else {}
        self.tower = type(tower)(narrow, **options)
        self._drop_embeddings()
        if hasattr(self.tower, "post_layernorm"):  # CLIP's pooled output, which nothing reads here
            self.tower.post_layernorm = nn.Identity()
        self.ladder = self._down()
        owner, _, last = stack.layers.rpartition(".")
        built = stack.layers_of(self.tower)
        rungs = [
            Rung(self._layer(layer, narrow), self._down(), number, self._reader(number, narrow), self._bias(number))
            for number, layer in enumerate(built)
        ]
        setattr(self.tower.get_submodule(owner), last, nn.ModuleList(rungs))
        self.alpha = nn.Parameter(torch.zeros(layers)) if design.fusion == "gate" else None

    @property
    def like(self) -> Tensor:
        """A weight of the type that the twin computes in."""
        return next(self.parameters())

    def _down(self) -> nn.Module:
        return (nn.Linear if self.design.down == "linear" else Slice)(self.wide, self.width)

    def _layer(self, layer: nn.Module, narrow: Any) -> nn.Module:
        if self.design.block == "transformer":
            return layer
        inner = int(getattr(narrow, "d_ff", None) or narrow.intermediate_size)
        crosses = self.family.cross and self.stack.name == "decoder"
        cross = layer.get_submodule(self.family.cross) if crosses else None
        return Bottleneck(self.width, inner, cross, self.family.results)

    def _reader(self, number: int, narrow: Any) -> Reader | None:
        if self.design.fusion == "gate":
            return None
        heads = int(getattr(narrow, self.stack.heads))
        causal = self.stack.name == "decoder" or bool(getattr(narrow, "is_decoder", False))
        return Reader(self.width, heads, len(self.kept) + number, causal)

    def _bias(self, number: int) -> str:
        return self.family.bias if number == 0 and self.design.block == "transformer" else ""

    def _drop_embeddings(self) -> None:
        """Put in place of the tower's embeddings what needs no weights."""
        setattr(self.tower, self.stack.embeddings, _Given() if self.stack.runs_embeddings else nn.Identity())
        for name in self.stack.around:
            if hasattr(self.tower, name):
                setattr(self.tower, name, _Nowhere() if "position" in name else nn.Identity())

    def alphas(self) -> tuple[nn.Parameter, ...]:
        """Return the gates' one parameter (layers,), or none, for `sideagents.core.groups`."""
        return () if self.alpha is None else (self.alpha,)

    def gates(self) -> Tensor | None:
        """Return the weight mu of the backbone in each kept layer (kept,), in (0, 1); None where there are no gates."""
        if self.alpha is None:
            return None
        opened = torch.sigmoid(self.alpha[list(self.kept)] / TEMPERATURE)
        return opened if self.design.orientation == "paper" else 1 - opened

    def tapped(self, number: int, state: Tensor) -> Tensor:
        """Return what to hold of the state (B, T, wide) that the backbone's kept layer of that number gives."""
        rungs = self.stack.layers_of(self.tower)
        down = rungs[self.kept.index(number)].down
        return cast(Tensor, down(state)) if isinstance(down, Slice) else state  # a slice can be taken at once

    def forward(
        self, first: Tensor, taps: Sequence[Tensor], call: Mapping[str, Any], images: Images | None = None
    ) -> Any:
        """Return the tower's output at width / r, (B, T, width), or (B, T + V, width) with images.

        first: the backbone's first hidden state (B, T, wide); taps: `tapped` outputs of its kept layers; call: the
        keywords that the backbone's tower was called with, where they hold for the twin too; images: what is read after
        the words.
        """
        mask, visual = call.get("attention_mask"), 0
        if images is not None:
            first, visual = torch.cat([first, images.states], dim=1), images.states.shape[1]
            call = dict(call) | {"attention_mask": images.mask}
        first, *taps = (as_weights(state, self.like) for state in (first, *taps))
        start = self.ladder(first)
        feed = Feed(start, taps, self.gates(), mask, call.get("past_key_values"), visual)
        token = FEED.set(feed)
        given = {key: value for key, value in call.items() if key not in _INPUTS}
        try:
            return self.tower(**{self.stack.takes: start}, **given)
        finally:
            FEED.reset(token)


class _Given(nn.Module):
    """Stands where embeddings stood, and gives the first hidden state of the ladder."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Identity()  # what a tower shows as its input embeddings
        # Some towers ask of which type their patches are.
        self.patch_embeddings = SimpleNamespace(projection=SimpleNamespace(weight=torch.empty(0)))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return FEED.get().start


class _Nowhere(nn.Module):
    """Stands where positions were looked up, and adds nothing."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return torch.zeros(())


def checked_layers(kept: Sequence[int], layers: int, key: str) -> tuple[int, ...]:
    """Return the numbers of kept layers; raises `SideAgentsError` unless they ascend and are of such a tower."""
    given = list(kept) if isinstance(kept, Iterable) else []
    found = tuple(number for one in given if (number := whole_number(one)) is not None)
    if not found or len(found) < len(given) or list(found) != sorted(set(found)) or found[0] < 0 or found[-1] >= layers:
        raise SideAgentsError(
            f"{key}: give a list of numbers of layers from 0 to {layers - 1}, ascending, at least one, got {kept!r}"
        )
    return found
