"""Checkpoints: a folder of safetensors and JSON, whole or absent, that can be wrong but never runs code.

step_000012288/
    model.safetensors       the trained tensors (never the frozen base: it is named by its fingerprint)
    optimizer.safetensors   the optimizer's moments, when there is one
    state.safetensors       arrays of the state (random generators, environments, ...)
    state.json              the rest of the state
    meta.json               format, step, version, hash of the config, name and fingerprint of the base, score
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sideagents.errors import CheckpointError, DivergedError, SideAgentsError
from sideagents.storage.files import fsync_folder, missing_message, read_json, write_json
from sideagents.storage.packing import pack_state, unpack_state
from sideagents.storage.tensors import load_tensors, not_finite, save_tensors

__all__ = [
    "Checkpoint",
    "best_checkpoint",
    "check_finite",
    "check_tensors",
    "flatten_optimizer",
    "list_checkpoints",
    "load_checkpoint",
    "load_tensors",
    "pack_state",
    "restore_optimizer",
    "restore_tensors",
    "restoring",
    "save_checkpoint",
    "save_tensors",
    "step_of",
    "unpack_state",
]

FORMAT = 1
_TEMPORARY = ".tmp_"
_REPLACED = ".replaced_"
_NAME = re.compile(rf"(?:{re.escape(_REPLACED)})?step_(\d{{9,}})")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint; `optimizer` is what `restore_optimizer` takes, `state` the tree that was saved."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    state: Any
    optimizer: tuple[dict[str, Tensor], Any] | None = None
    config_hash: str = ""
    base: str = ""
    fingerprint: str = ""
    version: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    score: tuple[float, ...] | None = None


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Any = None,
    *,
    optimizer: Optimizer | tuple[dict[str, Tensor], Any] | None = None,
    config_hash: str = "",
    base: str = "",
    fingerprint: str = "",
    extra: Mapping[str, Any] | None = None,
    score: Sequence[float] | None = None,
    keep: int = 0,
) -> Path:
    """Write `folder/step_{step:09d}` and return it; afterwards the newest `keep` (0 = all) and the best remain.

    `state` is any tree for `pack_state`, `extra` goes into meta.json (JSON values), and so does `score`: the best
    checkpoint is the one whose numbers are highest, the first counting most. A kill at any moment leaves the
    earlier checkpoints loadable: the folder is written under a temporary name, flushed, and renamed. One writer at a
    time per folder; leftovers of a killed one are removed. Raises `DivergedError`, and writes nothing, where a weight,
    a moment of the optimizer or a tensor of the state is not finite.
    """
    moments, groups = flatten_optimizer(optimizer) if isinstance(optimizer, Optimizer) else optimizer or ({}, None)
    check_finite({**tensors, **moments, **dict(_tensors_in(state, "state"))}, step)
    folder.mkdir(parents=True, exist_ok=True)
    _clean(folder)
    final = folder / f"step_{step:09d}"
    temporary = folder / f"{_TEMPORARY}{final.name}_{uuid.uuid4().hex[:8]}"
    state_json, state_tensors = pack_state(state)
    meta = {"format": FORMAT, "step": step, "sideagents": version("sideagents"), "config_hash": config_hash}
    meta |= {"base": base, "fingerprint": fingerprint, "extra": dict(extra or {})}
    meta |= {} if score is None else {"score": list(map(float, score))}
    temporary.mkdir()
    try:
        save_tensors(temporary / "model.safetensors", tensors)
        save_tensors(temporary / "state.safetensors", state_tensors)
        contents = {"state": state_json}
        if optimizer is not None:
            save_tensors(temporary / "optimizer.safetensors", moments)
            contents["optimizer"] = groups
        write_json(temporary / "state.json", contents)
        write_json(temporary / "meta.json", meta)
        _replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if keep > 0:
        _prune(folder, keep)
    return final


def load_checkpoint(
    path: Path, *, expect: Mapping[str, Tensor] | None = None, fingerprint: str | None = None
) -> Checkpoint:
    """Read a checkpoint folder.

    With `expect`, names, shapes and dtypes of the trained tensors must be these; with `fingerprint`, the base must be
    that one. Raises `CheckpointError` with one line for anything that does not fit; no content is ever executed.
    """
    if path.is_file():
        raise CheckpointError(f"{path}: is a file; a checkpoint is a folder step_... with model.safetensors in it")
    if not path.is_dir():
        raise CheckpointError(missing_message(path).replace("no such file", "no such checkpoint"))
    meta = read_json(path / "meta.json", CheckpointError)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT or not isinstance(meta.get("step"), int):
        found = meta.get("format") if isinstance(meta, dict) else None
        raise CheckpointError(f"{path / 'meta.json'}: format {found!r} is not the format {FORMAT} of this version")
    contents = read_json(path / "state.json", CheckpointError)
    if not isinstance(contents, dict) or "state" not in contents:
        raise CheckpointError(f"{path / 'state.json'}: holds no state")
    texts = {key: str(meta.get(key, "")) for key in ("config_hash", "base", "fingerprint")}
    if fingerprint is not None and texts["fingerprint"] != fingerprint:
        named = f"base {texts['base']!r} with fingerprint {texts['fingerprint'][:12]!r}"
        raise CheckpointError(f"{path}: was trained on {named}, the base given has {fingerprint[:12]!r}")
    tensors = load_tensors(path / "model.safetensors")
    if expect is not None:
        check_tensors(tensors, expect, path / "model.safetensors")
    optimizer = None
    if "optimizer" in contents:
        optimizer = (load_tensors(path / "optimizer.safetensors"), contents["optimizer"])
    try:
        state = unpack_state(contents["state"], load_tensors(path / "state.safetensors"))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    extra = meta.get("extra")
    return Checkpoint(
        path, meta["step"], tensors, state, optimizer, **texts,
        version=str(meta.get("sideagents", "")), extra=extra if isinstance(extra, dict) else {}, score=_score(meta),
    )  # fmt: skip


@contextmanager
def restoring(checkpoint: Checkpoint, *others: type[Exception]) -> Iterator[None]:
    """Turn what a damaged state breaks within the block into a `CheckpointError`; `others` are raised as they are."""
    as_they_are: tuple[type[Exception], ...] = (SideAgentsError, *others)
    try:
        yield
    except CheckpointError as error:
        if str(checkpoint.path) in str(error):
            raise
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    except as_they_are:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CheckpointError(f"{checkpoint.path}: its state is damaged ({what})") from error


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints in `folder`, oldest step first; half-written ones are left out."""
    if not folder.is_dir():
        return []
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir(), reverse=True):  # "step_..." after ".replaced_step_...", so it comes first
        match = _NAME.fullmatch(path.name)
        if match and (path / "meta.json").is_file():
            found.setdefault(int(match[1]), path)
    return [found[step] for step in sorted(found)]


def best_checkpoint(folder: Path) -> Path | None:
    """Return the whole checkpoint in `folder` with the highest score, of equal ones the newest; None without scores."""
    scored = [
        (score, path)
        for path in list_checkpoints(folder)
        if (score := _score(read_json(path / "meta.json", CheckpointError))) is not None
    ]
    return max(reversed(scored), key=lambda entry: entry[0])[1] if scored else None


def _score(meta: Any) -> tuple[float, ...] | None:
    found = meta.get("score") if isinstance(meta, dict) else None
    if not isinstance(found, list) or not found or not all(isinstance(number, int | float) for number in found):
        return None
    return tuple(map(float, found))


def step_of(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint folder; raises `CheckpointError` for another name."""
    match = _NAME.fullmatch(checkpoint.name)
    if not match:
        raise CheckpointError(f"{checkpoint}: is no checkpoint (its name must be step_ and at least nine digits)")
    return int(match[1])


# tensors


def check_finite(tensors: Mapping[str, Tensor], step: int) -> None:
    """Raise `DivergedError` with one line where a tensor holds nan or infinity, at a step of training."""
    if bad := not_finite(tensors):
        raise DivergedError(
            f"training has diverged, at step {step} there is nan or infinity in {_some(bad)}: lower the learning rate"
        )


def _tensors_in(tree: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the torch tensors of a state with their places; its arrays may hold nan, as a score that is not known."""
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, entry in tree.items():
            yield from _tensors_in(entry, f"{path}/{key}")
    elif isinstance(tree, list | tuple):
        for index, entry in enumerate(tree):
            yield from _tensors_in(entry, f"{path}/{index}")


def check_tensors(found: Mapping[str, Tensor], expect: Mapping[str, Tensor], where: Path | str) -> None:
    """Raise `CheckpointError` with one line unless names, shapes and dtypes are those expected."""
    missing = [name for name in expect if name not in found]
    surplus = [name for name in found if name not in expect]
    if missing or surplus:
        parts = [f"{label} {_some(names)}" for label, names in (("lacks", missing), ("has besides", surplus)) if names]
        raise CheckpointError(f"{where}: belongs to another model: it {' and '.join(parts)}")
    for name, tensor in expect.items():
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            has, needs = _describe(found[name]), _describe(tensor)
            raise CheckpointError(f"{where}: tensor {name!r} is {has}, the model needs {needs}")


def restore_tensors(target: Mapping[str, Tensor], source: Mapping[str, Tensor], where: Path | str) -> None:
    """Copy `source` into the tensors of `target` in place, after `check_tensors`."""
    check_tensors(source, target, where)
    for name, tensor in target.items():
        tensor.detach().copy_(source[name])


# optimizers


def flatten_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], Any]:
    """Return `(tensors, json)` of an optimizer's state: Adam, AdamW, AMSGrad, SGD and their like."""
    saved = optimizer.state_dict()
    by_index = {str(index): entries for index, entries in saved["state"].items()}
    json_tree, tensors = pack_state({"state": by_index, "param_groups": saved["param_groups"]})
    return tensors, json_tree


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], json_tree: Any) -> None:
    """Put back what `flatten_optimizer` took; raises `CheckpointError` when groups or shapes are other ones."""
    saved = unpack_state(json_tree, tensors)
    try:
        state = {int(index): entries for index, entries in saved["state"].items()}
        groups = saved["param_groups"]
        counts = [len(group["params"]) for group in groups]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the optimizer's state is damaged ({type(error).__name__}: {error})") from None
    here = [len(group["params"]) for group in optimizer.param_groups]
    if counts != here:
        raise CheckpointError(f"the optimizer has groups of {here} tensors, the checkpoint groups of {counts}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entries in state.items():
        shape = parameters[index].shape if index < len(parameters) else None
        for name, entry in entries.items():
            if not isinstance(entry, Tensor) or entry.dim() == 0:
                continue
            if entry.shape != shape:
                raise CheckpointError(f"the optimizer's {name} of tensor {index} is {_describe(entry)}, not {shape}")
            # in the parameter's own order of memory, which fused optimizers rely on
            entries[name] = torch.empty_like(parameters[index], dtype=entry.dtype).copy_(entry)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


# the folder


def _replace_folder(new: Path, final: Path) -> None:
    """Rename `new` to `final`; an earlier folder of that name stays readable under another name until it is done."""
    fsync_folder(new)
    replaced = final.with_name(_REPLACED + final.name)
    if final.exists():
        os.replace(final, replaced)
    os.replace(new, final)
    fsync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _clean(folder: Path) -> None:
    """Remove what a killed writer left; a folder that was being replaced gets its name back."""
    for path in folder.iterdir():
        if path.name.startswith(_TEMPORARY):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(_REPLACED):
            final = path.with_name(path.name.removeprefix(_REPLACED))
            if final.exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.replace(path, final)


def _prune(folder: Path, keep: int) -> None:
    best = best_checkpoint(folder)
    for path in list_checkpoints(folder)[:-keep]:
        if path == best:
            continue
        # Renamed first, so that a kill in the middle of the removal leaves no half checkpoint behind.
        doomed = path.with_name(f"{_TEMPORARY}{path.name}_{uuid.uuid4().hex[:8]}")
        os.replace(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
