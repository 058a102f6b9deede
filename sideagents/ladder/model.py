"""Ladder Side-Tuning (Sung et al. 2022): a side network on a ladder of the frozen backbone's activations."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from sideagents.errors import CheckpointError, SideAgentsError, nearest
from sideagents.ladder.backbone import (
    SHOWN,
    called,
    fill_frozen_in,
    fingerprint_of,
    fresh_cache,
    leave_frozen_out,
    sides_of,
    signed_as,
    task_heads,
)
from sideagents.ladder.families import Family, Stack, family_of
from sideagents.ladder.pruning import Importance, magnitude, prune_into
from sideagents.ladder.twin import Orientation, Twin
from sideagents.run.checkpoint import restore_tensors
from sideagents.run.files import read_json, write_json
from sideagents.run.tensors import load_tensors, save_tensors

_ACTIVE: ContextVar[_Pass | None] = ContextVar("the ladder whose backbone runs in this thread", default=None)
FORMAT = 1
_HEAD_TAKEN = "_ladder_trains_head"
_SIDE = "side_states"  # of the side encoder, in the encoder's output: generation carries it along


@dataclass
class _Pass:
    """What one forward pass collects."""

    ladder: LadderModel
    first: dict[str, Tensor] = field(default_factory=dict)
    taps: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    encoded: Tensor | None = None
    guard: AbstractContextManager[None] | None = None

    def close(self) -> None:
        if self.guard is not None:
            guard, self.guard = self.guard, None
            guard.__exit__(None, None, None)


class LadderModel(nn.Module):
    """A Hugging Face model whose towers are frozen, and a narrow side network that reads them; see `from_backbone`.

    `forward` takes and returns what the backbone's does. The backbone's towers run without gradient, in eval mode,
    whatever the mode of this module; nothing of them is kept for the backward pass but what goes into the
    down-projections. The head is the backbone's own: frozen where it is a language model's, trained where it is a
    classifier (`trains_head`).
    """

    def __init__(
        self,
        backbone: nn.Module,
        reduction: int,
        kept: Mapping[str, Sequence[int] | None],
        orientation: Orientation,
        mix: Literal["none", "residual"],
    ) -> None:
        super().__init__()
        for name, value, known in (("mix", mix, ("none", "residual")), ("orientation", orientation, ("paper", "code"))):
            if value not in known:
                raise SideAgentsError(
                    f"unknown {name} {value!r}{nearest(str(value), known)} (known: {', '.join(known)})"
                )
        if reduction < 1:
            raise SideAgentsError(f"reduction is at least 1, got {reduction}")
        self.family: Family = family_of(backbone)
        self.__class__ = cast(Any, signed_as(type(self), type(backbone)))
        self.reduction, self.mix = reduction, mix
        self._key = uuid.uuid4().hex  # of this ladder's caches
        self.backbone = backbone
        modules = dict(self._base().named_modules())
        self._stacks = [stack for stack in self.family.stacks if stack.path in modules]
        towers = {stack.name: self._tower(stack) for stack in self._stacks}
        for name in kept:
            if kept[name] is not None and name not in towers:
                has = ", ".join(towers)
                raise SideAgentsError(f"keep_{name}: a {type(backbone).__name__} has no {name}, it has {has}")
        twins = {}
        for stack in self._stacks:
            tower = towers[stack.name]
            layers = len(cast(nn.ModuleList, tower.get_submodule(stack.layers)))
            chosen = kept.get(stack.name)
            numbers = range(layers) if chosen is None else chosen
            twins[stack.name] = Twin(tower, tower.config, self.family, stack, reduction, numbers, orientation)
        self.twins = nn.ModuleDict(twins)
        last = twins[self._stacks[-1].name]
        self.up = nn.Linear(last.width, last.wide)
        if mix == "residual":
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)
        if self.trains_head:
            if getattr(backbone, _HEAD_TAKEN, False):
                raise SideAgentsError("another ladder trains this model's head already: give it a copy of the model")
            object.__setattr__(backbone, _HEAD_TAKEN, True)
        like = next((p for p in self._base().parameters() if p.is_floating_point()), None)
        if like is not None:
            self.twins.to(device=like.device, dtype=like.dtype)
            self.up.to(device=like.device, dtype=like.dtype)
        backbone.requires_grad_(False)  # not before all that was asked for is known to be possible
        if self.trains_head:
            for part in self._heads().values():
                part.requires_grad_(True)
        self._listen()
        self.register_state_dict_post_hook(leave_frozen_out)  # type: ignore[no-untyped-call]  # torch's annotations
        self.register_load_state_dict_pre_hook(fill_frozen_in)  # type: ignore[no-untyped-call]
        self.train(self.training)

    @classmethod
    def from_backbone(
        cls,
        model: nn.Module,
        reduction: int = 8,
        keep_encoder: Sequence[int] | None = None,
        keep_decoder: Sequence[int] | None = None,
        init: Literal["random", "magnitude", "fisher"] = "random",
        *,
        importance: Importance | None = None,
        orientation: Orientation = "paper",
        mix: Literal["none", "residual"] = "none",
    ) -> Self:
        """Build a side network for a Hugging Face model, which is taken over: its parameters stop requiring gradients.

        reduction: r; the side's widths are the backbone's divided by it, with as many heads. keep_encoder,
        keep_decoder: numbers of the backbone's layers that have a side layer, all by default; a dropped one leaves its
        gate, which the paper counts, and nothing else. init: `magnitude` and `fisher` give the side the backbone's most
        important weights, see `sideagents.ladder.pruning`; `fisher` needs `importance`, from `fisher_importance`.
        orientation: gates weigh the backbone (`paper`) or the side (`code`). mix: `residual` adds the side's output to
        the backbone's last state and starts at the pretrained model's output; `none` is the paper's, the side's output
        alone. Raises `SideAgentsError`.
        """
        if init not in ("random", "magnitude", "fisher"):
            known = ("random", "magnitude", "fisher")
            raise SideAgentsError(f"unknown init {init!r}{nearest(init, known)} (known: {', '.join(known)})")
        if (init == "fisher") != (importance is not None):
            raise SideAgentsError("init='fisher' needs importance=fisher_importance(model, batches), other ones none")
        made = cls(model, reduction, {"encoder": keep_encoder, "decoder": keep_decoder}, orientation, mix)
        if init != "random":
            made._prune(importance)
        return made

    def _prune(self, importance: Importance | None) -> None:
        """Start the side from the backbone's most important weights, by magnitude or as given."""
        memory: Tensor | None = None
        names = {id(parameter): name for name, parameter in self.backbone.named_parameters()}
        for stack in self._stacks:
            tower = self._tower(stack)
            found = magnitude(tower)
            if importance is not None:
                found = {name: importance[names[id(p)]] for name, p in tower.named_parameters() if id(p) in names}
            memory = prune_into(cast(Twin, self.twins[stack.name]), tower, found, memory)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in SHOWN:
                raise
            return getattr(super().__getattr__("backbone"), name)

    # parts

    def _base(self) -> nn.Module:
        return cast(nn.Module, getattr(self.backbone, "base_model", self.backbone))

    def _tower(self, stack: Stack) -> Any:
        return self._base().get_submodule(stack.path)

    @property
    def trains_head(self) -> bool:
        """Whether the head is of the task and learns; a language model's stays as it is."""
        return bool(self._heads())

    def _heads(self) -> dict[str, nn.Module]:
        return task_heads(self.backbone)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what an optimizer should see: the side, its gates and projections, and a task's head."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def gates(self) -> dict[str, Tensor]:
        """Return by tower the weight of the backbone in each kept layer (kept,), in (0, 1)."""
        return {name: cast(Twin, twin).gates() for name, twin in self.twins.items()}

    def summary(self) -> dict[str, Any]:
        """Print and return the weights: `backbone`, `trainable`, and `percent`, of the backbone alone.

        Gates of dropped layers are counted, as the paper counts them: one weight each, and all that such a layer has.
        """
        heads = {id(p) for part in self._heads().values() for p in part.parameters()}
        frozen = sum(p.numel() for p in {id(p): p for p in self.backbone.parameters()}.values() if id(p) not in heads)
        trainable = sum(parameter.numel() for parameter in self.trainable_parameters())
        dropped = sum(cast(Twin, twin).layers - len(cast(Twin, twin).kept) for twin in self.twins.values())
        row = {"backbone": frozen, "trainable": trainable, "percent": 100 * trainable / frozen, "dropped": dropped}
        print(
            f"ladder of {type(self.backbone).__name__}, r = {self.reduction}: {trainable:,} trained weights, "
            f"{row['percent']:.2f} % of the backbone's {frozen:,}; gates of {dropped} dropped layers are among them"
        )
        return row

    # files

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the side to FOLDER/side.safetensors and ladder.json; the backbone is named and not stored."""
        folder = Path(folder)
        config = cast(Any, self.backbone).config
        about = {
            "format": FORMAT,
            "backbone": str(getattr(config, "name_or_path", "") or type(self.backbone).__name__),
            "fingerprint": fingerprint_of(self.backbone, self._heads()),
            "reduction": self.reduction,
            "mix": self.mix,
            "orientation": cast(Twin, self.twins[self._stacks[0].name]).orientation,
            "kept": {name: list(cast(Twin, twin).kept) for name, twin in self.twins.items()},
        }
        save_tensors(folder / "side.safetensors", self._own())
        write_json(folder / "ladder.json", about)
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path, model: nn.Module) -> Self:
        """Build the side that `save_pretrained` wrote, on its backbone, which is taken over as by `from_backbone`.

        Raises `CheckpointError` for another backbone and for damaged files; nothing in them is executed.
        """
        folder = Path(folder)
        about = read_json(folder / "ladder.json", CheckpointError)
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise CheckpointError(f"{folder / 'ladder.json'}: is no ladder of format {FORMAT}")
        found = fingerprint_of(model, task_heads(model))
        if about.get("fingerprint") != found:
            given = f"backbone {about.get('backbone')!r} with fingerprint {str(about.get('fingerprint'))[:12]!r}"
            raise CheckpointError(f"{folder}: was saved for {given}, this one has {found[:12]!r}")
        tensors = load_tensors(folder / "side.safetensors")
        try:
            kept = {str(name): [int(number) for number in numbers] for name, numbers in about["kept"].items()}
            made = cls(model, int(about["reduction"]), kept, about["orientation"], about["mix"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{folder / 'ladder.json'}: is damaged ({error})") from None
        restore_tensors(made._own(), tensors, folder / "side.safetensors")
        return made

    def _own(self) -> dict[str, Tensor]:
        """Return the tensors of the side and of a trained head, by name."""
        return {name.replace("backbone.", "head.", 1): tensor for name, tensor in self.state_dict().items()}

    # modes

    def train(self, mode: bool = True) -> Self:
        """Switch the side's mode; the backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Compute the side's layers again in the backward pass, in place of keeping their activations."""
        for twin in self.twins.values():
            tower = cast(Any, twin).tower
            enable = getattr(tower, "activation_checkpointing_enable", None) or tower.gradient_checkpointing_enable
            enable(activation_checkpointing_kwargs, **options)

    def activation_checkpointing_disable(self) -> None:
        """Keep the side's activations again."""
        for twin in self.twins.values():
            tower = cast(Any, twin).tower
            (getattr(tower, "activation_checkpointing_disable", None) or tower.gradient_checkpointing_disable)()

    # the pass

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the backbone and the side; the backbone's own output, of the side's states."""
        if self.training and "decoder" in self.twins:
            kwargs.setdefault("use_cache", False)  # a cache is for generation; here it would only fill memory
        with self._running():
            return self.backbone(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as the backbone does, by greedy or beam search; the side keeps a cache of its own."""
        with torch.no_grad(), self._running():
            return cast(Any, self.backbone).generate(*args, **kwargs)

    @contextmanager
    def _running(self) -> Iterator[None]:
        found = _Pass(self)
        token = _ACTIVE.set(found)
        try:
            yield
        finally:
            found.close()
            _ACTIVE.reset(token)

    def _mine(self) -> _Pass | None:
        found = _ACTIVE.get()
        return found if found is not None and found.ladder is self else None

    def _listen(self) -> None:
        """Hang hooks into the backbone that do nothing unless this ladder runs in their thread."""
        for stack in self._stacks:
            tower = self._tower(stack)
            tower.register_forward_pre_hook(partial(self._before, stack), with_kwargs=True)
            tower.register_forward_hook(partial(self._after, stack), with_kwargs=True)
            layers = cast(nn.ModuleList, tower.get_submodule(stack.layers))
            layers[0].register_forward_pre_hook(partial(self._enter, stack), with_kwargs=True)
            for number in cast(Twin, self.twins[stack.name]).kept:
                layers[number].register_forward_hook(partial(self._tap, stack, number))
        if len(self._stacks) > 1:
            self.backbone.register_forward_pre_hook(self._given, with_kwargs=True)

    def _given(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Take the side encoder's states from an encoder's output that was computed before."""
        found, outputs = self._mine(), called(module, args, kwargs).get("encoder_outputs")
        if found is not None and outputs is not None:
            if not hasattr(outputs, "get") or outputs.get(_SIDE) is None:
                raise SideAgentsError("encoder_outputs were computed without this ladder: leave them out")
            found.encoded = outputs[_SIDE]

    # partial methods, not closures: those of a copied ladder are the copy's

    def _before(self, stack: Stack, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Run the tower without gradient."""
        if (found := self._mine()) is not None:
            found.taps[stack.name] = {}
            found.guard = torch.no_grad()
            found.guard.__enter__()

    def _enter(self, stack: Stack, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Take what enters the first layer."""
        if (found := self._mine()) is not None:
            found.first[stack.name] = args[0] if args else kwargs["hidden_states"]

    def _tap(self, stack: Stack, number: int, module: nn.Module, args: Any, output: Any) -> None:
        """Take what leaves a kept layer."""
        if (found := self._mine()) is not None:
            found.taps[stack.name][number] = output[0] if isinstance(output, tuple) else output

    def _after(self, stack: Stack, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Run the side, and put its states in place of the tower's where these go to the head."""
        found = self._mine()
        if found is None:
            return None
        found.close()
        twin = cast(Twin, self.twins[stack.name])
        call = called(module, args, kwargs)
        if call.get("encoder_hidden_states") is not None:
            call["encoder_hidden_states"] = found.encoded
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            call["past_key_values"] = self._side_cache(cache, found.first[stack.name].shape[1])
        else:
            call.pop("past_key_values", None)
        taps = [found.taps[stack.name][number] for number in twin.kept]
        side = twin(found.first[stack.name], taps, call).last_hidden_state
        if stack is not self._stacks[-1]:
            found.encoded = side
            output[_SIDE] = side
            return output
        states = self.up(side)
        if self.mix == "residual":
            states = states + output.last_hidden_state
        output["last_hidden_state"] = states
        if (pooler := getattr(module, "pooler", None)) is not None:
            output["pooler_output"] = pooler(states)
        elif (norm := getattr(module, "post_layernorm", None)) is not None:  # CLIP pools by it
            output["pooler_output"] = norm(states[:, 0])
        return output

    def _side_cache(self, cache: Any, tokens: int) -> Any:
        """Return this ladder's cache beside the backbone's; what is done to that one is done to it too.

        tokens: how many the backbone's cache has just taken in; a new side cache needs them to be all of it.
        """
        sides = sides_of(cache)
        if self._key not in sides:
            if cache.get_seq_length() > tokens:
                raise SideAgentsError("past_key_values were computed without this ladder: leave them out")
            sides[self._key] = fresh_cache(cache)
        return sides[self._key]
