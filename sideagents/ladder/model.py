"""Ladder Side-Tuning (Sung et al. 2022): a side network on a ladder of the frozen backbone's activations."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Self

from sideagents.core.groups import parameter_groups
from sideagents.errors import CheckpointError, SideAgentsError
from sideagents.ladder.backbone import (
    SHOWN,
    blank,
    copied,
    fill_frozen_in,
    fingerprint_of,
    frozen_weights,
    is_quantised,
    leave_frozen_out,
    signed_as,
    task_heads,
)
from sideagents.ladder.design import Block, Design, Down, Fusion, Mix, Orientation, check_choice
from sideagents.ladder.distilling import distil
from sideagents.ladder.families import family_of
from sideagents.ladder.passing import Passing
from sideagents.ladder.pruning import Importance, magnitude, prune_into
from sideagents.ladder.twin import Twin
from sideagents.run.checkpoint import restore_tensors
from sideagents.storage.files import read_json, write_json
from sideagents.storage.tensors import load_tensors, save_tensors

FORMAT = 1
_USERS = "_ladders"  # what a backbone is told of its ladders
_VISUAL = ("visual", "visual_mask")
Init = Literal["random", "magnitude", "fisher", "distilled"]


def _dtype_of(backbone: nn.Module) -> str:
    found = next((p.dtype for p in backbone.parameters() if p.is_floating_point()), None)
    return str(found).removeprefix("torch.")


class LadderModel(Passing):
    """A Hugging Face model whose towers are frozen, and a narrow side network that reads them; see `from_backbone`.

    `forward` takes and returns what the backbone's does. The backbone's towers run without gradient, in eval mode,
    whatever the mode of this module; nothing of them is kept for the backward pass but what goes into the
    down-projections. The head is the backbone's own, frozen, where it is a language model's; where it is a classifier
    (`trains_head`) a copy of it learns in its place.
    """

    def __new__(cls, backbone: nn.Module, design: Design, *_: Any, **__: Any) -> Self:
        """Return an instance of a subclass whose `forward` has the backbone's signature, which `Trainer` reads."""
        if isinstance(backbone, Passing):
            raise SideAgentsError("the backbone is a ladder already: give its own, ladder.backbone, or detach it first")
        family_of(backbone)  # raises for what can have no ladder
        return super().__new__(signed_as(cls, type(backbone), _VISUAL if design.visual else ()))

    def __init__(
        self,
        backbone: nn.Module,
        design: Design,
        kept: Mapping[str, Sequence[int] | None],
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.family, self.design = family_of(backbone), design
        self._key = uuid.uuid4().hex
        self.backbone = backbone
        modules = dict(self._base().named_modules())
        self._stacks = [stack for stack in self.family.stacks if stack.path in modules]
        towers = {stack.name: self._tower(stack) for stack in self._stacks}
        for name in kept:
            if kept[name] is not None and name not in towers:
                has = ", ".join(towers)
                raise SideAgentsError(f"keep_{name}: a {type(backbone).__name__} has no {name}, it has {has}")
        if design.visual and not self.family.sees:
            raise SideAgentsError(f"visual: the side of a {type(backbone).__name__} cannot read images beside words")
        if design.visual and design.block == "adapter" and len(self._stacks) == 1:
            raise SideAgentsError("visual: block='adapter' looks at one place at a time and would not see images")
        twins = {}
        for stack in self._stacks:
            tower = towers[stack.name]
            layers = len(stack.layers_of(tower))
            chosen = kept.get(stack.name)
            numbers = range(layers) if chosen is None else chosen
            twins[stack.name] = Twin(tower, tower.config, self.family, stack, design, numbers)
        self.twins = nn.ModuleDict(twins)
        last = twins[self._stacks[-1].name]
        self.up = nn.Linear(last.width, last.wide)
        self.visual = nn.Linear(design.visual, last.wide) if design.visual else None
        if design.mix == "residual":
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)
        parts = task_heads(backbone, design.train_pooler)
        if any(is_quantised(part) for head in parts.values() for part in head.modules()):
            heads = ", ".join(parts)
            raise SideAgentsError(f"the head that the ladder trains is quantised: load the model with {heads} left out")
        self._heads, self.head = tuple(parts), copied(parts)
        like = next((p for p in self._base().parameters() if p.is_floating_point()), None)
        if like is not None:
            for part in filter(None, (self.twins, self.up, self.visual)):
                part.to(device=like.device, dtype=dtype or like.dtype)
        learning = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
        training = [name for name, part in backbone.named_modules() if part.training]
        backbone.__dict__.setdefault(_USERS, (learning, training, set()))[2].add(self._key)
        backbone.requires_grad_(False)  # not before all that was asked for is known to be possible
        self._hooks = self._listen()
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
        init: Init = "random",
        *,
        importance: Importance | None = None,
        batches: Iterable[Mapping[str, Tensor]] | None = None,
        orientation: Orientation = "paper",
        mix: Mix = "none",
        block: Block = "transformer",
        fusion: Fusion = "gate",
        down: Down = "linear",
        visual: int = 0,
        train_pooler: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Build a side network for a Hugging Face model, which is taken over: its parameters stop requiring gradients.

        reduction: r; the side's widths are the backbone's divided by it, with as many heads. keep_encoder,
        keep_decoder: numbers of the backbone's layers that have a side layer, all by default; a dropped one leaves its
        gate, which the paper counts, and nothing else. init: `magnitude` and `fisher` give the side the backbone's most
        important weights, see `sideagents.ladder.pruning`; `fisher` needs `importance`, from `fisher_importance`;
        `distilled` lets the side learn what the backbone says of `batches`, see `sideagents.ladder.distil`.
        orientation: gates weigh the backbone (`paper`) or the side (`code`). mix: `residual` adds the side's output to
        the backbone's last state and starts at the pretrained model's output; `none` is the paper's, the side's output
        alone. block, fusion: the designs of the paper's Table 4, `transformer` or `adapter` layers, and a `gate` or
        `cross_attention` to what the backbone said. down: `linear` projections, or a `slice` of the backbone's
        coordinates, which has no weights and keeps less. visual: the number of features of image regions, for models
        that take `visual=` beside words (LST, section 4). train_pooler: whether the base model's pooler learns and is
        stored with the side, for checkpoints that have none. dtype: of the side's weights, the backbone's by default.
        Raises `SideAgentsError`; the backbone is then as it was.
        """
        check_choice("init", init, get_args(Init))
        if not (dtype is None or isinstance(dtype, torch.dtype)):
            raise SideAgentsError(f"dtype is one of torch's, such as torch.bfloat16, got {dtype!r}")
        if (init == "fisher") != (importance is not None):
            raise SideAgentsError("init='fisher' needs importance=fisher_importance(model, batches), other ones none")
        if (init == "distilled") != (batches is not None):
            raise SideAgentsError("init='distilled' needs batches=..., inputs of the backbone, other ones none")
        if init in ("magnitude", "fisher") and block == "adapter":
            raise SideAgentsError(f"init={init!r}: the backbone has no block='adapter', take 'random' or 'distilled'")
        design = Design(reduction, orientation, mix, block, fusion, down, visual, train_pooler)
        if init == "distilled" and mix == "residual":
            raise SideAgentsError("init='distilled': mix='residual' starts at the backbone's output as it is")
        made = cls(model, design, {"encoder": keep_encoder, "decoder": keep_decoder}, dtype)
        with made._detached_on_error():
            if init in ("magnitude", "fisher"):
                made._prune(importance)
            if batches is not None:
                distil(made, batches)
        return made

    def _prune(self, importance: Importance | None) -> None:
        """Start the side from the backbone's most important weights, by magnitude or as given."""
        memory: Tensor | None = None
        names = {id(parameter): name for name, parameter in self.backbone.named_parameters()}
        if any(is_quantised(part) for part in self._base().modules()):
            raise SideAgentsError("a quantised backbone has no weights to prune: take init='random' or 'distilled'")
        for stack in self._stacks:
            tower = self._tower(stack)
            found = magnitude(tower)
            if importance is not None:
                own = [(name, names[id(p)], p) for name, p in tower.named_parameters() if id(p) in names]
                for _, name, parameter in own:
                    if name not in importance or importance[name].shape != parameter.shape:
                        raise SideAgentsError(
                            f"importance is of another model, it has no {name!r} of shape {tuple(parameter.shape)}: "
                            "compute it on this one, by fisher_importance(model, batches)"
                        )
                found = {name: importance[full] for name, full, _ in own}
            memory = prune_into(self.twin(stack.name), tower, found, memory)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in SHOWN:
                raise
            return getattr(super().__getattr__("backbone"), name)

    # parts

    @property
    def trains_head(self) -> bool:
        """Whether the head is of the task and learns; a language model's stays as it is."""
        return bool(self._heads)

    def heads(self) -> dict[str, nn.Module]:
        """Return what learns with the side in place of parts of the backbone, by their names."""
        return {name: self.head.get_submodule(name) for name in self._heads}

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what an optimizer should see: the side, its gates and projections, and a task's head."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def parameter_groups(
        self, weight_decay: float = 0.0, *, lr: float | None = None, alpha_lr: float | None = None
    ) -> list[dict[str, Any]]:
        """Return an optimizer's groups of `sideagents.core.groups`: `weights`, `vectors` and `alpha`, the gates.

        `weights` alone decay: gates that do would all be drawn to one half. `alpha_lr` is the gates' rate, by default
        `lr`, which is the optimizer's own where it is None.
        """
        return parameter_groups(self, lr, alpha_lr, weight_decay, decay_vectors=False)

    def gates(self) -> dict[str, Tensor]:
        """Return by tower the weight of the backbone in each kept layer (kept,), in (0, 1); none without gates."""
        found = {name: self.twin(name).gates() for name in self.twins}
        return {name: gates for name, gates in found.items() if gates is not None}

    def summary(self) -> dict[str, Any]:
        """Print and return the weights: `backbone`, `trainable`, `percent` (of the backbone alone), `dropped` layers.

        `percent_of_all` is of backbone and side together, as LST counts with images beside words.

        Weights of quantised layers are counted one by one, however many share a byte. Gates of dropped layers are
        counted, as the paper counts them: one weight each, and all that such a layer has.
        """
        frozen = frozen_weights(self.backbone, [self.backbone.get_submodule(name) for name in self._heads])
        trainable = sum(parameter.numel() for parameter in self.trainable_parameters())
        dropped = sum(twin.layers - len(twin.kept) for twin in map(self.twin, self.twins))
        shares = {"percent": 100 * trainable / frozen, "percent_of_all": 100 * trainable / (frozen + trainable)}
        row = {"backbone": frozen, "trainable": trainable, **shares, "dropped": dropped}
        print(
            f"ladder of {type(self.backbone).__name__}, r = {self.reduction}: {trainable:,} trained weights, "
            f"{row['percent']:.2f} % of the backbone's {frozen:,}; gates of {dropped} dropped layers are among them"
        )
        return row

    # files

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the side to FOLDER/side.safetensors and ladder.json; the backbone is named and not stored."""
        folder = Path(folder)
        if folder.is_file():
            raise SideAgentsError(f"{folder}: is a file; a side is saved to a folder")
        config = self.backbone.config
        about = {
            "format": FORMAT,
            "backbone": str(getattr(config, "name_or_path", "") or type(self.backbone).__name__),
            "fingerprint": fingerprint_of(self.backbone, self.heads()),
            **asdict(self.design),
            "backbone_dtype": _dtype_of(self.backbone),
            "dtype": str(self.up.weight.dtype).removeprefix("torch."),
            "heads": self._counts(),
            "kept": {name: list(self.twin(name).kept) for name in self.twins},
        }
        save_tensors(folder / "side.safetensors", self.state_dict())
        write_json(folder / "ladder.json", about)
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path, model: nn.Module) -> Self:
        """Build the side that `save_pretrained` wrote, on its backbone, which is taken over as by `from_backbone`.

        Raises `CheckpointError` for another backbone and for damaged files; the backbone is then as it was. Nothing in
        files is executed.
        """
        if isinstance(folder, nn.Module):
            raise SideAgentsError("from_pretrained takes the folder first, then the model")
        folder = Path(folder)
        about = read_json(folder / "ladder.json", CheckpointError)
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise CheckpointError(f"{folder / 'ladder.json'}: is no ladder of format {FORMAT}")
        found = fingerprint_of(model, task_heads(model, about.get("train_pooler") is True))
        if about.get("fingerprint") != found:
            given = f"backbone {about.get('backbone')!r} with fingerprint {str(about.get('fingerprint'))[:12]!r}"
            types = about.get("backbone_dtype"), _dtype_of(model)
            other = "" if types[0] in (None, types[1]) else f" and is {types[1]} where that was {types[0]}"
            raise CheckpointError(f"{folder}: was saved for {given}, this one has {found[:12]!r}{other}")
        tensors = load_tensors(folder / "side.safetensors")
        try:
            kept = {str(name): [int(number) for number in numbers] for name, numbers in about["kept"].items()}
            design = Design(**{one.name: about.get(one.name, one.default) for one in fields(Design)})
            dtype = getattr(torch, about["dtype"]) if "dtype" in about else None
            if not (dtype is None or isinstance(dtype, torch.dtype)):
                raise ValueError(f"{about['dtype']!r} is no type of weights")
            made = cls(model, design, kept, dtype)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{folder / 'ladder.json'}: is damaged ({error})") from None
        with made._detached_on_error():
            if about.get("heads", made._counts()) != made._counts():  # no tensor's shape tells
                raise CheckpointError(f"{folder}: was saved for {about['heads']} attention heads, not {made._counts()}")
            restore_tensors(made.state_dict(), tensors, folder / "side.safetensors")
        return made

    def _counts(self) -> dict[str, int]:
        """Return how many attention heads each tower has."""
        return {stack.name: int(getattr(self._tower(stack).config, stack.heads)) for stack in self._stacks}

    @contextmanager
    def _detached_on_error(self) -> Iterator[None]:
        """Give the backbone back where what completes this ladder fails or is interrupted."""
        try:
            yield
        except BaseException:
            self.detach()
            raise

    def detach(self) -> Any:
        """Give the backbone back, without hooks, and after its last ladder with the gradients and modes that it had.

        The ladder can be saved still, and not run. Again, it does nothing.
        """
        if not self._hooks:
            return self.backbone  # it may have another ladder by now
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        learning, training, users = self.backbone.__dict__.get(_USERS, ([], [], {self._key}))
        users.discard(self._key)
        if not users and self.backbone.__dict__.pop(_USERS, None):
            for name, parameter in self.backbone.named_parameters():
                if parameter.is_floating_point():
                    parameter.requires_grad_(name in learning)
                parameter.grad = None
            for name, part in self.backbone.named_modules():
                part.training = name in training
        return self.backbone

    def __reduce__(self) -> tuple[Any, ...]:
        return blank, cast(Any, type(self)).signed, self.__dict__  # the class itself is made as it is needed

    def _replicate_for_data_parallel(self) -> Self:
        """Raise `SideAgentsError`: hooks would run the first device's side for all of them."""
        raise SideAgentsError("nn.DataParallel cannot run a ladder: start one process for each device, by torchrun")

    # modes

    def train(self, mode: bool = True) -> Self:
        """Switch the side's mode; the backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        self.head.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let the side and a trained head learn, or not; the backbone never does."""
        for part in filter(None, (self.twins, self.up, self.visual, self.head)):
            part.requires_grad_(requires_grad)
        return self

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Compute the side's layers again in the backward pass, in place of keeping their activations."""
        for twin in map(self.twin, self.twins):
            twin.tower.activation_checkpointing_enable(activation_checkpointing_kwargs, **options)

    def activation_checkpointing_disable(self) -> None:
        """Keep the side's activations again."""
        for twin in map(self.twin, self.twins):
            twin.tower.activation_checkpointing_disable()

    gradient_checkpointing_enable = activation_checkpointing_enable  # the older names
    gradient_checkpointing_disable = activation_checkpointing_disable
