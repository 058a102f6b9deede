"""Print docs/configuration.md from the code: `python scripts/document_config.py > docs/configuration.md`."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from sideagents.adapt.adapt_config import AdaptConfig
from sideagents.jobs.pretrain import PretrainConfig
from sideagents.jobs.relevance import RelevanceConfig
from sideagents.language.nlp_config import NlpConfig
from sideagents.lifelong.lifelong_config import LifelongConfig
from sideagents.train.student import StudentConfig
from sideagents_policies.agent.checks import MAY_CHANGE_ON_RESUME
from sideagents_policies.config import AgentConfig
from sideagents_policies.evaluate.tables import markdown_table
from sideagents_policies.listing import rows

ADAPT_MEANINGS = {"kind": "what the file is for"}  # those of nlp too
LIFELONG_MEANINGS = {
    "kind": "what the file is for",
    "base": "as in `model.base`, one whose codes are vectors",
    "side": "as in `model.side`",
    "side_options": "of the side's constructor",
    "merge": "as in `model.merge`",
    "alpha": "as in `model.alpha`",
    "ewc.mode": "one penalty for each earlier task, or one for all",
    "ewc.fisher": "see `sideagents.lifelong.fisher`",
    "psp.kind": "of the keys",
}

# What a key means where its definition carries no description; one entry for each of those keys and for no other.
MEANINGS = {
    "seed": "of everything random: episodes, weights, sampled actions, the order of mini-batches",
    "env": "`embedded`, or `habitat`: the episodes are played by habitat-lab, see [habitat.md](habitat.md)",
    "device": "`auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes a GPU when torch sees one; `eval` and `enjoy` use the "
    "CPU where it is not there",
    "camera.width": "pixels, above 0",
    "camera.height": "pixels, above 0",
    "camera.hfov_deg": "horizontal field of view in degrees, from 1 to below 179; pixels are square",
    "camera.height_m": "of the camera above the floor, metres, above 0",
    "task.kind": "`pointnav`: distance and direction tell the goal; `imagenav`: a picture shows it; or your own task",
    "task.stop": "`auto`: an agent within `success_distance_m` stops by itself; `explicit`: a fourth action stops",
    "task.max_steps": "after so many steps an episode is truncated; above 0",
    "task.success_distance_m": "geodesic distance below which stopping is a success, metres, above 0",
    "task.forward_m": "length of a forward step, metres, above 0",
    "task.turn_deg": "of a turn to the left or right, degrees, above 0",
    "task.slack_reward": "of every step",
    "task.distance_reward": "for each metre that the geodesic distance became shorter",
    "task.success_reward": "of the step that ends a successful episode",
    "task.collision_penalty": "subtracted for a forward step that was blocked",
    "task.allow_sliding": "whether a blocked step slides along the obstacle or ends at it",
    "task.map_size_m": "side of the square that the occupancy map shows, metres, above 0",
    "task.map_cells": "side of the occupancy map in cells, above 0; the network needs at least 36",
    "task.rgb": "render RGB images",
    "task.depth": "render depth images; the network reads them when they are there",
    "scenes.dataset": "`bundled`, or a folder with `train/*.glb`, `val/*.glb`, ... (below `SIDEAGENTS_DATA` too)",
    "scenes.buildings": "use the first so many training buildings; 0 = all; at least 0",
    "scenes.episodes_per_building": "a training environment moves to the next building after so many episodes; above 0",
    "scenes.episodes": "PointNav-v1 `.json.gz` file; `{split}` in it is replaced by the split's name",
    "habitat.config": "a YAML file of habitat-lab, by its name there or a path",
    "habitat.overrides": "words passed on to habitat-lab, e.g. `habitat.seed=3`",
    "habitat.gpu_device_ids": "GPUs of habitat-sim, dealt to the workers; -1: CPU; empty: all there are",
    "scenes.only": "names of the training buildings to use; empty = all",
    "scenes.up": "axis that points upwards in the files: auto (stage configuration beside, else y), y or z",
    "scenes.navmesh.cell_m": "side of a grid cell, metres, above 0",
    "scenes.navmesh.agent_radius_m": "of the agent's cylinder, metres, above 0",
    "scenes.navmesh.agent_height_m": "of the agent's cylinder, metres, above 0",
    "scenes.navmesh.max_climb_m": "highest step that can be climbed, metres, above 0",
    "scenes.navmesh.max_slope_deg": "steepest slope that can be walked on, degrees, above 0",
    "vec.n_envs": "environments of each training process",
    "vec.kind": "`dummy`: in the training process; `subproc`: spread over `processes`. Results are equal",
    "vec.processes": "worker processes of `subproc`",
    "demos.trajectories": "how many to collect; `clone --demos DIR` uses all in DIR and records their number",
    "clone.batch_size": "of each process",
    "clone.learning_rate": "AdamW's, of all weights but alpha",
    "clone.alpha_learning_rate": "alpha's own, decayed as the other; alpha has no weight decay",
    "clone.weight_decay": "AdamW's",
    "clone.max_grad_norm": "gradients of actor and critic are clipped to this norm, each by themselves",
    "clone.dagger_frames": "environment steps over all processes; the last round may be shorter; 0 = no DAgger",
    "clone.dagger_round_frames": "environment steps of one round over all processes",
    "clone.dagger_epochs": "passes over the newest `dagger_buffer_frames` after each round",
    "clone.dagger_buffer_frames": "labelled frames that training looks back to, over all processes",
    "clone.checkpoint_every_s": "seconds between checkpoints",
    "ppo.n_steps": "steps of each environment in a rollout",
    "ppo.batch_size": "mini-batch of each process; must divide `vec.n_envs * ppo.n_steps`",
    "ppo.n_epochs": "passes over each rollout",
    "ppo.learning_rate": "Adam's, of all weights but alpha",
    "ppo.alpha_learning_rate": "alpha's own, constant",
    "ppo.gamma": "discount; cloning trains the critic with it too",
    "ppo.gae_lambda": "of generalised advantage estimation",
    "ppo.clip_range": "of the probability ratio",
    "ppo.ent_coef": "weight of the entropy bonus, at the start where `final_ent_coef` is given",
    "ppo.vf_coef": "weight of the value loss",
    "ppo.max_grad_norm": "gradients are clipped to this norm",
    "ppo.amsgrad": "use AMSGrad",
    "ppo.target_kl": "an update ends early when the divergence exceeds 1.5 times this; null = never",
    "ppo.checkpoint_every_frames": "frames between checkpoints, over all processes",
    "eval.split": "buildings and episode list; `train` has no fixed list of its own",
    "eval.n_envs": "environments that play side by side; results do not depend on it",
}
PRETRAIN_MEANINGS = {
    "seed": "of the weights, the order of images, mirrors and noise",
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
  as `# absent: ...`, and exits with 0; every other verb stops there with 2. What memory and disk it will take follows.
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
    """Return the whole page; raises ValueError when a key has no meaning, or a meaning no key."""
    parts = [TITLE, "## Bundled configurations\n", _bundled(), "## Rules between keys\n"]
    parts += ["\n".join(f"- {rule}" for rule in RULES) + "\n", "## What may change on `--resume`\n"]
    parts += [f"{', '.join(_resumable(key) for key in MAY_CHANGE_ON_RESUME)}. Anything else makes another run.\n"]
    used: set[str] = set()
    parts += _sections(AgentConfig, "", MEANINGS, used)
    _all_used(MEANINGS, used)
    used = set()
    parts.append("## Keys of `sideagents pretrain`\n")
    parts.append("One base, one task; see [bases.md](bases.md).\n")
    parts.append(_table(PretrainConfig, "", PRETRAIN_MEANINGS, used))
    _all_used(PRETRAIN_MEANINGS, used)
    used = set()
    parts.append("## Keys of `sideagents lifelong`\n")
    parts.append("A sequence of tasks; see [adapt.md](adapt.md). Such a file says `kind: lifelong`.\n")
    parts.append(_table(LifelongConfig, "", LIFELONG_MEANINGS, used))
    for name in ("ewc", "psp", "pnn"):
        section = LifelongConfig.model_fields[name].annotation
        assert section is not None
        parts.append(f"{_prose(section)}\n\n{_table(section, f'{name}.', LIFELONG_MEANINGS, used)}")
    _all_used(LIFELONG_MEANINGS, used)
    parts.append("## `distil`, of `lifelong` and `adapt`\n")
    parts.append(f"{_prose(StudentConfig)}\n\n{_table(StudentConfig, 'distil.', {}, set())}")
    used = set()
    parts.append("## Keys of `sideagents adapt`\n")
    parts.append("One data set; see [adapt.md](adapt.md). Such a file says `kind: adapt`.\n")
    parts.append(_table(AdaptConfig, "", ADAPT_MEANINGS, used))
    bases = RelevanceConfig.model_fields["bases"].description
    parts.append(f"`sideagents relevance` has the same keys, `kind: relevance`, and `bases`: {bases}.\n")
    _all_used(ADAPT_MEANINGS, used)
    parts.append("## Keys of `sideagents nlp`\n")
    parts.append("One task of language; see [language.md](language.md). Such a file says `kind: nlp`.\n")
    used = set()
    parts.append(_table(NlpConfig, "", ADAPT_MEANINGS, used))
    _all_used(ADAPT_MEANINGS, used)
    return "\n".join(parts)


def _bundled() -> str:
    found = [[f"`{row['name']}`", row["method"], row["base"], row["summary"]] for row in rows("configs")]
    return markdown_table(["name", "method", "base", "what it is"], found) + "\n"


def _resumable(key: str) -> str:
    return f"all of `{key[:-1]}`" if key.endswith(".") else f"`{key}`"


def _sections(owner: type[Any], prefix: str, meanings: dict[str, str], used: set[str]) -> list[str]:
    """Return heading, docstring and table of a configuration class, then those of the sections in it."""
    title = f"## `{prefix[:-1]}`\n" if prefix else "## Top level\n"
    parts = [title, _prose(owner) + "\n", _table(owner, prefix, meanings, used)]
    for name, (annotation, *_) in _fields(owner).items():
        if _is_section(annotation):
            parts += _sections(annotation, f"{prefix}{name}.", meanings, used)
    return parts


def _table(owner: type[Any], prefix: str, meanings: dict[str, str], used: set[str]) -> str:
    lines = []
    for name, (annotation, default, description, limits) in _fields(owner).items():
        if _is_section(annotation):
            continue
        key = prefix + name
        if bool(description) == (key in meanings):
            raise ValueError(f"{key}: needs one description, in its definition or in scripts/document_config.py")
        used.add(key)
        kind = ", ".join([_kind(annotation), *limits])
        lines.append([f"`{key}`", kind, _default(default), (description or meanings[key]).replace("|", "\\|")])
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
        field.name: (hints[field.name], field.default, "", most.get(field.name, []))
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


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation))


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


def _all_used(meanings: dict[str, str], used: set[str]) -> None:
    unknown = sorted(set(meanings) - used)
    if unknown:
        raise ValueError(f"scripts/document_config.py explains keys that are not there: {', '.join(unknown)}")


if __name__ == "__main__":
    print(page(), end="")
