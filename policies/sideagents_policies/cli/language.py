"""Verb `nlp`: adaptation of language models, no environments."""

from __future__ import annotations

import argparse

from sideagents_policies.cli.common import A_CONFIG, Verbs, add_run_options, add_verb, one_target


def add_verbs(verbs: Verbs) -> None:
    """Add `nlp`."""
    nlp = add_verb(
        verbs,
        "nlp",
        "adapt a language model to one task of GLUE or to SQuAD",
        """sideagents nlp nlp/glue task=RTE
        sideagents nlp nlp/glue model=path/to/bert method=lora options={} learning_rate=1e-3 --json result.json
        sideagents nlp nlp/glue --no-test
        sideagents nlp nlp/glue --resume""",
        words="CONFIG [key=value ...]",
    )
    add_run_options(nlp, _nlp)
    nlp.add_argument("--no-test", action="store_true", help="leave the test data unread: `--resume` judges by it later")


def _nlp(args: argparse.Namespace) -> int:
    from sideagents.jobs.nlp import absent_data, nlp, summary_of
    from sideagents.storage.files import require, write_json
    from sideagents_policies.jobs import read_nlp

    config = read_nlp(*one_target(args, A_CONFIG))
    require(absent_data(config))
    run, result = nlp(config, resume=args.resume, test=not args.no_test)
    print(summary_of(result))
    print(f"wrote {run}")
    if args.json is not None:
        write_json(args.json, result)
    return 0
