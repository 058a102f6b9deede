"""`extends: NAME` in a configuration file: it holds what differs, the file that it names holds the rest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

from sideagents.config.sections import KeyPath, fields_of, is_open_mapping
from sideagents.errors import ConfigError
from sideagents.storage.files import read_text
from sideagents.storage.yaml_tree import YamlError, parse_yaml

EXTENDS = "extends"
Find: TypeAlias = Callable[[str], Path]  # the file of a name; raises ConfigError
_LONGEST = 10  # files, each of which extends the next


def read_tree(path: Path) -> dict[str, Any]:
    """Return the values in one configuration file, as they stand there; raises `ConfigError` with one line."""
    text = read_text(path, ConfigError)
    try:
        tree = parse_yaml(text)
    except YamlError as error:
        raise ConfigError(f"{path}{error.place}: is no valid YAML ({error.problem})") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        kind = "list" if isinstance(tree, list) else "text" if isinstance(tree, str) else type(tree).__name__
        raise ConfigError(f"{path}: must hold `key: value` lines, not a {kind}")
    return cast("dict[str, Any]", tree)


def lineage(path: Path, find: Find | None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a configuration file and those that it extends, the nearest first, each with its own values.

    A name is that of a file beside the one that extends it, with or without `.yaml`, else what `find` knows. Without
    `find` no file may extend another: the configuration of a run stands alone. Raises `ConfigError`.
    """
    for _ in range(_LONGEST):
        tree = read_tree(path)
        named = EXTENDS in tree
        name = tree.pop(EXTENDS, None)
        yield path, tree
        if not named:
            return
        if find is None:
            raise ConfigError(f"{path}: extends: is read in configurations that are named by a command, not here")
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{path}: extends must be the name or the path of a configuration, got {name!r}")
        beside = [path.parent / name, path.parent / f"{name}.yaml"]
        try:
            path = next((near for near in beside if os.path.isfile(near)), None) or find(name)
        except ConfigError as error:
            raise ConfigError(f"{path}: extends: {error}") from None
    raise ConfigError(f"{path}: extends: more than {_LONGEST} files extend each other")


def merged(model_cls: type[Any], below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `below` with those of `above` over them: sections key by key, everything else as a whole."""
    tree, known = dict(below), fields_of(model_cls)
    for key, value in above.items():
        section, under = known.get(key), tree.get(key)
        inside = section is not None and not is_open_mapping(model_cls, (key,))
        if inside and isinstance(value, dict) and isinstance(under, dict):
            tree[key] = merged(cast("type[Any]", section), under, value)
        else:
            tree[key] = value
    return tree


@dataclass
class Sources:
    """Where the values of a configuration come from: its file, those that it extends, overrides."""

    file: str
    extended: dict[KeyPath, str] = field(default_factory=dict)
    overrides: dict[KeyPath, str] = field(default_factory=dict)

    def note(self, path: Path, tree: Mapping[str, Any]) -> None:
        """Remember that a file says these values, unless one that is nearer does."""
        for key in _keys(tree):
            self.extended.setdefault(key, str(path))

    def of(self, where: KeyPath) -> str:
        """Name the override that set a key (or something below or above it), else the file that says it."""
        text = tuple(map(str, where))
        for key, override in reversed(list(self.overrides.items())):
            shared = min(len(key), len(text))
            if shared and key[:shared] == text[:shared]:
                return f"override {override!r}"
        if not where and self.overrides:
            return f"{self.file} with {' '.join(self.overrides.values())}"
        return next(
            (self.extended[text[:end]] for end in range(len(text), 0, -1) if text[:end] in self.extended), self.file
        )


def _keys(tree: Mapping[str, Any], above: KeyPath = ()) -> Iterator[KeyPath]:
    for key, value in tree.items():
        yield (*above, str(key))
        if isinstance(value, dict):
            yield from _keys(value, (*above, str(key)))
