"""`adapt`: a frozen network shared by any number of named tasks."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from sideagents.adaptation.choice import Choice
from sideagents.adaptation.method import ADAPTATIONS, Adaptation, copy_into
from sideagents.adaptation.split import as_base
from sideagents.arguments import whole_number
from sideagents.core.alpha import curricula, refuse_unmoved
from sideagents.core.base import FrozenBase
from sideagents.core.counting import weights_of
from sideagents.core.groups import parameter_groups
from sideagents.core.merge import code_groups
from sideagents.errors import CheckpointError, SideAgentsError, first_line, nearest
from sideagents.storage.files import read_json, write_json
from sideagents.storage.tensors import load_tensors, save_tensors
from sideagents.train.memory import activation_bytes, training_peak_bytes
from sideagents.train.readouts import linear_readout

FORMAT = 1
_READOUT = "readout."


class Task(nn.Module):
    """A task's network and readout, over the base as the task's images reach it."""

    def __init__(
        self,
        base: FrozenBase,
        net: nn.Module,
        readout: nn.Module,
        classes: int | None,
        norm_groups: int,
        options: dict[str, Any],
        images: dict[str, Any],
    ) -> None:
        super().__init__()
        self._base = (base,)  # in a tuple: no part of the task
        self.net, self.readout = net, readout
        self.classes, self.norm_groups, self.options, self.images = classes, norm_groups, options, images

    @property
    def base(self) -> FrozenBase:
        """The shared base, with the task's own normalisation and size of images where it has them."""
        return self._base[0]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self.base._apply(fn, recurse)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    @property
    def runs_base(self) -> bool:
        """Whether the frozen base itself is in the network, not a view or a copy of it."""
        return any(module is self.base for module in self.net.modules())

    def forward(self, images: Tensor) -> Tensor:
        """Return the readout of the network's code."""
        return cast(Tensor, self.readout(self.net(images)))


class Adapted(nn.Module):
    """A frozen base, a method, and tasks; made by `adapt`.

    Which task is meant is an argument of every call; `set_task` names the one that is meant when none is given.
    """

    def __init__(self, base: FrozenBase, method: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.base, self.method, self.options = base, method, options
        ADAPTATIONS.check(method, options, complete=False)
        self._tasks = nn.ModuleDict()
        self._chosen = Choice()

    @property
    def adaptation(self) -> Adaptation:
        """The method itself."""
        return ADAPTATIONS.get(self.method)()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks, oldest first."""
        return tuple(name.removeprefix("task_") for name in self._tasks)

    def add_task(
        self,
        name: str,
        classes: int | None = None,
        readout: nn.Module | None = None,
        *,
        images: Mapping[str, Any] | None = None,
        norm_groups: int | None = None,
        **options: Any,
    ) -> Task:
        """Add a task with fresh weights and return it.

        classes: outputs of a linear readout (on the mean over the grid, where codes are maps); readout: a network of
        your own from codes (B, *base.out_shape), which gets them as they are; neither: the code itself. norm_groups: of
        a GroupNorm without weights before the linear readout, 0 = none; by default 8, fewer for narrow codes, for
        `sidetune` and `features`, and none for other methods. images: how the task's images are read, where not as the
        base's: `mean`, `std` (of each channel, in [0, 1]), `input_size` (height, width); those of a named base alone.
        options: of the method, over those of `adapt`. Raises `SideAgentsError` for a name that is
        taken or no word, and for unknown options.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise SideAgentsError(f"a task's name is letters, digits, - and _, got {name!r}")
        if name in self.tasks:
            raise SideAgentsError(f"there is a task {name!r} already (tasks: {', '.join(self.tasks)})")
        if classes is not None and (readout is not None or (whole_number(classes) or 0) < 1):
            raise SideAgentsError(f"task {name!r}: give classes (at least 1) or a readout, got classes={classes!r}")
        classes = whole_number(classes)
        options = self.options | options
        ADAPTATIONS.check(self.method, options)
        reading = _reading(name, images or {})
        base = self.base.seeing(**reading) if reading else self.base
        net = self.adaptation.build(base, **options)
        groups = self._groups(norm_groups) if readout is None and classes is not None else 0
        own = linear_readout(base.out_shape, classes, groups) if readout is None else readout
        task = Task(base, net, own, classes, groups, options, reading)
        self._tasks[f"task_{name}"] = task.to(base.device).train(self.training)
        return task

    def _groups(self, norm_groups: int | None) -> int:
        """Return the groups of the norm before a linear readout, 0 = none."""
        shape = self.base.out_shape
        if norm_groups is None:
            return code_groups(shape[0]) if self.adaptation.norms_code and math.prod(shape) > 1 else 0
        return norm_groups

    def remove_task(self, name: str) -> None:
        """Forget a task."""
        self.task(name)
        del self._tasks[f"task_{name}"]
        self._chosen.forget(name)

    def task(self, name: str | None = None) -> Task:
        """Return a task, by default the one that was set or the only one; raises `SideAgentsError`."""
        known = ", ".join(self.tasks) or "none"
        if name is None:
            name = self._chosen.get() or (self.tasks[0] if len(self.tasks) == 1 else None)
        if name is None:
            raise SideAgentsError(f"which task? give task=NAME or call set_task (tasks: {known})")
        if f"task_{name}" not in self._tasks:
            raise SideAgentsError(f"there is no task {name!r}{nearest(name, self.tasks)} (tasks: {known})")
        return cast(Task, self._tasks[f"task_{name}"])

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Switch the tasks' own weights; the base's stay without gradient."""
        super().requires_grad_(requires_grad)
        shared = (p for part in self.modules() for p in getattr(part, "always_frozen", ()))
        for parameter in (*self.base.parameters(), *shared):
            parameter.requires_grad = False
        return self

    def set_task(self, name: str) -> None:
        """Name the task that is meant when none is given: in this thread, and in those that have set none."""
        self.task(name)
        self._chosen.set(name)

    def forward(self, images: Tensor, task: str | None = None) -> Tensor:
        """Return the task's outputs for images as the base takes them; raises `SideAgentsError` for other images."""
        found, base = self.task(task), self.base
        odd = base.raw and (not images.is_floating_point() or images.dtype == torch.float64)
        if images.dim() != 4 or images.shape[1] != base.channels or odd:
            kind = "float32" if base.raw else "uint8 or float"
            raise SideAgentsError(
                f"{base.name} takes {kind} images (B, {base.channels}, H, W), got {images.dtype} {tuple(images.shape)}"
            )
        try:
            outputs = cast(Tensor, found(images))
        except (RuntimeError, AssertionError, ValueError) as error:
            given, own = tuple(images.shape[-2:]), base.input_size
            if not base.raw or given == own:  # then it is not the size
                raise
            message = f"{base.name} of {own[0]}x{own[1]} images cannot read those of {given[0]}x{given[1]}"
            raise SideAgentsError(f"{message}: {first_line(error)}") from error
        refuse_unmoved(found, outputs, "set_progress(fraction, epochs) before each step")
        return outputs

    def penalty(self, task: str | None = None) -> Tensor:
        """Return what the method adds to the task's loss (TAPS: the price of its own layers)."""
        return self.adaptation.penalty(self.task(task).net)

    def set_progress(self, fraction: float, epochs: float = 0.0, task: str | None = None) -> None:
        """Move a task's curriculum of alpha: `fraction` of its training done in [0, 1], and `epochs`.

        For training loops of your own: without it alpha would stay 1 and the side learn nothing, so that the first
        backward pass raises `SideAgentsError`.
        """
        for alpha in curricula(self.task(task)):
            alpha.set_progress(fraction, epochs)

    def alpha(self, task: str | None = None) -> float | None:
        """Return the weight of the base in a task, how much of it the task has kept; None where the method has none."""
        value = getattr(self.task(task).net, "alpha_value", lambda: math.nan)()
        return None if math.isnan(value) else value

    def trainable_parameters(self, task: str | None = None) -> Iterator[nn.Parameter]:
        """Yield what an optimizer of the task should see."""
        return (parameter for parameter in self.task(task).parameters() if parameter.requires_grad)

    def parameter_groups(
        self, task: str | None = None, lr: float | None = None, weight_decay: float = 0.0
    ) -> list[dict[str, Any]]:
        """Return optimizer groups of a task: biases, norms, alpha and scores do not decay."""
        return parameter_groups(self.task(task), lr, weight_decay=weight_decay, decay_vectors=False)

    # what it costs

    def costs(self, task: str | None = None, batch: int | None = None) -> dict[str, Any]:
        """Return a task's weights (without the readout's) and, for a batch size, the memory of a training step.

        `trainable`: what the optimizer sees; `stored`: what the task's file holds; `active`: what a forward pass of the
        exported network uses; `multiple`: 1 + stored / base; `activation_bytes`: what one training step keeps for its
        backward pass; `peak_bytes`: the most it holds at one time, gradients included, weights not.
        """
        found = self.task(task)
        frozen = weights_of(self.base)
        stored = sum(t.numel() for t in self.adaptation.stored(found.net).values() if t.is_floating_point())
        row: dict[str, Any] = {
            "base": frozen,
            "trainable": weights_of(found.net, trainable_only=True),
            "stored": stored,
            "active": self._active(found),
            "readout": weights_of(found.readout),
            "multiple": 1.0 + stored / max(frozen, 1),
        }
        if batch is not None:
            images = torch.full((batch, self.base.channels, *found.base.input_size), 0.5)
            device = next(found.parameters(), torch.zeros(0)).device
            row["activation_bytes"] = activation_bytes(found, images.to(device))
            row["peak_bytes"] = training_peak_bytes(found, images.to(device))
        return row

    def _active(self, task: Task) -> int:
        hidden = weights_of(self.base) if task.runs_base else 0
        return weights_of(task.net) + hidden - self.adaptation.merged(task.net)

    def summary(self, batch: int = 32) -> dict[str, dict[str, Any]]:
        """Print a table of all tasks' costs and return it; the memory is that of a training step of `batch` images.

        Kept: for the backward pass; peak: the most at one time, gradients included, weights not.
        """
        rows = {name: self.costs(name, batch) | {"alpha": self.alpha(name)} for name in self.tasks}
        frozen = weights_of(self.base)
        own = [self.adaptation.stored(self.task(name).net).values() for name in self.tasks]
        together = {id(tensor): tensor.numel() for tensors in own for tensor in tensors if tensor.is_floating_point()}
        total = 1.0 + sum(together.values()) / max(frozen, 1)  # what tasks share counts once
        print(f"{self.method} on {self.base.name}: {frozen:,} frozen weights, {total:.2f} x with all tasks")
        print(
            f"{'task':20}{'trainable':>14}{'stored':>14}{'active':>14}{'multiple':>10}{'kept':>12}{'peak':>12}{'alpha':>7}"
        )
        for name, row in rows.items():
            sizes = "".join(f"{row[key]:>14,}" for key in ("trainable", "stored", "active"))
            memory = _megabytes(row["activation_bytes"]) + _megabytes(row["peak_bytes"])
            alpha = "-" if row["alpha"] is None else f"{row['alpha']:.3f}"
            print(f"{name:20}{sizes}{row['multiple']:>10.3f}{memory}{alpha:>7}")
        return rows

    # files

    def save_task(self, name: str, folder: str | Path) -> Path:
        """Write a task to FOLDER/task.safetensors and task.json; the base is named by its fingerprint. Return FOLDER.

        Raises `SideAgentsError` when the task was built from options that a file cannot hold.
        """
        folder, task = Path(folder), self.task(name)
        plain = {key: value for key, value in task.options.items() if _is_plain(value)}
        if len(plain) < len(task.options):
            odd = ", ".join(key for key in task.options if key not in plain)
            raise SideAgentsError(f"task {name!r} was built from {odd} given as objects, which a file cannot name")
        tensors = dict(self.adaptation.stored(task.net))
        tensors |= {_READOUT + key: tensor for key, tensor in task.readout.state_dict().items()}
        save_tensors(folder / "task.safetensors", tensors)
        about = {"format": FORMAT, "task": name, "method": self.method, "options": plain, "classes": task.classes}
        about |= {"base": self.base.name, "fingerprint": self.base.fingerprint, "base_dtype": self._dtype_of(task)}
        about |= {"images": task.images, "norm_groups": task.norm_groups}
        write_json(folder / "task.json", about)
        return folder

    def load_task(
        self, folder: str | Path, name: str | None = None, readout: nn.Module | None = None, *, trusted: bool = False
    ) -> Task:
        """Add the task that `save_task` wrote, under its own or another name; `readout` where it had one of its own.

        A file may come from anyone: one whose options name a network to import is refused unless it is `trusted`.
        Raises `CheckpointError` for that, for a task of another method or another base, and for damaged files.
        """
        folder = Path(folder)
        about = read_json(folder / "task.json", CheckpointError)
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise CheckpointError(f"{folder / 'task.json'}: is no task of format {FORMAT}")
        if about.get("method") != self.method:
            raise CheckpointError(f"{folder}: is a task of method {about.get('method')!r}, this is {self.method!r}")
        if about.get("fingerprint") != self.base.fingerprint:
            given = f"base {about.get('base')!r} with fingerprint {str(about.get('fingerprint'))[:12]!r}"
            raise CheckpointError(f"{folder}: was saved for {given}, this one has {self.base.fingerprint[:12]!r}")
        options, classes, images = about.get("options"), about.get("classes"), about.get("images", {})
        groups = about.get("norm_groups", 0)  # absent in files of earlier versions, which had no norm
        numbers = type(groups) is int and type(classes) in (int, type(None))
        if not (isinstance(options, dict) and isinstance(images, dict) and numbers):
            wrong = "options, images, norm_groups and classes are of other types"
            raise CheckpointError(f"{folder / 'task.json'}: is damaged: {wrong}")
        foreign = self.adaptation.foreign_code(options)
        if foreign and not trusted:
            named = f"{foreign}={options[foreign]!r}"
            raise CheckpointError(f"{folder}: names code to import, {named}: if you trust it, give trusted=True")
        tensors = load_tensors(folder / "task.safetensors")
        name = str(about.get("task")) if name is None else name
        task = self.add_task(name, classes, readout, images=images, norm_groups=groups, **options)
        own = {key: tensor for key, tensor in tensors.items() if not key.startswith(_READOUT)}
        rest = {key.removeprefix(_READOUT): t for key, t in tensors.items() if key.startswith(_READOUT)}
        where = str(folder / "task.safetensors")
        try:
            self.adaptation.restore(task.net, own, where)
            copy_into(task.readout.state_dict(), rest, f"{where}: readout")
            self._require_dtype(about.get("base_dtype"), task, folder)
            self.adaptation.share(task.net, (self.task(other).net for other in self.tasks if other != name))
        except BaseException:
            self.remove_task(name)
            raise
        return task

    def _dtype_of(self, task: Task) -> str | None:
        """Return the type that a task's frozen base computes in, where it is another one than its weights'."""
        dtype = self.base.dtype if task.runs_base else None
        return None if dtype is None else str(dtype).removeprefix("torch.")

    def _require_dtype(self, saved: str | None, task: Task, folder: Path) -> None:
        if (own := self._dtype_of(task)) != saved:
            raise CheckpointError(
                f"{folder}: was trained beside a base that computes in {saved or 'float32'}, this one computes in "
                f"{own or 'float32'}: load_base(..., dtype={saved!r})"
            )

    def export(self, name: str | None = None) -> nn.Module:
        """Return a plain network of a task, a copy without this package's layers; raises where the maths forbids it.

        Of a base with a normalisation of its own (a named one) it takes float images in [0, 1] at the task's size.
        """
        task = self.task(name)
        return nn.Sequential(self.adaptation.export(task.net, task.base), copy.deepcopy(task.readout)).eval()


def adapt(
    model: nn.Module | str,
    method: str = "sidetune",
    *,
    input_size: tuple[int, int] | None = None,
    classifier: str | None = None,
    **options: Any,
) -> Adapted:
    """Turn a network into a frozen base that any number of tasks are added to.

    model: an nn.Module (timm's and torchvision's networks, your own), a `FrozenBase`, or a name for `load_base`. A
    module reads its inputs as ever; its parameters are shared and stop requiring gradients. method: `sidetune`,
    `features`, `finetune`, `scratch`, `taps`, `residual_adapters`, `lora`, `ia3` or a registered one; options: its own.
    input_size, classifier: see `as_base`. Raises `SideAgentsError`.
    """
    return Adapted(as_base(model, input_size, classifier), method, options)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:>9.1f} MB"


def _reading(name: str, images: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a task's images are read; raises `SideAgentsError` for unknown keys and what are no numbers."""
    kinds = {"mean": (int, float), "std": (int, float), "input_size": (int,)}
    found = {}
    for key, values in images.items():
        if key not in kinds:
            raise SideAgentsError(
                f"task {name!r}: images has no key {key!r}{nearest(key, kinds)} (known: {', '.join(kinds)})"
            )
        if not isinstance(values, list | tuple) or not values or any(type(v) not in kinds[key] for v in values):
            raise SideAgentsError(f"task {name!r}: images: {key} is a list of numbers, got {values!r}")
        found[key] = tuple(values)
    if "input_size" in found and (len(found["input_size"]) != 2 or min(found["input_size"]) < 1):
        raise SideAgentsError(f"task {name!r}: images: input_size is (height, width), got {found['input_size']}")
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, str | int | float)
