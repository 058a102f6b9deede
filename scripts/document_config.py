"""Print docs/configuration.md from the code: `python scripts/document_config.py > docs/configuration.md`."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from sideagents.config.sections import fields_of
from sideagents.jobs.job import JOBS, Job
from sideagents_policies.agent.checks import MAY_CHANGE_ON_RESUME
from sideagents_policies.config import AgentConfig
from sideagents_policies.evaluate.tables import markdown_table
from sideagents_policies.listing import rows

JOBS_IN_ORDER = {  # what a job is about
    "pretrain": "One base, one task; see [bases.md](bases.md).",
    "lifelong": "A sequence of tasks; see [adapt.md](adapt.md).",
    "adapt": "One data set; see [adapt.md](adapt.md).",
    "nlp": "One task of language; see [language.md](language.md).",
}
RULES = (
    "`ppo.batch_size` divides `vec.n_envs * ppo.n_steps`.",
    "`model.use_rgb` and `model.use_map` are not both false.",
    "`model.use_rgb` needs `task.rgb`.",
    "`scenes.navmesh.cell_m` is at most `scenes.navmesh.agent_radius_m`, and `scenes.navmesh.agent_height_m` more than "
    "twice `scenes.navmesh.max_climb_m`.",
    "Base, side, merge, alpha and method must fit each other, and images and maps the networks: `check` builds the "
    "agent once when the weights are there.",
)
TITLE = """\
# Configuration

<!-- Written by `python scripts/document_config.py > docs/configuration.md`; a test compares. -->

An agent is described by one YAML file. Every verb that takes a CONFIG takes a file or the name of a bundled one, and
overrides behind it:

```sh
sideagents list configs
sideagents check pointnav/sidetune_curvature
sideagents check pointnav/sidetune_curvature model.base=denoising ppo.frames=1000000 workers=1
```

- Keys that a file leaves out have the defaults below. An empty file is a complete configuration.
- `extends: NAME` takes everything from another file, beside it or a bundled one, and the file holds what differs:
  sections are merged key by key, lists and mappings of names (`options`, `by_domain`, ...) are replaced as a whole.
- Overrides are `section.key=value`, the value in YAML; they apply from left to right.
- Unknown keys, wrong types, `nan` and infinity are refused with one line that names the file or override, the key, what
  is allowed and the nearest name. The exit code is 2. Types are strict: `"12"` is no number.
- `sideagents check CONFIG` prints the whole configuration, resolved. What it needs on disk and does not find it reports
  as `# missing: ...`, and exits with 0; every other verb stops there with 2. What memory and disk it will take follows.
- `${other.key}` in a file is replaced by the value of that key.
- A file has at most 2^18 characters and 10,000 values, with all that anchors and `${other.key}` repeat. Dates are text.

`~` at the start of a path, in a key or an option, is the home folder. Two environment variables count:

- `SIDEAGENTS_DATA`: where `scenes.dataset`, `scenes.episodes`, `model.base_weights`, the `.safetensors` files of
  `model.base` and `model.side_init`, and `data`, `held_out` and `splits`
  of `pretrain`, `data`, `base_weights` and `side_init` of `lifelong` and `adapt`, `data` and `test_data` of `nlp` are
  looked for when they are not found as given.
- `SIDEAGENTS_CACHE`: where bundled buildings, walkable spaces and codes of images are kept; by default
  `~/.cache/sideagents`.
"""


def page() -> str:
    """Return the whole page; raises ValueError when a key has no description, or a job no place in the page."""
    parts = [TITLE, "## Bundled configurations\n", _bundled(), "## Rules between keys\n"]
    parts += ["\n".join(f"- {rule}" for rule in RULES) + "\n", "## What may change on `--resume`\n"]
    parts += [f"{', '.join(_resumable(key) for key in MAY_CHANGE_ON_RESUME)}. Anything else makes another run.\n"]
    parts += _sections(AgentConfig, "")
    for kind in JOBS.names():
        if not any(issubclass(JOBS.get(kind).config, JOBS.get(told).config) for told in JOBS_IN_ORDER):
            raise ValueError(f"{kind}: belongs into JOBS_IN_ORDER of scripts/document_config.py")
    return "\n".join([*parts, *(part for kind in JOBS_IN_ORDER for part in _job(JOBS.get(kind)))])


def _job(job: Job[Any]) -> list[str]:
    """Return the keys of a job and of those made from it, and its sections; one of several jobs stands at the first."""
    needed = f" Such a file says `kind: {job.kind}`." if job.needs_file else ""
    parts = [f"## Keys of `sideagents {job.kind}`\n", f"{JOBS_IN_ORDER[job.kind]}{needed}\n", _table(job.config, "")]
    for other in (JOBS.get(kind) for kind in JOBS.names() if kind not in JOBS_IN_ORDER):
        if issubclass(other.config, job.config):
            own = other.config.model_fields.keys() - job.config.model_fields
            keys = ", ".join(f"`{name}`: {other.config.model_fields[name].description}" for name in sorted(own))
            parts.append(f"`sideagents {other.kind}` has the same keys, `kind: {other.kind}`, and {keys}.\n")
    shared = []
    for name, section in _sections_of(job.config).items():
        users = [kind for kind in JOBS_IN_ORDER if section in _sections_of(JOBS.get(kind).config).values()]
        text = f"{_prose(section)}\n\n{_table(section, f'{name}.')}"
        if len(users) == 1:
            parts.append(text)
        elif users[0] == job.kind:
            shared.append(f"## `{name}`, of {' and '.join(f'`{user}`' for user in users)}\n\n{text}")
    return parts + shared


def _bundled() -> str:
    found = [[f"`{row['name']}`", row["method"], row["base"], row["summary"]] for row in rows("configs")]
    return markdown_table(["name", "method", "base", "what it is"], found) + "\n"


def _resumable(key: str) -> str:
    return f"all of `{key[:-1]}`" if key.endswith(".") else f"`{key}`"


def _sections(owner: type[Any], prefix: str) -> list[str]:
    """Return heading, docstring and table of a configuration class, then those of the sections in it."""
    title = f"## `{prefix[:-1]}`\n" if prefix else "## Top level\n"
    parts = [title, _prose(owner) + "\n", _table(owner, prefix)]
    for name, section in _sections_of(owner).items():
        parts += _sections(section, f"{prefix}{name}.")
    return parts


def _sections_of(owner: type[Any]) -> dict[str, type[Any]]:
    return {name: section for name, section in fields_of(owner).items() if section is not None}


def _table(owner: type[Any], prefix: str) -> str:
    lines = []
    for name, (annotation, default, description, limits) in _fields(owner).items():
        if name in _sections_of(owner):
            continue
        key = prefix + name
        if not description:
            raise ValueError(f"{key}: needs a description where it is defined")
        kind = ", ".join([_kind(annotation), *limits])
        lines.append([f"`{key}`", kind, _default(default), description.replace("|", "\\|")])
    return markdown_table(["key", "type", "default", "meaning"], lines) + "\n"


def _fields(owner: type[Any]) -> dict[str, tuple[Any, Any, str, list[str]]]:
    """Return name -> (annotation, default, description, limits) of a pydantic model or a dataclass."""
    if issubclass(owner, BaseModel):
        return {
            name: (
                field.annotation,
                field.default if field.default_factory is None else field.get_default(call_default_factory=True),
                field.description or "",
                _limits(field.metadata),
            )
            for name, field in owner.model_fields.items()
        }
    hints = typing.get_type_hints(owner)
    most = {name: [f"at most {_number(value)}"] for name, value in getattr(owner, "MOST", {}).items()}
    return {
        field.name: (hints[field.name], field.default, field.metadata.get("description", ""), most.get(field.name, []))
        for field in dataclasses.fields(owner)
    }


def _limits(metadata: list[Any]) -> list[str]:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
    return [
        f"{text} {_number(getattr(rule, name))}"
        for rule in metadata
        for name, text in words.items()
        if hasattr(rule, name)
    ]


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _kind(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        *most, last = (f"`{value}`" for value in typing.get_args(annotation))
        return f"{', '.join(most)} or {last}" if most else last
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return " or ".join(_kind(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        return f"list of {_kind(typing.get_args(annotation)[0])}"
    if typing.get_origin(annotation) is dict:
        return "mapping"
    return {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}[annotation]


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if value == {}:
        return "empty"
    return "`null`" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _prose(owner: type[Any]) -> str:
    return inspect.cleandoc(owner.__doc__ or "")


if __name__ == "__main__":
    print(page(), end="")
