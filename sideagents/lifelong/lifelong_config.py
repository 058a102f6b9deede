"""What a run over a sequence of tasks needs to know."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from sideagents.config.settings import NAME, RunConfig
from sideagents.config.typed import NEUTRAL
from sideagents.data.targets import SEQUENCE, TARGETS
from sideagents.errors import nearest
from sideagents.train.rendered import RenderedConfig
from sideagents.train.student import StudentConfig

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

Strength = Annotated[float, Field(ge=0.0, le=1e12, allow_inf_nan=False)]
Gamma = Annotated[float, Field(ge=0.0, le=1.0)]
Fisher = Literal["exact", "empirical", "batched"]
Samples = Annotated[int, Field(ge=1, le=10**9)]


class EWCConfig(BaseModel):
    """Elastic weight consolidation; see `sideagents.lifelong.ewc`."""

    model_config = _STRICT

    strength: Strength = Field(1e3, description="lambda of lambda / 2 times the penalty")
    mode: Literal["separate", "online"] = Field(
        "separate", description="one penalty for each earlier task, or one for all"
    )
    gamma: Gamma = Field(1.0, description="online: how much of the older information is kept")
    fisher: Fisher = Field("exact", description="see `sideagents.lifelong.fisher`")
    samples: Samples = Field(200, description="images of each task that the Fisher information is computed on")

    @model_validator(mode="after")
    def _gamma_of_online(self) -> Self:
        if self.mode == "separate" and self.gamma != 1.0:
            raise ValueError("gamma fades older tasks of mode 'online'; with 'separate' it must stay 1.0")
        return self


class PSPConfig(BaseModel):
    """Parameter superposition; see `sideagents.lifelong.psp`."""

    model_config = _STRICT

    kind: Literal["binary", "complex", "rotation"] = Field("binary", description="of the keys")
    skip_first: bool = Field(True, description="the first convolution has no key, as in the side-tuning authors' code")


class PNNConfig(BaseModel):
    """Progressive networks; see `sideagents.lifelong.pnn`."""

    model_config = _STRICT

    dense: bool = Field(False, description="laterals from all earlier columns, not from the base alone")
    stem: bool = Field(True, description="the first layer has a lateral from the base's stem")


class LifelongConfig(RunConfig, RenderedConfig):
    """A sequence of tasks, a method, and how each task is trained."""

    model_config = _STRICT

    kind: Literal["lifelong"] = Field("lifelong", description="what the file is for")
    name: str = Field("lifelong", pattern=NAME, description="of the run's folder")
    seed: int = Field(
        1, ge=0, le=2**32 - 1, description="of everything random; each task draws from it and its number alone"
    )

    data: str = Field(
        "cifar100",
        description="folder of the data, as given or below SIDEAGENTS_DATA: CIFAR-100, CIFAR-10, or Taskonomy's",
    )
    reader: Literal["cifar", "taskonomy"] = Field(
        "cifar", description="tasks are classes, or targets of images", json_schema_extra=NEUTRAL
    )
    tasks: int = Field(10, ge=1, le=10**4, description="cifar: the classes, in their order, are cut into so many tasks")
    targets: tuple[str, ...] = Field(
        (), description="taskonomy: the tasks; empty: the paper's sequence of twelve", json_schema_extra=NEUTRAL
    )
    order: tuple[int, ...] = Field((), description="numbers of tasks, counted from 0, in their order; empty: all")
    held_out: int = Field(
        0, ge=0, le=10**9, description="cifar: training images of each class to evaluate on in place of the test set"
    )
    size: int = Field(
        64,
        ge=16,
        le=4096,
        multiple_of=8,
        description="taskonomy: images are resized to size x size pixels",
        json_schema_extra=NEUTRAL,
    )

    base: str = Field("cifar:resnet44", description="as in `model.base`, one whose codes are vectors")
    base_weights: str | None = Field(None, description="weights file of the base, as given or below SIDEAGENTS_DATA")
    method: str = Field("sidetune", description="sidetune, features, finetune, independent, ewc, psp or pnn")
    options: dict[str, Any] = Field(
        {},
        description="of the method; those of ewc, psp and pnn may stand in sections of that name, below",
        json_schema_extra=NEUTRAL,
    )
    side: str = Field("fcn4", description="as in `model.side`")
    side_init: str = Field(
        "default", description="default, copy, random, low_energy, distilled, or a .safetensors file"
    )
    side_options: dict[str, Any] = Field(default_factory=dict, description="of the side's constructor")
    merge: str = Field("alpha", description="as in `model.merge`")
    alpha: str | float = Field("learned", description="as in `model.alpha`")
    norm_groups: int = Field(8, ge=0, le=65_536, description="GroupNorm between merge and readout; 0 leaves it out")

    steps: int = Field(157, ge=1, le=10**9, description="optimizer steps for each task")
    views: int = Field(
        0,
        ge=0,
        le=10**4,
        description="augmented copies of each training image, made once, with the base's codes cached; 0: augment in "
        "each step anew, and run the base",
        json_schema_extra=NEUTRAL,
    )
    cache: str | None = Field(None, description="folder for the base's codes, by default the user's cache")

    distil: StudentConfig = Field(StudentConfig(), json_schema_extra=NEUTRAL)
    ewc: EWCConfig = EWCConfig()
    psp: PSPConfig = PSPConfig()
    pnn: PNNConfig = PNNConfig()

    @property
    def _section(self) -> BaseModel | None:
        """The section of the method that is chosen, where it has one: it is older than `options`."""
        return {"ewc": self.ewc, "psp": self.psp, "pnn": self.pnn}.get(self.method)

    @property
    def method_options(self) -> dict[str, Any]:
        """The options of the method, those of its section included."""
        section = self._section
        return ({} if section is None else section.model_dump()) | self.options

    @property
    def count(self) -> int:
        """How many tasks there are."""
        return len(self.order_of_targets) if self.reader == "taskonomy" else self.tasks

    @property
    def order_of_targets(self) -> tuple[str, ...]:
        """The targets of Taskonomy's images, by number."""
        return self.targets or SEQUENCE

    @model_validator(mode="after")
    def _tasks_in_order(self) -> Self:
        if len(set(self.order)) < len(self.order) or not set(self.order) <= set(range(self.count)):
            raise ValueError(f"order must name tasks from 0 to {self.count - 1}, each at most once")
        for target in self.targets:
            if target not in TARGETS:
                raise ValueError(f"targets: unknown task {target!r}{nearest(target, TARGETS)}")
        if len(set(self.targets)) < len(self.targets):
            raise ValueError("targets must name each task once")
        return self

    @model_validator(mode="after")
    def _views_of_what(self) -> Self:
        if self.views and (self.reader == "taskonomy" or self.augment == "none"):
            raise ValueError("views are augmented copies of images with classes: give augment, reader must be cifar")
        return self

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        for key, value in {} if self._section is None else self._section.model_dump(exclude_defaults=True).items():
            if self.options.get(key, value) != value:
                raise ValueError(f"options.{key} and {self.method}.{key} differ: give one of them")
        return self

    @model_validator(mode="after")
    def _fisher_of_classes(self) -> Self:
        exact = self.method == "ewc" and self.method_options["fisher"] == "exact"
        if exact and self.reader == "taskonomy":
            raise ValueError("ewc.fisher: exact is over classes; for targets of images give empirical or batched")
        return self
