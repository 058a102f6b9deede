"""One pass of a ladder: the backbone without gradient, what hooks take from it, and the side on that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sideagents.errors import SideAgentsError
from sideagents.ladder.backbone import called, fresh_cache, sides_of
from sideagents.ladder.design import Design, Mix
from sideagents.ladder.families import Family, Stack
from sideagents.ladder.side_blocks import as_weights
from sideagents.ladder.twin import Images, Twin

_ACTIVE: ContextVar[_Pass | None] = ContextVar("the ladder whose backbone runs in this thread", default=None)
# of the side encoder, in the encoder's output: generation carries it along
_SIDE, _MASK = "side_states", "side_mask"


@dataclass
class _Pass:
    """What one forward pass collects."""

    ladder: Passing
    first: dict[str, Tensor] = field(default_factory=dict)
    taps: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    encoded: Tensor | None = None
    visual: Tensor | None = None
    visual_mask: Tensor | None = None
    mask: Tensor | None = None  # of the side encoder's states, where it is not the words' alone
    guard: AbstractContextManager[None] | None = None
    last: tuple[Tensor, Tensor] | None = None
    keeps_last: bool = False

    def close(self) -> None:
        if self.guard is not None:
            guard, self.guard = self.guard, None
            guard.__exit__(None, None, None)


class Passing(nn.Module):
    """The part of a `LadderModel` that runs: its attributes are set there."""

    backbone: Any  # a `PreTrainedModel`, of a package that need not be installed
    twins: nn.ModuleDict
    up: nn.Linear
    visual: nn.Linear | None
    design: Design
    family: Family
    head: nn.Module
    _stacks: list[Stack]
    _heads: tuple[str, ...]  # parts of the backbone that those of `head` stand in for
    _key: str  # of this ladder's caches
    _hooks: list[RemovableHandle]

    @property
    def reduction(self) -> int:
        """What widths are divided by."""
        return self.design.reduction

    @property
    def mix(self) -> Mix:
        """What the head is given of the backbone's last state."""
        return self.design.mix

    def twin(self, name: str) -> Twin:
        """Return the twin of the tower `encoder` or `decoder`."""
        return cast(Twin, self.twins[name])

    def _base(self) -> nn.Module:
        return cast(nn.Module, getattr(self.backbone, "base_model", self.backbone))

    def _tower(self, stack: Stack) -> Any:
        return self._base().get_submodule(stack.path)

    def forward(
        self, *args: Any, visual: Tensor | None = None, visual_mask: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Run the backbone and the side; the backbone's own output, of the side's states.

        visual: (B, V, features) of image regions, which the side reads after the words and the backbone does not;
        visual_mask: (B, V), 0 where there is no region. The other arguments are the backbone's.
        """
        if self.training and "decoder" in self.twins:
            kwargs.setdefault("use_cache", False)  # a cache is for generation; here it would only fill memory
        named = kwargs.pop("return_dict", None)
        with self._running(visual, visual_mask):
            output = self.backbone(*args, return_dict=True, **kwargs)
        if named is None:
            named = getattr(self.backbone.config, "return_dict", True)
        return output if named else output.to_tuple()

    def generate(
        self, *args: Any, visual: Tensor | None = None, visual_mask: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Generate as the backbone does, by greedy or beam search; the side keeps a cache of its own."""
        with torch.no_grad(), self._running(visual, visual_mask):
            return self.backbone.generate(*args, **kwargs)

    def last_states(
        self, *args: Any, visual: Tensor | None = None, visual_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the last states (B, T, wide) for the head: the ladder's, and the backbone's without it."""
        with self._running(visual, visual_mask, keeps_last=True) as found:
            self.backbone(*args, return_dict=True, **kwargs)
        assert found.last is not None
        return found.last

    @contextmanager
    def _running(
        self, visual: Tensor | None = None, visual_mask: Tensor | None = None, keeps_last: bool = False
    ) -> Iterator[_Pass]:
        if not self._hooks:
            raise SideAgentsError("this ladder was detached from its backbone: build another")
        if visual is None and visual_mask is not None:
            raise SideAgentsError("visual_mask is given without visual")
        if visual is not None:
            self._check_visual(visual, visual_mask)
        found = _Pass(self, visual=visual, visual_mask=visual_mask, keeps_last=keeps_last)
        token = _ACTIVE.set(found)
        try:
            yield found
        finally:
            found.close()
            _ACTIVE.reset(token)

    def _check_visual(self, visual: Tensor, mask: Tensor | None) -> None:
        size = self.design.visual
        if not size:
            raise SideAgentsError("this ladder reads no images: build it with visual=the number of their features")
        if visual.dim() != 3 or visual.shape[2] != size:
            raise SideAgentsError(f"visual is of shape (B, V, {size}), got {tuple(visual.shape)}")
        if mask is not None and mask.shape != visual.shape[:2]:
            raise SideAgentsError(f"visual_mask is of shape {tuple(visual.shape[:2])}, got {tuple(mask.shape)}")

    def _images(self, found: _Pass, words: Tensor, mask: Tensor | None) -> Images | None:
        """Return a pass's images as the side reads them beside words (B, T, wide) of which `mask` (B, T) are there."""
        if found.visual is None:
            return None
        project = cast(nn.Linear, self.visual)
        states = project(as_weights(found.visual, project.weight)).to(words.dtype)
        if len(states) != len(words):
            raise SideAgentsError(f"visual is of {len(states)} examples, the words are of {len(words)}")
        if mask is not None and mask.shape != words.shape[:2]:
            raise SideAgentsError(f"visual needs an attention mask of shape (B, T), got {tuple(mask.shape)}")
        there = words.new_ones(words.shape[:2]) if mask is None else mask
        seen = there.new_ones(states.shape[:2]) if found.visual_mask is None else found.visual_mask.to(there)
        return Images(states, torch.cat([there, seen], dim=1))

    def _mine(self) -> _Pass | None:
        found = _ACTIVE.get()
        return found if found is not None and found.ladder is self else None

    def _listen(self) -> list[RemovableHandle]:
        """Hang hooks into the backbone that do nothing unless this ladder runs in their thread."""
        hooks = []
        for stack in self._stacks:
            tower = self._tower(stack)
            hooks.append(tower.register_forward_pre_hook(partial(self._before, stack), with_kwargs=True))
            hooks.append(tower.register_forward_hook(partial(self._after, stack), with_kwargs=True))
            layers = stack.layers_of(tower)
            hooks.append(layers[0].register_forward_pre_hook(partial(self._enter, stack), with_kwargs=True))
            for number in self.twin(stack.name).kept:
                hooks.append(layers[number].register_forward_hook(partial(self._tap, stack, number)))
        for name in self._heads:
            part = self.backbone.get_submodule(name)
            hooks.append(part.register_forward_hook(partial(self._head, name), with_kwargs=True))
        if len(self._stacks) > 1:
            hooks.append(self.backbone.register_forward_pre_hook(self._given, with_kwargs=True))
        return hooks

    def _head(self, name: str, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Run this ladder's head in place of the backbone's, which has run for nothing: heads are small."""
        return None if self._mine() is None else self.head.get_submodule(name)(*args, **kwargs)

    def _given(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Take the side encoder's states from an encoder's output that was computed before."""
        found, outputs = self._mine(), called(module, args, kwargs).get("encoder_outputs")
        if found is not None and outputs is not None:
            if not hasattr(outputs, "get") or outputs.get(_SIDE) is None:
                raise SideAgentsError("encoder_outputs were computed without this ladder: leave them out")
            found.encoded, found.mask = outputs[_SIDE], outputs.get(_MASK)

    # partial methods, not closures: those of a copied ladder are the copy's

    def _before(self, stack: Stack, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run the tower without gradient, and have it name its results."""
        if (found := self._mine()) is None:
            return None
        found.taps[stack.name] = {}
        found.guard = torch.no_grad()
        found.guard.__enter__()
        return args, kwargs | {"return_dict": True}

    def _enter(self, stack: Stack, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Take what enters the first layer."""
        if (found := self._mine()) is not None:
            found.first[stack.name] = args[0] if args else kwargs["hidden_states"]

    def _tap(self, stack: Stack, number: int, module: nn.Module, args: Any, output: Any) -> None:
        """Take what leaves a kept layer."""
        if (found := self._mine()) is not None:
            state = output[0] if isinstance(output, tuple) else output
            found.taps[stack.name][number] = self.twin(stack.name).tapped(number, state)

    def _after(self, stack: Stack, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Run the side, and put its states in place of the tower's where these go to the head."""
        found = self._mine()
        if found is None:
            return None
        found.close()
        twin = self.twin(stack.name)
        call = called(module, args, kwargs)
        if call.get("encoder_hidden_states") is not None:
            call["encoder_hidden_states"] = found.encoded
            if found.mask is not None:
                call["encoder_attention_mask"] = found.mask
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            call["past_key_values"] = self._side_cache(cache, found.first[stack.name].shape[1], twin)
        else:
            call.pop("past_key_values", None)
        taps, first = found.taps.pop(stack.name), found.first.pop(stack.name)
        images = self._images(found, first, call.get("attention_mask")) if stack is self._stacks[0] else None
        side = twin(first, [taps[number] for number in twin.kept], call, images).last_hidden_state
        if stack is not self._stacks[-1]:
            found.encoded = output[_SIDE] = side
            if images is not None:
                found.mask = output[_MASK] = images.mask
            return output
        states = self.up(side[:, : first.shape[1]]).to(output.last_hidden_state.dtype)
        if self.mix == "residual":
            states = states + output.last_hidden_state
        if found.keeps_last:
            found.last = states, output.last_hidden_state
        hidden = getattr(output, "hidden_states", None)
        if hidden and hidden[-1] is output.last_hidden_state:
            output["hidden_states"] = (*hidden[:-1], states)
        output["last_hidden_state"] = states
        if (pooler := getattr(module, "pooler", None)) is not None:
            output["pooler_output"] = pooler(states)
        elif (norm := getattr(module, "post_layernorm", None)) is not None:  # CLIP pools by it
            output["pooler_output"] = norm(states[:, 0])
        return output

    def _side_cache(self, cache: Any, tokens: int, twin: Twin) -> Any:
        """Return this ladder's cache beside the backbone's; what is done to that one is done to it too.

        tokens: how many the backbone's cache has just taken in; a new side cache needs them to be all of it.
        """
        sides = sides_of(cache)
        if self._key not in sides:
            if cache.get_seq_length() > tokens:
                raise SideAgentsError("past_key_values were computed without this ladder: leave them out")
            config = twin.tower.config
            sides[self._key] = fresh_cache(cache, config, grows=self.design.fusion == "cross_attention")
        return sides[self._key]
