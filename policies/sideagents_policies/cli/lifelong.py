"""Verb `lifelong`: learn one task after another."""

from __future__ import annotations

import argparse
from pathlib import Path

from sideagents_policies.cli.common import Verbs, add_verb, one_target


def add_verbs(verbs: Verbs) -> None:
    """Add `lifelong`."""
    verb = add_verb(
        verbs,
        "lifelong",
        "train on a sequence of tasks and measure what is forgotten",
        """sideagents lifelong lifelong/icifar_demo --json result.json
        sideagents lifelong lifelong/icifar method=ewc ewc.strength=1e4 seed=2
        sideagents lifelong lifelong/icifar --resume""",
        words="CONFIG [key=value ...]",
    )
    verb.add_argument("--resume", action="store_true", help="go on with the newest run of that name")
    verb.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE too")
    verb.set_defaults(run=_lifelong)


def _lifelong(args: argparse.Namespace) -> int:
    from sideagents.lifelong.run import lifelong, require_data, table_of
    from sideagents.run.files import write_json
    from sideagents_policies.checks import read_lifelong

    name, overrides = one_target(args, "a CONFIG: a YAML file or a name that `sideagents list configs` prints")
    config = read_lifelong(name, overrides)
    require_data(config)
    run, result = lifelong(config, resume=args.resume)
    print(table_of(result))
    print(f"wrote {run}")
    if args.json is not None:
        write_json(args.json, result)
    return 0
