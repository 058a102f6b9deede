"""Tables of what can be named in a configuration."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Sequence
from importlib import import_module
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from rich.console import Console
from rich.table import Table

from sideagents.core.protocol import Methods, summary_of
from sideagents.registry import Registry
from sideagents_policies.paths import config_names, config_path

Row = dict[str, Any]
WIDTH = 120
_TABLES = {  # what is shown alone is imported
    "methods": "sideagents.core.methods:METHODS",
    "adaptations": "sideagents.adaptation:ADAPTATIONS",
    "language": "sideagents.language.nlp_methods:METHODS",
    "learners": "sideagents.lifelong.learners:LEARNERS",
    "merges": "sideagents.core.merge:MERGES",
    "sides": "sideagents.core.side:SIDES",
    "readers": "sideagents_policies.agent.readers:READERS",
}


def rows(what: str) -> list[Row]:
    """Return rows with `name` and what else is known of what `sideagents list` can show."""
    if what == "bases":
        from sideagents.bases import list_bases

        return list_bases()
    if what == "configs":
        return [_config(name) for name in config_names()]
    if what == "tasks":
        from sideagents_envs.task.tasks import TASKS

        return [{"name": name, "summary": summary_of(TASKS[name])} for name in sorted(TASKS)]
    module, _, name = _TABLES[what].partition(":")
    registry = getattr(import_module(module), name)
    return _methods(registry) if isinstance(registry, Methods) else _registered(registry)


def as_json(found: Sequence[Row]) -> str:
    """Return the rows as a JSON list."""
    return json.dumps(list(found), indent=2)


def as_table(found: Sequence[Row]) -> str:
    """Return the rows as aligned columns for people; nested values are left out, but for options of methods."""
    found = [{key: _shown(key, value) for key, value in row.items()} for row in found]
    columns = dict.fromkeys(key for row in found for key, value in row.items() if not isinstance(value, dict))
    table = Table(box=None, pad_edge=False, header_style="")
    for column in columns:
        table.add_column(column, no_wrap=column == "name")
    for row in found:
        table.add_row(*(_word(row.get(column)) for column in columns))
    text = io.StringIO()
    Console(file=text, width=WIDTH, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _registered(registry: Registry[Any]) -> list[Row]:
    found = {name: registry.get(name) for name in registry.names()}
    return [{"name": name, "summary": summary_of(getattr(one, "make", one))} for name, one in found.items()]


def _methods(registry: Methods[Any]) -> list[Row]:
    """Return the methods of a kind with their options, by name: type, and default where there is one."""
    found = []
    for name in registry.names():
        method = registry.about(name)
        options = {
            key: {"type": _type(option.type)} | ({} if option.required else {"default": option.default})
            for key, option in method.options.items()
        }
        found.append({"name": name, "summary": method.summary, "options": options})
    return found


def _type(annotation: Any) -> str:
    """Return a type in the words of a configuration's reader."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " | ".join(map(_type, arguments))
    return "null" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))


def _shown(key: str, value: Any) -> Any:
    """Return a row's value as a column holds it: options as `name=default`, the name alone where one must be given."""
    if key != "options":
        return value
    return ", ".join(f"{name}={_yaml(one['default'])}" if "default" in one else name for name, one in value.items())


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _config(name: str) -> Row:
    path = config_path(name)
    text = path.read_text(encoding="utf-8")
    tree: Row = yaml.safe_load(text) or {}
    section = tree.get("model")
    model: Row = section if isinstance(section, dict) else tree  # an agent's is in a section of its own
    base = section if isinstance(section, str) else model.get("base", "")
    comment = " ".join(
        line.strip("# ") for line in itertools.takewhile(lambda line: line[:1] == "#", text.splitlines())
    )
    summary = re.split(r"[.:](?= |$)", comment)[0]
    return {"name": name, "method": model.get("method", ""), "base": base, "summary": summary}


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value or "")
