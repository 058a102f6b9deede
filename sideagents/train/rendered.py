"""Targets of Taskonomy's images, rendered ones or its own, as data of a supervised run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pydantic import ConfigDict, Field

from sideagents.config.typed import NEUTRAL
from sideagents.data.image_set import ImageSet
from sideagents.data.taskonomy_folder import read_parts
from sideagents.errors import ConfigError
from sideagents.storage.files import find_data
from sideagents.train.supervised import SupervisedConfig


class RenderedConfig(SupervisedConfig):
    """How examples are learned, and which of the images when they are Taskonomy's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    held_out_data: str | None = Field(
        None,
        description="taskonomy: folder with the buildings to test on; else every tenth building is held out",
        json_schema_extra=NEUTRAL,
    )
    images: int = Field(
        0,
        ge=0,
        le=10**9,
        description="taskonomy: training images at most, spread evenly; 0 = all",
        json_schema_extra=NEUTRAL,
    )
    held_out_images: int = Field(
        0, ge=0, le=10**9, description="taskonomy: images to test on at most; 0 = all", json_schema_extra=NEUTRAL
    )


def require_fitting(config: RenderedConfig, rendered: bool, of_classes: Collection[str], maps: bool) -> None:
    """Raise `ConfigError` for keys that the reader would ignore, and for maps that would have to be cropped.

    rendered: whether images are Taskonomy's; of_classes: names of keys that only other readers have, `maps`: whether a
    target is a map.
    """
    of_images = set(RenderedConfig.model_fields) - set(SupervisedConfig.model_fields)
    for key in sorted(of_classes if rendered else of_images):
        if getattr(config, key) != type(config).model_fields[key].default:
            reader = "classes" if rendered else "Taskonomy's images"
            raise ConfigError(f"{key} is for readers of {reader} and would be ignored here: leave it out")
    if maps and config.augment == "flip_crop":
        raise ConfigError("augment: maps are not cropped with their images; give flip or none")


def read_rendered(config: RenderedConfig, root: str, target: str, size: int) -> tuple[ImageSet, ImageSet]:
    """Return the images to learn a target from and those to test on; raises `SideAgentsError`."""
    return read_parts(
        Path(root),
        target,
        held_out=None if config.held_out_data is None else Path(find_data(config.held_out_data)),
        size=size,
        images=config.images,
        held_out_images=config.held_out_images,
    )
