"""What adapting a network to one data set needs to know."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from sideagents.run.config import NEUTRAL
from sideagents.train.rendered import RenderedConfig


class AdaptConfig(RenderedConfig):
    """A base, a method, a data set of images in classes, and how long to train."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    kind: Literal["adapt"] = "adapt"
    name: str = Field("adapt", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="of the run's folder")
    runs: str = Field("runs", description="folder of all runs")
    seed: int = Field(1, ge=0, description="of everything random: weights, order of images, augmentation")
    threads: int = Field(0, ge=0, description="torch threads; 0 leaves torch's choice")

    data: str = Field("cifar100", description="folder of the data set, as given or below SIDEAGENTS_DATA")
    reader: Literal["cifar", "mosaics", "folder", "decathlon", "taskonomy"] = Field(
        "cifar", description="the layout of the folder"
    )
    domain: str | None = Field(None, description="decathlon: which of its domains; taskonomy: which of its targets")
    size: int = Field(32, ge=8, description="folder and taskonomy: images are resized to size x size pixels")
    first_class: int = Field(0, ge=0, description="the first of the classes that are taken")
    classes: int = Field(0, ge=0, description="how many classes are taken; 0 takes all from the first on")
    per_class: int = Field(0, ge=0, description="training images of each class; 0 takes all")
    held_out: int = Field(0, ge=0, description="training images of each class to judge by in place of the test set")

    base: str = Field("resnet26", description="as in `model.base`")
    base_weights: str | None = Field(None, description="weights file of the base, as given or below SIDEAGENTS_DATA")
    base_options: dict[str, Any] = Field(
        default_factory=dict, description="of the base, such as `input_size: [64, 64]` for larger images"
    )
    method: str = Field("residual_adapters", description="see [adapt.md](adapt.md)")
    options: dict[str, Any] = Field(default_factory=dict, description="of the method")

    cache: str | None = Field(
        None, description="folder for the base's codes, by default the user's cache", json_schema_extra=NEUTRAL
    )
    epochs: int = Field(10, ge=1, description="passes over the training images")
    penalty_warmup: int = Field(0, ge=0, description="epochs at the start without the method's penalty")
    save_base: bool = Field(False, description="keep the trained network as a base, for methods that train all of it")
