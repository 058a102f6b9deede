"""How a side starts: the backbone's most important rows and columns, by magnitude or by Fisher information.

LST, section 3.3. The authors' code picks rows of each matrix by themselves, whichever head they are of, and adds up
streams whose coordinates differ. Here one set of coordinates is kept along each residual stream, heads keep their
places and each gives up the same number of dimensions, and inner widths agree between the matrices that share them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from sideagents.core.modes import modes_kept
from sideagents.errors import SideAgentsError
from sideagents.ladder.backbone import is_quantised
from sideagents.ladder.families import Stack, family_of
from sideagents.ladder.side_blocks import Rung, Slice
from sideagents.ladder.twin import Twin, checked_layers

Importance = Mapping[str, Tensor]

_SCORES = re.compile(r"(?:^|\.)(?:q|k|query|key|q_proj|k_proj|(?:pos_)?(?:query|key)_proj)$")
_QUERY = re.compile(r"(?:^|\.)(?:q|query|q_proj|query_proj)$")
_VALUE = re.compile(r"(?:^|\.)(?:v|value|v_proj|value_proj)$")
_OUT = re.compile(r"(?:^|\.)(?:o|o_proj|out_proj|attention\.output\.dense)$")
_UP = re.compile(r"(?:^|\.)(?:wi|wi_0|wi_1|intermediate\.dense|gate_proj|up_proj|fc1)$")
_DOWN = re.compile(r"(?:^|\.)(?:wo|down_proj|fc2|output\.dense)$")
_CROSS = ("EncDecAttention", "encoder_attn")
_HEAD_NORM = re.compile(r"(?:^|\.)[qk]_norm\.weight$")


@dataclass
class _Layer:
    """The linear layers of one transformer layer by what they do; attention modules by the name they start with."""

    wide: nn.Module
    narrow: nn.Module
    prefix: str  # of its parameters in the importance
    attention: dict[str, list[str]] = field(default_factory=dict)
    up: list[str] = field(default_factory=list)
    down: list[str] = field(default_factory=list)


def magnitude(tower: nn.Module) -> dict[str, Tensor]:
    """Return |w| of each parameter of a tower, by name."""
    return {name: parameter.detach().abs() for name, parameter in tower.named_parameters()}


def fisher_importance(
    backbone: nn.Module, batches: Iterable[Mapping[str, Tensor]], samples: int = 1024
) -> dict[str, Tensor]:
    """Return the empirical Fisher information of each parameter of a Hugging Face model, by name.

    batches: inputs with labels, of one example each (LST takes 1,024); the backbone computes in eval mode and is left
    as it was. In float32, the mean over examples of the squared gradient of the model's loss. Raises `SideAgentsError`
    where there is no batch, where one gives no loss, and for a quantised model.
    """
    wanted = [(parameter, parameter.requires_grad) for parameter in backbone.parameters()]
    if any(is_quantised(part) for part in backbone.modules()):
        raise SideAgentsError("a quantised model has no gradients to weigh: take init='random' or 'distilled'")
    # in float32: squares of small gradients are 0 in float16, and sums of many are cut short in bfloat16
    totals = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in backbone.named_parameters()}
    count = 0
    try:
        with modes_kept(backbone), torch.enable_grad():
            backbone.eval().requires_grad_(True)
            for count, batch in enumerate(batches, start=1):
                loss = getattr(backbone(**batch, return_dict=True), "loss", None)
                if loss is None:
                    raise SideAgentsError(
                        f"fisher_importance: batch {count} gives no loss: batches need labels, and a "
                        f"{type(backbone).__name__} a head that learns from them"
                    )
                loss.backward()
                for name, parameter in backbone.named_parameters():
                    if parameter.grad is not None:
                        totals[name] += parameter.grad.float().square()
                        parameter.grad = None
                if count == samples:
                    break
    finally:
        for parameter, learned in wanted:
            parameter.requires_grad, parameter.grad = learned, None
    if not count:
        raise SideAgentsError("fisher_importance: there is no batch to compute it on")
    return {name: total / count for name, total in totals.items()}


@torch.no_grad()
def prune_into(twin: Twin, tower: nn.Module, importance: Importance, memory: Tensor | None = None) -> Tensor:
    """Copy a tower's most important weights into its twin; return the coordinates of the stream that were kept.

    importance: of the tower's parameters, by their names in it. memory: what was kept of the encoder's stream, which
    cross-attention reads. Gates, down- and up-projections stay as they are, as in the paper.
    """
    stack = twin.stack
    rungs = [part for part in twin.modules() if isinstance(part, Rung)]
    stream = _copy_layers(tower, stack, twin.kept, [rung.layer for rung in rungs], importance, twin.width, memory)
    for part in twin.modules():
        if isinstance(part, Slice):  # the side's coordinates are the backbone's own
            part.index.copy_(stream)
    narrow_parts = dict(twin.tower.named_parameters())
    for name, parameter in tower.named_parameters():
        if not name.startswith((f"{stack.layers}.", f"{stack.embeddings}.")) and name in narrow_parts:
            _copy_stream(parameter, narrow_parts[name], stream)
    return stream


@torch.no_grad()
def pruned(model: Any, reduction: int, layers: Sequence[int] | None = None) -> tuple[nn.Module, int, int]:
    """Return a tower of its own with a model's (first) tower's weights of largest magnitude; its width, the model's.

    Widths are divided by `reduction`; `layers` are the numbers of those that are kept, all by default; embeddings give
    up the same coordinates, where they are as wide as the stream; others stay as they are, and their projection to the
    stream gives coordinates up. Raises `SideAgentsError`.
    """
    family = family_of(model)
    stack = family.stacks[0]
    tower: Any = getattr(model, "base_model", model).get_submodule(stack.path)
    count = len(stack.layers_of(tower))
    kept = checked_layers(range(count) if layers is None else layers, count, "layers")
    narrow = family.narrow(tower.config, stack, reduction, kept)
    width, wide = int(getattr(narrow, family.width)), int(getattr(tower.config, family.width))
    apart = [key for key in family.as_wide if getattr(tower.config, key) != wide]
    for key in (*family.fixed, *apart):
        setattr(narrow, key, getattr(tower.config, key))
    side = type(tower)(narrow, **({"add_pooling_layer": False} if hasattr(tower, "pooler") else {}))
    if hasattr(tower, "embeddings_project"):  # left out of a side that is just as wide as the embeddings
        side.embeddings_project = nn.Linear(tower.embeddings_project.in_features, width)
    stream = _copy_layers(tower, stack, kept, list(stack.layers_of(side)), magnitude(tower), width)
    sources = dict(tower.named_parameters())
    for name, parameter in side.named_parameters():
        if not name.startswith(f"{stack.layers}."):
            _copy_stream(sources[name], parameter, stream)
    return side, width, wide


def _copy_stream(source: Tensor, target: Tensor, stream: Tensor) -> None:
    """Copy what lies beside the layers: norms, tables, convolutions; dimensions that shrank are of the stream."""
    for place, size in enumerate(target.shape):
        if size != source.shape[place]:
            source = source.index_select(place, stream.to(source.device))
    target.copy_(source)


def _copy_layers(
    tower: nn.Module,
    stack: Stack,
    kept: Sequence[int],
    narrow: Sequence[nn.Module],
    importance: Importance,
    width: int,
    memory: Tensor | None = None,
) -> Tensor:
    """Copy the most important weights of a tower's kept layers into narrow ones; return the stream's coordinates."""
    wide_layers = stack.layers_of(tower)
    layers = [
        _sorted(_Layer(wide_layers[number], layer, f"{stack.layers}.{number}."))
        for number, layer in zip(kept, narrow, strict=True)
    ]
    stream = _stream(layers, importance, width)
    for layer in layers:
        found = _rows_and_columns(layer, importance, stream, memory, tower, stack)
        sets = {f"{name}.": kept for name, kept in found.items()}
        _copy(layer.wide, layer.narrow, sets, stream)
    own, first = (dict(layer.named_parameters()) for layer in (layers[0].wide, wide_layers[0]))
    for name, target in layers[0].narrow.named_parameters():
        if name not in own:  # T5's table of positions, which the first layer has for all
            target.copy_(first[name])
    return stream


def _sorted(layer: _Layer) -> _Layer:
    for name, part in layer.wide.named_modules():
        if not isinstance(part, nn.Linear):
            continue
        if _UP.search(name):
            layer.up.append(name)
        elif _OUT.search(name) or _SCORES.search(name) or _VALUE.search(name):
            owner = name.split(".output.")[0] if ".output." in name else name.rpartition(".")[0]
            layer.attention.setdefault(owner.removesuffix(".self"), []).append(name)
        elif _DOWN.search(name):
            layer.down.append(name)
        else:
            raise SideAgentsError(f"pruning does not know what layer {name!r} does; start the side with init='random'")
    return layer


def _stream(layers: Sequence[_Layer], importance: Importance, width: int) -> Tensor:
    """Return the coordinates of the residual stream that matter most to all that reads and writes it."""
    total = torch.zeros(1)
    for layer in layers:
        for owner, names in layer.attention.items():
            for name in names:
                found = importance[f"{layer.prefix}{name}.weight"].float().cpu()
                if _OUT.search(name):
                    total = total + found.sum(dim=1)
                elif not (owner.endswith(_CROSS) and not _QUERY.search(name)):
                    total = total + found.sum(dim=0)
        for name in layer.up:
            total = total + importance[f"{layer.prefix}{name}.weight"].float().cpu().sum(dim=0)
        for name in layer.down:
            total = total + importance[f"{layer.prefix}{name}.weight"].float().cpu().sum(dim=1)
    return total.topk(width).indices.sort().values


def _rows_and_columns(
    layer: _Layer, importance: Importance, stream: Tensor, memory: Tensor | None, tower: nn.Module, stack: Stack
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return for each linear layer the rows and the columns that are kept."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    narrow = dict(layer.narrow.named_modules())

    def of(name: str) -> Tensor:
        return importance[f"{layer.prefix}{name}.weight"].float().cpu()

    for owner, names in layer.attention.items():
        scores = [name for name in names if _SCORES.search(name)]
        values = [name for name in names if _VALUE.search(name)]
        out = next(name for name in names if _OUT.search(name))
        query = next(name for name in scores if _QUERY.search(name))
        heads = int(getattr(tower.config, stack.heads))
        groups = heads * of(values[0]).shape[0] // of(query).shape[0]  # of keys and values
        size = cast(nn.Linear, narrow[query]).out_features // heads
        rotated = hasattr(tower, "rotary_emb")
        kept_scores = _dimensions(
            [(of(name).sum(1), heads if name == query else groups) for name in scores], size, rotated
        )
        kept_values = _dimensions([(of(values[0]).sum(1), groups), (of(out).sum(0), heads)], size, False)
        read = memory if owner.endswith(_CROSS) and memory is not None else stream
        for name in scores:
            rows = _spread(kept_scores, heads if name == query else groups, of(name).shape[0])
            found[name] = (rows, stream if name == query else read)
        found[values[0]] = (_spread(kept_values, groups, of(values[0]).shape[0]), read)
        found[out] = (stream, _spread(kept_values, heads, of(out).shape[1]))
    inner = sum((of(name).sum(1) for name in layer.up), torch.zeros(1)) + sum(of(n).sum(0) for n in layer.down)
    for name in layer.up:
        kept = inner.topk(cast(nn.Linear, narrow[name]).out_features).indices.sort().values
        found[name] = (kept, stream)
    for name in layer.down:
        kept = inner.topk(cast(nn.Linear, narrow[name]).in_features).indices.sort().values
        found[name] = (stream, kept)
    return found


def _dimensions(found: Sequence[tuple[Tensor, int]], size: int, rotated: bool) -> Tensor:
    """Return (groups, size) dimensions of each group of heads, most important first kept, ascending.

    found: importance of all rows, and how many heads they are of; heads of a group are summed. rotated: dimension i and
    i + half are turned together by the position, and stay together.
    """
    groups = min(count for _, count in found)
    total = sum(rows.view(groups, count // groups, -1).sum(dim=1) for rows, count in found)
    scores = cast(Tensor, total)
    if not rotated:
        return scores.topk(size, dim=1).indices.sort(dim=1).values
    half = scores.shape[1] // 2
    kept = (scores[:, :half] + scores[:, half:]).topk(size // 2, dim=1).indices.sort(dim=1).values
    return torch.cat([kept, kept + half], dim=1)


def _spread(kept: Tensor, heads: int, rows: int) -> Tensor:
    """Return the numbers of rows of all heads, given those in each group of heads."""
    of_heads = kept.repeat_interleave(heads // len(kept), dim=0)
    return (of_heads + torch.arange(heads)[:, None] * (rows // heads)).flatten()


def _copy(wide: nn.Module, narrow: nn.Module, sets: Mapping[str, tuple[Tensor, Tensor]], stream: Tensor) -> None:
    targets = dict(narrow.named_parameters())
    for name, source in wide.named_parameters():
        target, owner = targets[name], name.rpartition(".")[0] + "."
        device = source.device
        if owner in sets:
            rows, columns = (index.to(device) for index in sets[owner])
            target.copy_(source[rows][:, columns] if source.dim() == 2 else source[rows])
        elif source.shape == target.shape:  # such as T5's position bias, one number for each head
            target.copy_(source)
        elif not _HEAD_NORM.search(name):  # which all heads share, and each keeps other dimensions: it starts afresh
            target.copy_(source[stream.to(device)])
