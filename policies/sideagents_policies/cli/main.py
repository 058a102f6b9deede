"""Entry point of the command line: one verb, its arguments, one clear line for a user's mistake."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from sideagents_policies.cli import agent_verbs, job_verbs, look, scenes
from sideagents_policies.cli.common import Parser
from sideagents_policies.guard import guarded

EPILOG = """\
typical use:
  sideagents list bases                               what perception can be swapped in
  sideagents check pointnav/sidetune_curvature        print a resolved configuration
  sideagents clone pointnav/sidetune_curvature        collect expert demonstrations and imitate them
  sideagents train pointnav/sidetune_curvature --init runs/sidetune_curvature_clone_1
  sideagents eval runs/sidetune_curvature_train_1 --split val
  sideagents enjoy runs/sidetune_curvature_train_1 --out agent.mp4
  sideagents lifelong lifelong/icifar_demo            a frozen network on a sequence of tasks, without an environment

CONFIG is a YAML file or the name of a bundled one (`sideagents list configs`); every key of it can be overridden
behind it as section.key=value, for example model.base=denoising ppo.frames=1000000.
"""


def build_parser() -> Parser:
    """Return the parser with all verbs."""
    parser = Parser(
        prog="sideagents",
        description="Side-tuned agents: frozen perception, a small trained network beside it, a learned blend.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", parser_class=Parser)
    agent_verbs.add_verbs(verbs)
    look.add_verbs(verbs)
    scenes.add_verbs(verbs)
    job_verbs.add_verbs(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 2 for a user's mistake (one line on stderr), 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    code = guarded(lambda: _dispatch(words))
    if argv is None and code == 130:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C would interrupt what Python does at its exit
    return code


def _dispatch(words: list[str]) -> int:
    parser = build_parser()
    args, rest = parser.parse_known_args(words)
    if args.version:
        from importlib.metadata import version

        print(version("sideagents"))
        return 0
    if "run" not in args:
        parser.error("a verb is missing (see `sideagents --help`)")
    verb: Parser = args.parser
    verb.take_rest(args, rest)
    if "imports" in args and args.imports:
        from sideagents.config.imports import import_own

        for module in args.imports:
            import_own(module)
    result: int = args.run(args)
    return result


if __name__ == "__main__":
    sys.exit(main())
