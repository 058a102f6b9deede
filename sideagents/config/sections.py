"""The classes of a configuration: their keys, the sections among them, and the marks that keys carry."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

KeyPath = tuple[str | int, ...]


def marks_of(owner: type[Any]) -> dict[str, tuple[Mapping[str, Any], Any]]:
    """Return the marks and the default of each key of a model or dataclass."""
    found: dict[str, tuple[Any, Any]] = {}
    if issubclass(owner, BaseModel):
        found = {name: (field.json_schema_extra, field.default) for name, field in owner.model_fields.items()}
    elif dataclasses.is_dataclass(owner):
        found = {part.name: (part.metadata, part.default) for part in dataclasses.fields(owner)}
    return {name: (mark if isinstance(mark, Mapping) else {}, default) for name, (mark, default) in found.items()}


def _annotations(owner: type[Any] | None) -> dict[str, Any]:
    if owner is None:
        return {}
    if issubclass(owner, BaseModel):
        return {name: field.annotation for name, field in owner.model_fields.items()}
    hints = typing.get_type_hints(owner)
    return {field.name: hints[field.name] for field in dataclasses.fields(owner) if field.init}


def fields_of(owner: type[Any] | None) -> dict[str, type[Any] | None]:
    """Return `{field name: class of the section, or None for a value}` of a model or dataclass."""
    return {name: _section_class(annotation) for name, annotation in _annotations(owner).items()}


def _section_class(annotation: Any) -> type[Any] | None:
    """Return the first model or dataclass in an annotation (`X`, `X | None`, `list[X]`), or None."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        is_section = issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
        return annotation if is_section else None
    for argument in typing.get_args(annotation):
        found = _section_class(argument)
        if found is not None:
            return found
    return None


def section_at(model_cls: type[Any], where: KeyPath) -> type[Any] | None:
    """Return the class of the section that a path of keys leads to; None for that of a value."""
    owner: type[Any] | None = model_cls
    for part in where:
        if not isinstance(part, int):
            owner = fields_of(owner).get(part)
    return owner


def is_open_mapping(model_cls: type[Any], where: KeyPath) -> bool:
    """Say whether the field at `where` is a free mapping, whose keys are the user's own."""
    annotation = _annotations(section_at(model_cls, where[:-1])).get(str(where[-1]))
    return any(typing.get_origin(part) is dict or part is dict for part in (annotation, *typing.get_args(annotation)))
