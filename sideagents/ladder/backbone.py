"""What is asked of a Hugging Face model beside its layers: an identity, a signature, a cache of the same kind."""

from __future__ import annotations

import copy
import hashlib
import inspect
import weakref
from collections.abc import Collection, Mapping
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from sideagents.core.counting import weights_of
from sideagents.errors import SideAgentsError
from sideagents.storage.tensors import digest_tensors

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def fingerprint_of(backbone: nn.Module, trained: Collection[str] = ()) -> str:
    """Return the sha256 (hex) of name, dtype, shape and bytes of each tensor of a backbone but of its trained parts."""
    tensors = {name: tensor for name, tensor in backbone.state_dict().items() if not _within(name, trained)}
    return digest_tensors(hashlib.sha256(), tensors)


def _within(name: str, parts: Collection[str]) -> bool:
    return any(name.startswith(f"{part}.") for part in parts)


def signed_as(owner: type[ModuleT], kind: type[nn.Module], more: Collection[str] = ()) -> type[ModuleT]:
    """Return a subclass whose `forward` has a backbone's signature, and `more`: `Trainer` reads off it what to give."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return owner.forward(self, *args, **kwargs)

    signature = inspect.signature(kind.forward)
    taken = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    last = [one for one in signature.parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD]
    extra = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in more]
    forward.__signature__ = signature.replace(parameters=[*taken, *extra, *last])  # type: ignore[attr-defined]
    forward.__doc__ = owner.forward.__doc__
    own = {"forward": forward, "__doc__": owner.__doc__, "__module__": owner.__module__, "signed": (owner, kind, more)}
    # `Trainer` knows by a class's name which labels it has to look for
    return type(f"{owner.__name__}Of{kind.__name__}", (owner,), own)


def blank(owner: type[nn.Module], kind: type[nn.Module], more: Collection[str]) -> nn.Module:
    """Return an instance of `signed_as` with nothing in it, which unpickling fills."""
    return object.__new__(signed_as(owner, kind, more))


def fresh_cache(cache: Any, config: Any, grows: bool = False) -> Any:
    """Return an empty cache of the same kind for the tower of a configuration: one that grows, or as long as `cache`.

    grows: whether it has to. Raises `SideAgentsError` where it has to and the backbone's does not.
    """
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache

    if isinstance(cache, EncoderDecoderCache):
        return EncoderDecoderCache(fresh_cache(cache.self_attention_cache, config, grows), DynamicCache())
    if not isinstance(cache, StaticCache):
        return DynamicCache()
    if grows:
        raise SideAgentsError("fusion='cross_attention' needs a cache that grows: leave cache_implementation out")
    return StaticCache(config, max(cast(Any, layer).max_cache_len for layer in cache.layers))


# What trainers ask a model for beside its forward pass.
SHOWN = (
    "config", "generation_config", "device", "dtype", "main_input_name", "get_encoder", "can_generate",
    "prepare_decoder_input_ids_from_labels",
)  # fmt: skip


def leave_frozen_out(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Take the backbone out of a ladder's state dict."""
    for name in module.backbone.state_dict():
        state.pop(f"{prefix}backbone.{name}", None)


def fill_frozen_in(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Put what `leave_frozen_out` took back before a state dict is loaded."""
    for name, tensor in module.backbone.state_dict().items():
        state.setdefault(f"{prefix}backbone.{name}", tensor)


_MIRRORED = ("reorder_cache", "crop", "batch_select_indices", "batch_repeat_interleave", "reset")


def sides_of(cache: Any) -> dict[str, Any]:
    """Return the side caches that go with a cache, by ladder; they are reordered, cut and copied with it."""
    if "_sides" not in cache.__dict__:
        cache._sides = {}
        for name in _MIRRORED:
            if hasattr(cache, name):
                setattr(cache, name, _Mirrored(cache, name))
    found: dict[str, Any] = cache._sides
    return found


class _Mirrored:
    """A method of a cache that does to the caches beside it what it does to this one; copied with it."""

    def __init__(self, cache: Any, name: str) -> None:
        self._cache, self._name = weakref.ref(cache), name  # the cache holds this: no circle keeps its memory

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        cache = self._cache()
        result = getattr(type(cache), self._name)(cache, *args, **kwargs)
        for side in getattr(cache, "_sides", {}).values():
            getattr(side, self._name)(*args, **kwargs)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> _Mirrored:
        return _Mirrored(memo[id(self._cache())], self._name)  # the copy of the cache, whose part this is


def called(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, those given by their place too."""
    if not args:
        return dict(kwargs)
    names = list(inspect.signature(module.forward).parameters)
    return dict(zip(names, args, strict=False)) | dict(kwargs)


def is_quantised(part: nn.Module) -> bool:
    """Return whether a linear layer, of whatever class, has weights that are no floating-point matrix."""
    if not isinstance(getattr(part, "in_features", None), int) or not hasattr(part, "out_features"):
        return False
    weight = getattr(part, "weight", None)
    return not isinstance(weight, Tensor) or not weight.is_floating_point()


def frozen_weights(backbone: nn.Module, trained: Collection[nn.Module] = ()) -> int:
    """Count the weights of a backbone but of its trained parts; those of quantised layers by what they stand for."""
    heads = {id(part) for head in trained for part in head.modules()}
    total, seen = 0, set()
    for part in backbone.modules():
        if id(part) in heads:
            continue
        packed = is_quantised(part)
        if packed:
            total += cast(Any, part).in_features * cast(Any, part).out_features
        for parameter in part.parameters(recurse=False):
            if id(parameter) not in seen and not (packed and not parameter.is_floating_point()):
                total += parameter.numel()
                seen.add(id(parameter))
    return total


_PRETRAINED = ("visual_projection", "text_projection")


def task_heads(backbone: Any, pooler: bool = False) -> dict[str, nn.Module]:
    """Return by name the parts of a model that are its task's: outside of the base model, with weights.

    Not so a language model's head, and CLIP's projections: these have learned what they are for. pooler: whether the
    base model's pooler is the task's too; raises `SideAgentsError` where there is none.
    """
    heads = _outer_heads(backbone)
    if pooler:
        found = [name for name, part in backbone.base_model.named_children() if name == "pooler" and weights_of(part)]
        if not found:
            raise SideAgentsError(f"train_pooler: a {type(backbone).__name__} has no pooler")
        names = {id(part): name for name, part in backbone.named_modules()}
        part = backbone.base_model.pooler
        heads = {names[id(part)]: part} | heads
    return heads


def copied(parts: Mapping[str, nn.Module]) -> nn.Module:
    """Return a module of nothing but copies of these parts, which learn, at the same dotted names."""
    made = nn.Module()
    for name, part in parts.items():
        *owners, last = name.split(".")
        place = made
        for owner in owners:
            if not hasattr(place, owner):
                place.add_module(owner, nn.Module())
            place = place.get_submodule(owner)
        place.add_module(last, copy.deepcopy(part).requires_grad_(True))
    return made


def _outer_heads(backbone: Any) -> dict[str, nn.Module]:
    base = getattr(backbone, "base_model", backbone)
    if getattr(backbone, "get_output_embeddings", lambda: None)() is not None:
        return {}
    if base is backbone:  # T5's model of spans has no base model inside
        return {name: part for name, part in backbone.named_children() if name == "qa_outputs"}
    parts = [(name, part) for name, part in backbone.named_children() if part is not base]
    return {name: part for name, part in parts if weights_of(part) and name not in _PRETRAINED}
