"""YAML of strangers as plain values, within limits: nothing is run, and a small file cannot ask for much."""

from __future__ import annotations

import re
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

MOST_CHARACTERS = 2**18  # of a text; the longest configuration has about 2^13
MOST_NODES = 10_000  # of the values, with all that anchors repeat
MOST_EXPANDED = 2**18  # characters that `${other.key}` may bring in
_DEEPEST = 40
_REFERENCE_COSTS = 1000  # characters, of the time that it takes
_REFERENCE = re.compile(r"(?<!\\)\$\{")
_KEY = re.compile(r"([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\}")
_FLOAT = re.compile(
    r"""[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?$|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$
    |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$""",
    re.VERBOSE,
)


class YamlError(ValueError):
    """A text is no YAML that is read: `problem` says why, `place` where (", line 1, column 2", or nothing)."""

    def __init__(self, problem: object, place: str = "") -> None:
        self.problem, self.place = " ".join(str(problem).split())[:300], place
        super().__init__(self.problem)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with numbers as in JSON (1e-3 is one), dates as text, and no key twice."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth, self._nodes = self._depth + 1, self._nodes + 1
        if self._depth > _DEEPEST or self._nodes > MOST_NODES:  # before the rest of the text is looked at
            raise YamlError(f"it has more than {MOST_NODES} values, or more than {_DEEPEST} one in another")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            kind = str(node.tag).rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"this is no {kind}: {type(error).__name__}", node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"found duplicate key {key.value[:60]}", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse_yaml(text: str) -> Any:
    """Return the values in a text: mappings, lists, text, numbers, true, false, null; `${other.key}` is filled in.

    Raises `YamlError` for what is no YAML, names a class to make, or is or becomes too large.
    """
    if not text.strip():
        return None
    if len(text) > MOST_CHARACTERS:
        raise YamlError(f"it has {len(text)} characters, {MOST_CHARACTERS} are read at most")
    try:
        tree = _constructed(text)
        _check_references(tree)
        whole = OmegaConf.to_container(OmegaConf.create(tree if isinstance(tree, dict) else {"": tree}), resolve=True)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise YamlError(error.problem, place) from None
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise YamlError(error) from None
    return whole if isinstance(tree, dict) else cast("dict[str, Any]", whole)[""]


def _constructed(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, int], open_: set[int]) -> int:
    """Return how many values a node stands for when anchors are written out; raises `YamlError` for too many."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        return known[id(node)]
    if id(node) in open_:
        raise YamlError("an anchor holds itself")
    open_.add(id(node))
    children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    total = 1
    for child in children:
        total += _count(child, known, open_)
        if total > MOST_NODES:
            raise YamlError(f"it stands for more than {MOST_NODES} values")
    open_.remove(id(node))
    known[id(node)] = total
    return total


def _check_references(tree: Any) -> None:
    """Raise `YamlError` for references that are not of the form `${other.key}`, or bring in too much."""
    known: dict[str, int] = {}

    def size(value: Any) -> int:
        if isinstance(value, dict | list):
            return sum(size(entry) + 1 for entry in (value.values() if isinstance(value, dict) else value))
        if not isinstance(value, str):
            return 1
        total = len(value)
        for found in _REFERENCE.finditer(value):
            named = _KEY.match(value, found.end())
            if named is None:
                raise YamlError(f"{value[found.start() : found.end() + 40]!r}: only ${{other.key}} is filled in")
            total += size_of(named[1]) + _REFERENCE_COSTS
            if total > MOST_EXPANDED:
                raise YamlError(f"its references bring in more than {MOST_EXPANDED} characters")
        return total

    def size_of(key: str) -> int:
        if key not in known:
            known[key] = 0  # of one that refers to itself, which is refused when it is filled in
            target = tree
            for part in key.split("."):
                target = target.get(part) if isinstance(target, dict) else None
            known[key] = size(target)
        return known[key]

    if size(tree) > MOST_EXPANDED:
        raise YamlError(f"it stands for more than {MOST_EXPANDED} characters")
