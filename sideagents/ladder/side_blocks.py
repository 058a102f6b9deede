"""What a side network is made of beside the backbone's own kind of layers: rungs, and the designs of LST's Table 4."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sideagents.errors import SideAgentsError


def as_weights(state: Tensor, weights: Tensor) -> Tensor:
    """Return a state in the type of weights that differ from the backbone's; autocast sees to it by itself."""
    if torch.is_autocast_enabled(state.device.type):
        return state
    return state.to(weights.dtype)


@dataclass
class Feed:
    """What a twin's layers read in one forward pass beside the state that they hand on.

    start: (B, T, width), of ladder 0. taps: (B, T, wide), what the backbone's kept layers gave, (B, T, width) where it
    is sliced already. gates: (kept,) weights of the backbone, where there are gates. mask: (B, S) of the words that may
    be read, all where it is None; cache: the side's, where there is one. visual: how many of the T positions, the last,
    are an image's: the backbone has said nothing there.
    """

    start: Tensor
    taps: Sequence[Tensor]
    gates: Tensor | None = None
    mask: Tensor | None = None
    cache: Any = None
    visual: int = 0


FEED: ContextVar[Feed] = ContextVar("what a twin's layers read, in this thread's forward pass")


class Rung(nn.Module):
    """A side layer behind its gate: mu down(h_backbone) + (1 - mu) h_side goes in (LST, section 3.2).

    With a `reader` the side attends to down(h_backbone) in place of the gate (LST, appendix A). All else of the layer
    shows through: towers ask their layers for more than a forward pass. bias: where the layer has a bias by position.
    """

    def __init__(
        self, layer: nn.Module, down: nn.Module, number: int, reader: Reader | None = None, bias: str = ""
    ) -> None:
        super().__init__()
        self.layer, self.down, self.number, self.reader, self.bias = layer, down, number, reader, bias

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Fuse and run the layer; its own results."""
        feed = FEED.get()
        tap = feed.taps[self.number]
        said = tap if isinstance(self.down, Slice) else self.down(tap)
        if feed.visual and self.bias:
            # words have places among each other, an image has none (given here: the layer may be computed again later)
            owner, words = cast(Any, self.layer.get_submodule(self.bias)), said.shape[1]
            bias = F.pad(owner.compute_bias(words, words), (0, feed.visual, 0, feed.visual))
            args = (args[0], bias, *args[2:])
        if self.reader is not None:
            return self.layer(self.reader(hidden_states, said, feed), *args, **kwargs)
        share = cast(Tensor, feed.gates)[self.number]
        said = F.pad(said, (0, 0, 0, feed.visual))
        return self.layer(share * said + (1 - share) * hidden_states, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class Slice(nn.Module):
    """A down-projection without weights: width of the wide coordinates, every r-th or those that pruning has kept.

    Nothing of the backbone's states is kept for the backward pass.
    """

    index: Tensor

    def __init__(self, wide: int, width: int) -> None:
        super().__init__()
        self.register_buffer("index", torch.arange(width) * (wide // width))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, width) of (B, T, wide)."""
        return x.index_select(-1, self.index)


class Reader(nn.Module):
    """h + attention(h, down(h_backbone)): queries of the side, keys and values of the backbone (LST, appendix A).

    causal: whether a position sees those before it and itself alone; slot: where a cache keeps the keys and values.
    """

    def __init__(self, width: int, heads: int, slot: int, causal: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.value, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.heads, self.slot, self.causal = heads, slot, causal

    def forward(self, hidden: Tensor, said: Tensor, feed: Feed) -> Tensor:
        """Read what the backbone said (B, S, width) into the side's state (B, T, width)."""
        # the backbone's states grow from layer to layer
        asks, said = self.scale * F.rms_norm(hidden, hidden.shape[-1:]), F.rms_norm(said, said.shape[-1:])
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part, x in ((self.query, asks), (self.key, said), (self.value, said))
        )
        if feed.cache is not None:
            store = getattr(feed.cache, "self_attention_cache", feed.cache)
            key, value = store.update(key, value, self.slot)
        mask = self._mask(feed.mask, query.shape[2], key.shape[2], key.device)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return cast(Tensor, hidden + self.out(read.transpose(1, 2).flatten(2)))

    def _mask(self, given: Tensor | None, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """Return which keys each query may read, (B or 1, 1, T, S), or None for all."""
        if given is not None and (given.dim() != 2 or given.shape[1] != keys):
            raise SideAgentsError(
                f"fusion='cross_attention' takes an attention mask of shape (B, {keys}), got {tuple(given.shape)}"
            )
        allowed = None if given is None else given.bool()[:, None, None]
        if not self.causal:
            return allowed
        places = torch.arange(keys, device=device)
        own = places[keys - queries :, None]
        past = (places <= own)[None, None]
        # itself always: a padded position before all words would have nothing to read
        return past if allowed is None else past & allowed | (places == own)


class Bottleneck(nn.Module):
    """A side layer of two linear layers, h + up(act(down(norm(h)))), in place of a transformer's (LST, Table 4).

    cross: attention to the encoder's side, which a decoder keeps: nothing else would read it. results: how many the
    tower expects of its layers, the state alone for 0.
    """

    gradient_checkpointing = False  # transformers switches it on, and hands over how
    _gradient_checkpointing_func: Any

    def __init__(self, width: int, inner: int, cross: nn.Module | None, results: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down, self.up, self.act = nn.Linear(width, inner), nn.Linear(inner, width), nn.GELU()
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.cross, self.results = cross, results

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Adapt hidden states (B, T, width); the other arguments are those of T5's blocks, or not read."""
        encoded, mask = args[2:4] if self.cross is not None else (None, None)
        given = (hidden_states, encoded, mask, kwargs.get("past_key_values"))
        again = self.gradient_checkpointing and self.training
        state = self._gradient_checkpointing_func(self._run, *given) if again else self._run(*given)
        return (state, *[None] * (self.results - 1)) if self.results else state

    def _run(self, hidden: Tensor, encoded: Tensor | None, mask: Tensor | None, past: Any) -> Tensor:
        if self.cross is not None:
            hidden = self.cross(hidden, key_value_states=encoded, attention_mask=mask, past_key_values=past)[0]
        return cast(Tensor, hidden + self.up(self.act(self.down(self.norm(hidden)))))
