"""Typed configuration from YAML and `key.sub=value` overrides; every mistake is one line that names the remedy.

A configuration is a pydantic model, whose sections may be pydantic models or stdlib dataclasses with a
`__pydantic_config__`. Values are checked as strictly as JSON: "12" is no integer, nan and infinity are refused.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from pydantic import BaseModel, JsonValue, ValidationError

from sideagents.config.extends import Find, Sources, lineage, merged
from sideagents.config.sections import KeyPath, fields_of, is_open_mapping, marks_of, section_at
from sideagents.errors import ConfigError, nearest
from sideagents.storage.yaml_tree import YamlError, parse_yaml

ModelT = TypeVar("ModelT", bound=BaseModel)

_LARGEST = 10**18  # of whole numbers: what 64 bits hold, with room to add
_LONGEST_KEY = 100
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def load_config(
    model_cls: type[ModelT], path: Path | None, overrides: Sequence[str] = (), find: Find | None = None
) -> ModelT:
    """Return the checked configuration: the file's values (or the defaults), then the overrides from left to right.

    With `find`, which knows the files of names, the file may say `extends: NAME`. A mapping is merged into a section
    of the configuration, and replaces a mapping whose keys are the user's own.
    Raises `ConfigError` with one line: file or override, key path, what is allowed, the nearest name.
    """
    old = _old_keys(model_cls)
    sources = Sources("configuration" if path is None else str(path))
    tree: dict[str, Any] = {}
    for file, values in () if path is None else lineage(path, find):
        own = _renamed(values, old, str(file))
        sources.note(file, own)
        tree = merged(model_cls, own, tree)
    for override in overrides:
        key, value = _parse_override(override)
        if key in old:
            key, value = _new_name(old, key, value, f"override {override!r}")
        sources.overrides[key] = override if len(override) <= 200 else override[:197] + "..."
        free = _check_known(model_cls, key, override)
        tree = _set(tree, key, value, replace=free)
    _check_plain(tree, (), sources)
    try:
        return model_cls.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise ConfigError(_explain(model_cls, error, tree, sources)) from None


def dump_config(model: BaseModel) -> str:
    """Return the whole configuration, defaults included, as YAML that `load_config` reads back equal."""
    return OmegaConf.to_yaml(OmegaConf.create(_escape(model.model_dump(mode="json"))))


# Marks of keys, in pydantic's `json_schema_extra` or a dataclass field's `metadata`. `neutral`: it changes nothing at
# its default. `was`: {"key": its earlier name, "values": {value now: value then}}.
NEUTRAL: dict[str, JsonValue] = {"neutral": True}


def config_hash(model: BaseModel) -> str:
    """Return the sha256 hex digest of all values; the order of keys does not matter.

    A key that is marked `neutral` is left out at its default, and one that `was` another counts under its earlier name
    and value: so that keys can be added and renamed without changing the digests of old runs.
    """
    values = model.model_dump(mode="json")
    _as_before(model, values)
    return hashlib.sha256(json.dumps(values, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _as_before(owner: Any, values: dict[str, Any]) -> None:
    """Remove neutral keys at their defaults from the dumped values of a model or dataclass; name others as before."""
    for name, (mark, default) in marks_of(type(owner)).items():
        value = getattr(owner, name)
        if mark.get("neutral") and value == default:
            del values[name]
        elif was := mark.get("was"):
            values[was["key"]] = was["values"].get(values.pop(name))
        elif isinstance(values[name], dict):
            _as_before(value, values[name])


def differences(old: BaseModel, new: BaseModel) -> dict[str, tuple[Any, Any]]:
    """Return `{key path: (old value, new value)}` of every leaf in which two configurations differ."""
    before, after = dict(_leaves(old.model_dump(mode="json"))), dict(_leaves(new.model_dump(mode="json")))
    keys = [*before, *(key for key in after if key not in before)]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def key_paths(model_cls: type[Any]) -> list[str]:
    """Return every dotted key a configuration class knows, sections included, in the order of definition."""
    paths = []
    for name, section in fields_of(model_cls).items():
        paths.append(name)
        paths += [f"{name}.{rest}" for rest in key_paths(section)] if section is not None else []
    return paths


# keys that have another name now


def _old_keys(model_cls: type[Any]) -> dict[KeyPath, tuple[KeyPath, Mapping[str, Any]]]:
    """Return `{earlier path: (path now, {value now: value then})}`."""
    found: dict[KeyPath, tuple[KeyPath, Mapping[str, Any]]] = {}
    marks = marks_of(model_cls)
    for name, section in fields_of(model_cls).items():
        if was := marks[name][0].get("was"):
            found[(was["key"],)] = ((name,), was["values"])
        for old, (new, values) in _old_keys(section).items() if section is not None else ():
            found[(name, *old)] = ((name, *new), values)
    return found


def _renamed(tree: dict[str, Any], old: Mapping[KeyPath, Any], source: str) -> dict[str, Any]:
    """Return a file's tree with its keys called as they are now; says so in a line for each."""
    for key in old:
        owner: Any = tree
        for part in key[:-1]:
            owner = owner.get(part) if isinstance(owner, dict) else None
        if isinstance(owner, dict) and key[-1] in owner:
            new, value = _new_name(old, key, owner.pop(key[-1]), source)
            owner.setdefault(new[-1], value)
    return tree


def _new_name(old: Mapping[KeyPath, Any], key: KeyPath, value: Any, source: str) -> tuple[KeyPath, Any]:
    new, values = old[key]
    known = [now for now, then in values.items() if then is value]
    if not known:
        raise ConfigError(f"{source}: {_dotted(key)} is called {_dotted(new)} now, one of {', '.join(values)}")
    said = f"{_dotted(key)}: {str(value).lower()} is called {_dotted(new)}: {known[-1]} now"
    print(f"{source}: {said} ({', '.join(values)})", file=sys.stderr, flush=True)
    return new, known[-1]


# reading


def _parse_override(override: str) -> tuple[KeyPath, Any]:
    key, equals, text = override.partition("=")
    parts = tuple(key.split("."))
    if not equals or not all(re.fullmatch(r"[A-Za-z0-9_-]{1,100}", part) for part in parts):
        raise ConfigError(f"override {_short(override)}: must have the form key.sub=value")
    try:
        return parts, parse_yaml(text)
    except YamlError as error:
        raise ConfigError(f"override {_short(override)}: the value is no valid YAML ({error.problem})") from None


def _set(tree: dict[str, Any], key: KeyPath, value: Any, replace: bool) -> dict[str, Any]:
    """Return `tree` with `value` at `key`; a mapping is merged into the mapping that is there, or replaces it."""
    head, rest = str(key[0]), key[1:]
    below = tree.get(head)
    if rest:
        value = _set(below if isinstance(below, dict) else {}, rest, value, replace)
    elif isinstance(value, dict) and isinstance(below, dict) and not replace:
        for name, entry in value.items():
            below = _set(below, (name,), entry, replace)
        value = below
    return {**tree, head: value}


def _check_known(model_cls: type[Any], key: KeyPath, override: str) -> bool:
    """Refuse an override of a key that no section has, before a mapping is built from it.

    Returns whether the key is that of a free mapping, or lies in one.
    """
    owner: type[Any] | None = model_cls
    for depth, part in enumerate(key):
        if owner is None:
            section = ".".join(map(str, key[:depth]))
            raise ConfigError(f"override {override!r}: {section} is a single value, it has no keys below it")
        known = fields_of(owner)
        if part not in known:
            raise ConfigError(f"override {override!r}: {_unknown(model_cls, key[: depth + 1])}")
        owner = known[str(part)]
        if owner is None and is_open_mapping(model_cls, key[: depth + 1]):
            return True
    return False


def _check_plain(value: Any, where: KeyPath, sources: Sources) -> None:
    """Refuse what JSON or a file's name cannot hold: nan, infinity, huge numbers, keys that are no text, NUL."""
    source = sources.of(where)
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{source}: {_dotted((*where, str(key)))}: keys must be text, got {key!r}")
            if len(key) > _LONGEST_KEY or not _is_plain(key):
                raise ConfigError(f"{source}: {_dotted(where) or 'a key'}: {_short(key)} is no key")
            _check_plain(entry, (*where, key), sources)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            _check_plain(entry, (*where, index), sources)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{source}: {_dotted(where)} must be a finite number, got {value}")
    elif isinstance(value, int) and abs(value) > _LARGEST:
        raise ConfigError(f"{source}: {_dotted(where)} must be a number of at most 18 digits")
    elif isinstance(value, str) and not _is_plain(value):
        raise ConfigError(f"{source}: {_dotted(where)} must hold no control characters, got {_short(value)}")
    elif value is not None and not isinstance(value, str | int | float):
        raise ConfigError(f"{source}: {_dotted(where)} must be text, a number, true, false or null, got {value!r}")


def _is_plain(text: str) -> bool:
    """Say whether a text can be written as UTF-8 and used as a file's name: no NUL and its like, no half characters."""
    return not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", text)


# explaining


def _explain(model_cls: type[Any], error: ValidationError, tree: Any, sources: Sources) -> str:
    """Return one line for the first fault (unions report one per alternative: they are joined)."""
    faults: dict[KeyPath, list[str]] = {}
    for fault in error.errors(include_url=False):
        where = _existing(tree, fault["loc"], missing_last=fault["type"] == "missing")
        if fault["type"] in _UNKNOWN:
            text = _unknown(model_cls, where)
        elif fault["type"] == "missing":
            text = f"the key {_dotted(where)!r} is missing"
        elif fault["type"] == "value_error":
            text = f"{_dotted(where)}: {fault['ctx']['error']}" if where else str(fault["ctx"]["error"])
        elif fault["type"] in ("model_type", "dataclass_type"):
            known = ", ".join(fields_of(section_at(model_cls, where)))
            text = f"{_dotted(where)} must be a section with the keys {known}, got {_short(fault['input'])}"
        else:
            text = f"{_dotted(where)} must {_allowed(fault['msg'])}, got {_short(fault['input'])}"
            text += _nearest_choice(str(fault.get("ctx", {}).get("expected", "")), fault["input"])
        faults.setdefault(where, []).append(text)
    where, texts = next(iter(faults.items()))
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return _one_line(f"{sources.of(where)}: {' or '.join(texts)}{more}")


def _unknown(model_cls: type[Any], where: KeyPath) -> str:
    """Say that the last key of `where` is unknown, with the key that is probably meant or those of its section."""
    name, section = str(where[-1]), where[:-1]
    everywhere = key_paths(model_cls)
    siblings = {key: _dotted((*section, key)) for key in fields_of(section_at(model_cls, section))}
    meant = [path for path in everywhere if _key(path) == name]
    meant = meant or [path for path in (siblings.values() if section else everywhere) if _initials(path) == name]
    meant = meant or [siblings[key] for key in difflib.get_close_matches(name, siblings, n=1)]
    if not (meant or section):
        meant = difflib.get_close_matches(name, everywhere, n=1)
    hint = f", did you mean {' or '.join(map(repr, meant))}?" if meant else f" (known: {', '.join(siblings)})"
    return f"unknown key {_dotted(where)!r}{hint}"


def _key(path: str) -> str:
    return path.rpartition(".")[2]


def _initials(path: str) -> str:
    """Return `lr` of `ppo.learning_rate`."""
    return "".join(word[:1] for word in _key(path).split("_"))


def _allowed(message: str) -> str:
    """Turn pydantic's "Input should be ..." into "be ..."."""
    return re.sub(r"^(Input|String|List|Dictionary|Value|Tuple|Set) should ", "", message.rstrip("."))


def _nearest_choice(expected: str, value: Any) -> str:
    return nearest(value, re.findall(r"'([^']*)'", expected)) if isinstance(value, str) and expected else ""


def _existing(tree: Any, location: KeyPath, missing_last: bool) -> KeyPath:
    """Cut from `location` what is no key of the data: pydantic adds names of union members."""
    where: list[str | int] = []
    for depth, part in enumerate(location):
        inside = (isinstance(tree, dict) and part in tree) or (
            isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        )
        if inside:
            tree = tree[part]
            where.append(part)
        elif missing_last and depth == len(location) - 1:
            where.append(part)
    return tuple(where)


# small helpers


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            yield from _leaves(entry, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _escape(value: Any) -> Any:
    """Protect a literal `${` from being read as an interpolation."""
    if isinstance(value, dict):
        return {key: _escape(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_escape(entry) for entry in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _dotted(where: KeyPath) -> str:
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
