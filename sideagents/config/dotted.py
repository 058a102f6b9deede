"""Networks of the user's own, named by a dotted path."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from sideagents.errors import SideAgentsError, nearest


def is_dotted(name: str) -> bool:
    """Tell whether `name` looks like `package.module:Class` or `package.module.Class`."""
    module, colon, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def import_network(path: str) -> type[nn.Module]:
    """Import the nn.Module class at `package.module:Class`.

    Anything that is not a subclass of nn.Module is refused before it is called. Raises `SideAgentsError`.
    """
    module_name, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise SideAgentsError(f"{path!r}: cannot import {module_name!r}: {error}") from error
    target = getattr(module, attribute, None)
    if target is None:
        raise SideAgentsError(f"{path!r}: {module_name} has no {attribute!r}{nearest(attribute, dir(module))}")
    if not (isinstance(target, type) and issubclass(target, nn.Module)):
        raise SideAgentsError(f"{path!r} is not a torch.nn.Module class")
    return target


def build(label: str, make: Callable[..., nn.Module], offered: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    """Call `make` with `options`, and with those of `offered` that its signature names.

    Raises `SideAgentsError`, beginning with `label`, when it does not accept them.
    """
    named = inspect.signature(make).parameters
    arguments = {key: value for key, value in offered.items() if key in named} | options
    try:
        return make(**arguments)
    except TypeError as error:
        raise SideAgentsError(f"{label} cannot be built from {sorted(arguments)}: {error}") from error
