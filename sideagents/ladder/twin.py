"""The side network of one tower: the backbone's own kind of layers at width / r, fed from its layers through gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from sideagents.errors import SideAgentsError
from sideagents.ladder.families import Family, Stack

Orientation = Literal["paper", "code"]
TEMPERATURE = 0.1
_INPUTS = ("input_ids", "inputs_embeds", "pixel_values")

_FEED: ContextVar[Sequence[Tensor]] = ContextVar("what the backbone's kept layers gave, in this thread's forward pass")


class Rung(nn.Module):
    """A side layer behind its gate: mu down(h_backbone) + (1 - mu) h_side goes in (LST, section 3.2).

    All else of the layer shows through: towers ask their layers for more than a forward pass.
    """

    def __init__(self, layer: nn.Module, down: nn.Linear, number: int) -> None:
        super().__init__()
        self.layer, self.down, self.number = layer, down, number

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Fuse and run the layer; its own results."""
        feed = _FEED.get()
        share = feed[-1][self.number]
        fused = share * self.down(feed[self.number + 1]) + (1 - share) * hidden_states
        return self.layer(fused, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class Twin(nn.Module):
    """A tower at width / r.

    kept: numbers of the backbone's layers that have a side layer, ascending; the others leave a gate and nothing else.
    The first of the down-projections makes the side's first hidden state of the backbone's (ladder 0).
    """

    def __init__(
        self,
        tower: nn.Module,
        config: Any,
        family: Family,
        stack: Stack,
        reduction: int,
        kept: Sequence[int],
        orientation: Orientation = "paper",
    ) -> None:
        super().__init__()
        layers = len(cast(nn.ModuleList, tower.get_submodule(stack.layers)))
        self.kept = checked_layers(kept, layers, f"keep_{stack.name}")
        self.layers, self.orientation = layers, orientation
        self.stack = stack
        narrow = family.narrow(config, stack, reduction, self.kept)
        wide, width = int(getattr(config, family.width)), int(getattr(narrow, family.width))
        options = {"add_pooling_layer": False} if hasattr(tower, "pooler") else {}
        self.tower = type(tower)(narrow, **options)
        self._drop_embeddings()
        if hasattr(self.tower, "post_layernorm"):  # CLIP's pooled output, which nothing reads here
            self.tower.post_layernorm = nn.Identity()
        self.ladder = nn.Linear(wide, width)
        owner, _, last = stack.layers.rpartition(".")
        rungs = [
            Rung(layer, nn.Linear(wide, width), number)
            for number, layer in enumerate(cast(nn.ModuleList, self.tower.get_submodule(stack.layers)))
        ]
        setattr(self.tower.get_submodule(owner), last, nn.ModuleList(rungs))
        self.alpha = nn.Parameter(torch.zeros(layers))
        self.width, self.wide = width, wide

    def _drop_embeddings(self) -> None:
        """Put in place of the tower's embeddings what needs no weights."""
        setattr(self.tower, self.stack.embeddings, _Given() if self.stack.runs_embeddings else nn.Identity())

    def gates(self) -> Tensor:
        """Return the weight mu of the backbone in each kept layer (kept,), in (0, 1)."""
        opened = torch.sigmoid(self.alpha[list(self.kept)] / TEMPERATURE)
        return opened if self.orientation == "paper" else 1 - opened

    def forward(self, first: Tensor, taps: Sequence[Tensor], call: Mapping[str, Any]) -> Any:
        """Return the tower's output at width / r.

        first: the backbone's first hidden state (B, T, wide); taps: the outputs of its kept layers; call: the keywords
        that the backbone's tower was called with, where they hold for the twin too.
        """
        start = self.ladder(first)
        token = _FEED.set([start, *taps, self.gates()])
        given = {key: value for key, value in call.items() if key not in _INPUTS}
        try:
            return self.tower(**{self.stack.takes: start}, **given)
        finally:
            _FEED.reset(token)


class _Given(nn.Module):
    """Stands where embeddings stood, and gives the first hidden state of the ladder."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Identity()  # what a tower shows as its input embeddings
        # Some towers ask of which type their patches are.
        self.patch_embeddings = SimpleNamespace(projection=SimpleNamespace(weight=torch.empty(0)))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return _FEED.get()[0]


def checked_layers(kept: Sequence[int], layers: int, key: str) -> tuple[int, ...]:
    """Return the numbers of kept layers; raises `SideAgentsError` unless they ascend and are of such a tower."""
    found = tuple(int(number) for number in kept)
    if not found or list(found) != sorted(set(found)) or found[0] < 0 or found[-1] >= layers:
        raise SideAgentsError(
            f"{key}: give numbers of layers from 0 to {layers - 1}, ascending, at least one, got {list(kept)}"
        )
    return found
