"""Verbs `check` and `list`: look before running."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sideagents_policies.cli.common import A_CONFIG, Verbs, add_import, add_verb, one_target

if TYPE_CHECKING:
    from pydantic import BaseModel


def add_verbs(verbs: Verbs) -> None:
    """Add `check` and `list`."""
    check = add_verb(
        verbs,
        "check",
        "resolve, validate and print a configuration without running it",
        """sideagents check pointnav/sidetune_curvature
        sideagents check my_agent.yaml model.base=denoising ppo.frames=1000000""",
        words="CONFIG [section.key=value ...]",
    )
    add_import(check)
    check.set_defaults(run=_check)
    listing = add_verb(
        verbs,
        "list",
        "show bases, methods of each kind, merges, sides, tasks of agents, readers or configurations",
        """sideagents list bases
        sideagents list configs --json
        sideagents list sides --import my_nets""",
    )
    add_import(listing)
    methods = ["methods", "adaptations", "language", "learners"]
    kinds = ["bases", *methods, "merges", "sides", "tasks", "readers", "configs"]
    listing.add_argument("what", choices=kinds, metavar="WHAT", help=f"{', '.join(kinds[:-1])} or {kinds[-1]}")
    listing.add_argument("--json", action="store_true", help="print a JSON list")
    listing.set_defaults(run=_list)


def _check(args: argparse.Namespace) -> int:
    from sideagents_policies.paths import config_kind, config_path

    name, overrides = one_target(args, A_CONFIG)
    kind = config_kind(config_path(name))

    from sideagents.jobs.job import JOBS

    if kind in JOBS.names():
        from sideagents_policies.jobs import read_job

        job = read_job(kind, name, overrides)
        return _show(job, JOBS.get(kind).missing(job))

    from gymnasium import spaces

    from sideagents_policies.agent.checks import missing_data, read_config, remarks, try_networks
    from sideagents_policies.train.estimates import cloning_too_large, estimates, too_large

    config = read_config(name, overrides)
    base, policy = try_networks(config)
    _show(config, missing_data(config))
    if policy is not None and isinstance(policy.observation_space, spaces.Dict):
        read = [f"{key} {space.shape}" for key, space in policy.observation_space.spaces.items()]
        print(f"# reads: {', '.join(read)}")
    for line in (*too_large(config, base), *cloning_too_large(config, base)):
        print(f"# too large: {line}")
    for line in remarks(config):
        print(f"# note: {line}")
    for line in estimates(config, base):
        print(f"# {line}")
    return 0


def _show(config: BaseModel, missing: Iterable[str]) -> int:
    from sideagents.config.typed import dump_config
    from sideagents.machine.precision import told

    print(dump_config(config), end="")
    print(f"# {told(config)}")
    for line in missing:
        print(f"# missing: {line}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from sideagents_policies.listing import as_json, as_table, rows

    found = rows(args.what)
    print(as_json(found) if args.json else as_table(found))
    return 0
