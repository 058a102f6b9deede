"""Verb `nlp`: adaptation of language models, no environments."""

from __future__ import annotations

import argparse

from sideagents_policies.cli.common import Verbs, add_verb, one_target, user_path

_CONFIG = "a CONFIG: a YAML file or a name that `sideagents list configs` prints"


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
    nlp.add_argument("--resume", action="store_true", help="go on with the newest run of that name")
    nlp.add_argument("--no-test", action="store_true", help="leave the test data unread: `--resume` judges by it later")
    nlp.add_argument("--json", type=user_path, metavar="FILE", help="write the result to FILE too")
    nlp.set_defaults(run=_nlp)


def _nlp(args: argparse.Namespace) -> int:
    from sideagents.language.run import absent_data, nlp, summary_of
    from sideagents.run.files import require, write_json
    from sideagents_policies.checks import read_nlp

    config = read_nlp(*one_target(args, _CONFIG))
    require(absent_data(config))
    run, result = nlp(config, resume=args.resume, test=not args.no_test)
    print(summary_of(result))
    print(f"wrote {run}")
    if args.json is not None:
        write_json(args.json, result)
    return 0
