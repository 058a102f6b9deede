"""Verbs of training without an environment, one for each kind of job."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from sideagents_policies.cli.common import (
    A_CONFIG,
    Verbs,
    add_import,
    add_verb,
    one_target,
    optional_target,
    user_path,
)


@dataclass(frozen=True)
class JobVerb:
    """What the help of a verb says; `without`: options that switch off one of the run's own, name -> (word, help)."""

    summary: str
    examples: str
    words: str = "CONFIG [key=value ...]"
    without: Mapping[str, tuple[str, str]] = field(default_factory=dict)


JOB_VERBS = {  # in the order of the help; what each runs is in sideagents/jobs
    "pretrain": JobVerb(
        "train a base on images and targets in Taskonomy's folder layout",
        """sideagents scenes render --split train --out data/rendered --tasks curvature
        sideagents pretrain task=curvature data=data/rendered out=bases
        sideagents pretrain my_base.yaml epochs=10
        sideagents pretrain task=curvature data=data/rendered --resume""",
        words="[CONFIG] [key=value ...]",
    ),
    "adapt": JobVerb(
        "adapt a base to one data set of images",
        """sideagents adapt vision/resnet26_cifar
        sideagents adapt vision/adapters_cifar method=taps options.lam=0.5
        sideagents adapt vision/adapters_cifar --resume""",
    ),
    "relevance": JobVerb(
        "rank bases for a task by the alpha that side-tuning learns",
        """sideagents relevance vision/relevance_cifar
        sideagents relevance vision/relevance_cifar bases='[curvature, random]' --json ranking.json
        sideagents relevance vision/relevance_cifar --resume""",
    ),
    "lifelong": JobVerb(
        "train on a sequence of tasks and measure what is forgotten",
        """sideagents lifelong lifelong/icifar_demo --json result.json
        sideagents lifelong lifelong/icifar method=ewc ewc.strength=1e4 seed=2
        sideagents lifelong lifelong/icifar --resume""",
    ),
    "nlp": JobVerb(
        "adapt a language model to one task of GLUE or to SQuAD",
        """sideagents nlp nlp/glue task=RTE
        sideagents nlp nlp/glue model=path/to/bert method=lora options={} learning_rate=1e-3 --json result.json
        sideagents nlp nlp/glue --no-test
        sideagents nlp nlp/glue --resume""",
        without={"test": ("--no-test", "leave the test data unread: `--resume` evaluates on it later")},
    ),
}


def add_verbs(verbs: Verbs) -> None:
    """Add a verb for each kind of job."""
    for kind, about in JOB_VERBS.items():
        verb = add_verb(verbs, kind, about.summary, about.examples, words=about.words)
        verb.add_argument("--resume", action="store_true", help="go on with the newest run of that name")
        verb.add_argument("--json", type=user_path, metavar="FILE", help="write the result to FILE too")
        add_import(verb)
        for name, (word, text) in about.without.items():
            verb.add_argument(word, dest=name, action="store_false", help=text)
        verb.set_defaults(run=partial(_run, kind))


def _run(kind: str, args: argparse.Namespace) -> int:
    from sideagents.jobs.job import JOBS
    from sideagents.storage.files import write_json
    from sideagents_policies.jobs import ready_job

    job = JOBS.get(kind)
    name, overrides = one_target(args, A_CONFIG) if job.needs_file else optional_target(args)
    options = {name: getattr(args, name) for name in JOB_VERBS[kind].without}
    folder, result = job.run(ready_job(kind, name, overrides), args.resume, **options)
    print(job.table(result))
    print(f"wrote {folder}")
    if args.json is not None:
        write_json(args.json, result)
    return 0
