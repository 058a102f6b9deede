"""Verb `pretrain`: make a base."""

from __future__ import annotations

import argparse
from pathlib import Path

from sideagents_policies.cli.common import Verbs, add_verb, split_words
from sideagents_policies.guard import UsageError


def add_verbs(verbs: Verbs) -> None:
    """Add `pretrain`."""
    verb = add_verb(
        verbs,
        "pretrain",
        "train a base on images and targets in Taskonomy's folder layout",
        """sideagents scenes render --split train --out data/rendered --tasks curvature
        sideagents pretrain task=curvature data=data/rendered out=bases
        sideagents pretrain my_base.yaml epochs=10
        sideagents pretrain task=curvature data=data/rendered --resume""",
        words="[CONFIG] [key=value ...]",
    )
    verb.add_argument("--resume", action="store_true", help="go on with the newest run of that name")
    verb.set_defaults(run=_pretrain)


def _pretrain(args: argparse.Namespace) -> int:
    targets, args.overrides = split_words(args.words)
    if len(targets) > 1:
        raise UsageError(f"unexpected argument {targets[1]!r}; overrides are written key=value")
    args.config = Path(targets[0]) if targets else None

    from sideagents.jobs.pretrain import pretrain_command

    return pretrain_command(args)
