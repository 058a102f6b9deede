"""What adapting a network to one data set needs to know."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from sideagents.config.settings import NAME, RunConfig
from sideagents.config.typed import NEUTRAL
from sideagents.data.decathlon import DOMAINS
from sideagents.data.targets import TARGETS
from sideagents.errors import ConfigError, nearest
from sideagents.train.rendered import RenderedConfig
from sideagents.train.student import StudentConfig

ConfigT = TypeVar("ConfigT", bound="AdaptConfig")


class AdaptConfig(RunConfig, RenderedConfig):
    """A base, a method, a data set of images in classes, and how long to train."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    kind: Literal["adapt"] = Field("adapt", description="what the file is for")
    name: str = Field("adapt", pattern=NAME, description="of the run's folder")

    data: str = Field("cifar100", description="folder of the data set, as given or below SIDEAGENTS_DATA")
    reader: Literal["cifar", "mosaics", "folder", "decathlon", "taskonomy"] = Field(
        "cifar", description="the layout of the folder"
    )
    domain: str | None = Field(None, description="decathlon: which of its domains; taskonomy: which of its targets")
    by_domain: dict[str, dict[str, Any]] = Field(
        {},
        description="values of other keys for single domains, by their names, where a key is not given itself",
        json_schema_extra=NEUTRAL,
    )
    seen_as: Literal["base", "domain"] = Field(
        "base",
        description="decathlon: images are normalised and sized as the base was trained, or as their domain's own",
        json_schema_extra=NEUTRAL,
    )
    size: int = Field(32, ge=8, le=4096, description="folder and taskonomy: images are resized to size x size pixels")
    first_class: int = Field(0, ge=0, le=10**6, description="the first of the classes that are taken")
    classes: int = Field(0, ge=0, le=10**6, description="how many classes are taken; 0 takes all from the first on")
    per_class: int = Field(0, ge=0, le=10**9, description="training images of each class; 0 takes all")
    held_out: int = Field(
        0, ge=0, le=10**9, description="training images of each class to test on in place of the test set"
    )

    base: str = Field("resnet26", description="as in `model.base`")
    base_weights: str | None = Field(None, description="weights file of the base, as given or below SIDEAGENTS_DATA")
    stack_on: str | None = Field(
        None,
        description="boosting: folder of a side-tuned run, whose network, frozen, is the base in place of `base`",
        json_schema_extra=NEUTRAL,
    )
    base_options: dict[str, Any] = Field(
        default_factory=dict, description="of the base, such as `input_size: [64, 64]` for larger images"
    )
    method: str = Field("residual_adapters", description="see [adapt.md](adapt.md)")
    options: dict[str, Any] = Field(default_factory=dict, description="of the method")
    norm_groups: int | None = Field(
        None,
        ge=0,
        le=65_536,
        description="GroupNorm between code and readout, 0 = none; null: of `sidetune` and `features` as in the paper",
        json_schema_extra=NEUTRAL,
    )

    distil: StudentConfig = Field(StudentConfig(), json_schema_extra=NEUTRAL)

    cache: str | None = Field(
        None, description="folder for the base's codes, by default the user's cache", json_schema_extra=NEUTRAL
    )
    epochs: int = Field(10, ge=1, le=10**6, description="passes over the training images")
    penalty_warmup: int = Field(0, ge=0, le=10**6, description="epochs at the start without the method's penalty")
    save_base: bool = Field(False, description="keep the trained network as a base, for methods that train all of it")


_OF_ALL = ("kind", "reader", "domain", "by_domain")  # keys that cannot differ by domain


def for_domain(config: ConfigT) -> ConfigT:
    """Return the configuration with what `by_domain` says of its domain in place, and `by_domain` empty.

    A key that is given itself is kept; mappings are merged. Raises `ConfigError` for unknown domains, keys and values.
    """
    if not config.by_domain:
        return config
    known = tuple(DOMAINS if config.reader == "decathlon" else TARGETS if config.reader == "taskonomy" else ())
    for domain, changes in config.by_domain.items():
        if domain not in known:
            raise ConfigError(f"by_domain: reader {config.reader} has no domain {domain!r}{nearest(domain, known)}")
        for key in changes:
            if key not in type(config).model_fields or key in _OF_ALL:
                close = nearest(key, type(config).model_fields)
                raise ConfigError(f"by_domain.{domain}: {key!r} is no key that can differ by domain{close}")
    own = config.by_domain.get(str(config.domain), {})
    values, given = config.model_dump(), config.model_dump(exclude_unset=True)
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(values[key], dict):
            values[key] = values[key] | value | given.get(key, {})
        elif key not in config.model_fields_set:
            values[key] = value
    try:
        return type(config).model_validate(values | {"by_domain": {}})
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, ("by_domain", config.domain, *fault["loc"])))
        raise ConfigError(f"{where}: {fault['msg']}, got {fault['input']!r}") from None
