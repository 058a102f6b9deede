"""Options of a method: the keywords of the function that builds it, checked before it runs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

from sideagents.errors import SideAgentsError, nearest


def check_options(
    build: Callable[..., Any], method: str, options: Mapping[str, Any], apart_from: Collection[str] = ()
) -> None:
    """Raise `SideAgentsError` for an option that `build` does not have, and for a value of another type.

    apart_from: its parameters that are no options.
    """
    # a tenth of a second, which `import sideagents` need not wait for
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    known = [key for key in inspect.signature(build).parameters if key not in apart_from]
    for key in options:
        if key not in known:
            allowed = ", ".join(known) or "none"
            raise SideAgentsError(f"method {method!r} has no option {key!r}{nearest(key, known)} (allowed: {allowed})")
    any_object = ConfigDict(arbitrary_types_allowed=True)
    types = get_type_hints(build, include_extras=True)
    for key, value in options.items():
        try:
            TypeAdapter(types[key], config=any_object).validate_python(value, strict=True)
        except ValidationError as error:
            allowed = re.sub("^Input should", "must", error.errors()[0]["msg"])
            raise SideAgentsError(f"method {method!r}: option {key} {allowed}, got {value!r}") from None
