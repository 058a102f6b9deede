"""Options of a method: the keywords of what builds it, read from its signature and checked before it runs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from sideagents.errors import SideAgentsError, nearest


@dataclass(frozen=True)
class Option:
    """A keyword: its type as annotated, and its default, `inspect.Parameter.empty` where it must be given."""

    name: str
    type: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty


def options_of(target: Callable[..., Any], given: Collection[str] = ()) -> dict[str, Option]:
    """Return the options of a method by name, in their order.

    target: a function, or a class, whose options are those of its `build` where it has one, else of its constructor;
    where these hand on `**options`, those of the class above follow. given: parameters that are no options, whoever
    builds the method gives them. Raises `SideAgentsError` for annotations that mean nothing.
    """
    found: dict[str, Option] = {}
    for function in _functions(target):
        try:
            types = get_type_hints(function, include_extras=True)
        except NameError as error:
            name = getattr(target, "__name__", str(target))
            raise SideAgentsError(f"{name}: the types of its options cannot be read ({error})") from None
        parameters = inspect.signature(function).parameters.values()
        for one in parameters:
            if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) or one.name in ("self", *given):
                continue
            found.setdefault(one.name, Option(one.name, types.get(one.name, Any), one.default))
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return found


def _functions(target: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    if not isinstance(target, type):
        yield target
        return
    name = "build" if hasattr(target, "build") else "__init__"
    yield from (vars(owner)[name] for owner in target.__mro__ if owner is not object and name in vars(owner))


def check_options(method: str, known: Mapping[str, Option], options: Mapping[str, Any], complete: bool = True) -> None:
    """Raise `SideAgentsError` for an option that a method does not have, and for a value of another type.

    complete: for one without a default that is not given, too.
    """
    # a tenth of a second, which `import sideagents` need not wait for
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    allowed = ", ".join(known) or "none"
    for key in options:
        if key not in known:
            raise SideAgentsError(f"method {method!r} has no option {key!r}{nearest(key, known)} (allowed: {allowed})")
    for key, option in known.items():
        if complete and option.required and key not in options:
            raise SideAgentsError(f"method {method!r} needs the option {key!r} (allowed: {allowed})")
    any_object = ConfigDict(arbitrary_types_allowed=True)
    for key, value in options.items():
        try:
            TypeAdapter(known[key].type, config=any_object).validate_python(value, strict=True)
        except ValidationError as error:
            fault = error.errors()[0]
            if fault["type"] == "value_error":  # of a check of our own, which says it all
                raise SideAgentsError(f"method {method!r}: option {key}: {fault['ctx']['error']}") from None
            must = re.sub("^Input should", "must", fault["msg"])
            raise SideAgentsError(f"method {method!r}: option {key} {must}, got {value!r}") from None
