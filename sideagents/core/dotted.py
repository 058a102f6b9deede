"""Networks of the user's own, named by a dotted path."""

from __future__ import annotations

import inspect
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


def build_network(path: str, offered: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    """Build the class at `path` with `options`, and with those of `offered` that its constructor names.

    Raises `SideAgentsError` when the constructor does not accept them.
    """
    network = import_network(path)
    named = inspect.signature(network).parameters
    arguments = {key: value for key, value in offered.items() if key in named} | options
    try:
        return network(**arguments)
    except TypeError as error:
        raise SideAgentsError(f"{path!r} cannot be built with {sorted(arguments)}: {error}") from error
