"""What the verbs share: a parser with one-line errors, `key=value` overrides, the configuration of a command."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from sideagents_policies.guard import UsageError

if TYPE_CHECKING:
    from sideagents_policies.config import AgentConfig

Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"

A_CONFIG = "a CONFIG: a YAML file or a name that `sideagents list configs` prints"  # what a verb wants
OVERRIDE = re.compile(r"^[A-Za-z_][A-Za-z0-9_.]*=")
_CHOICES = re.compile(r"invalid choice: '?(?P<given>[^' ]*)'? \(choose from (?P<known>.*)\)")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line with the nearest name.

    Words that are neither options nor declared positionals may follow the options; `take_rest` accepts them where the
    verb has a `words` list (a configuration and its overrides) and refuses them elsewhere.
    """

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError` in place of argparse's two lines and exit."""
        choice = _CHOICES.search(message)
        if choice:
            known = re.findall(r"[^',\s]+", choice["known"])
            message += near(choice["given"], known)
        raise UsageError(f"{message.replace('argument VERB: invalid choice', 'unknown verb')}")

    def take_rest(self, args: argparse.Namespace, rest: list[str]) -> None:
        """Add the left-over words to `args.words`; raises `UsageError` for an unknown option."""
        for word in rest:
            if word.startswith("-") and word != "-":
                options = [name for action in self._actions for name in action.option_strings]
                self.error(f"unknown option {word!r}{near(word.partition('=')[0], options)}")
            if "words" not in args:
                self.error(f"unexpected argument {word!r}")
            args.words.append(word)


def near(given: str, known: list[str]) -> str:
    """Return `", did you mean 'x'?"` or nothing."""
    match = difflib.get_close_matches(given, known, n=1)
    return f", did you mean {match[0]!r}?" if match else ""


def add_verb(verbs: Verbs, name: str, summary: str, example: str, words: str | None = None) -> Parser:
    """Add a verb with help text and examples; `words` names the list of free words that it takes."""
    parser = verbs.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {line.strip()}" for line in example.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if words is not None:
        parser.add_argument("words", nargs="*", metavar=words)
    parser.set_defaults(parser=parser)
    return parser


def add_import(verb: Parser) -> None:
    """Add `--import` to a verb that looks up names which a module of the user's may register."""
    verb.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import your module that registers bases, sides, merges, methods, tasks or readers; may be repeated",
    )


def user_path(text: str) -> Path:
    """Read a path; `~` is the home folder, in `--out=~/x` too, which a shell leaves alone."""
    return Path(text).expanduser()


def positive_int(text: str) -> int:
    """Read an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def natural(text: str) -> int:
    """Read an integer of at least 0."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return value


def split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """Part free words into targets (paths, names) and `key=value` overrides."""
    targets = [word for word in words if not OVERRIDE.match(word) or os.path.exists(word)]
    return targets, [word for word in words if word not in targets]


def optional_target(args: argparse.Namespace) -> tuple[str | None, list[str]]:
    """Return the target among the free words, of which there is at most one, and the overrides."""
    targets, overrides = split_words(args.words)
    if len(targets) > 1:
        raise UsageError(f"unexpected argument {targets[1]!r}; overrides are written section.key=value")
    return (targets[0] if targets else None), overrides


def one_target(args: argparse.Namespace, what: str) -> tuple[str, list[str]]:
    """Return the single target among the free words, and the overrides."""
    target, overrides = optional_target(args)
    if target is None:
        raise UsageError(f"{args.parser.prog.split()[-1]} needs {what}")
    return target, overrides


def checked_config(args: argparse.Namespace, networks: bool = True) -> AgentConfig:
    """Resolve and validate the configuration of a verb that is about to use it; missing data is an error.

    What only the networks need counts only when there are `networks`.
    """
    from sideagents_policies.agent.checks import read_config, require_data

    name, overrides = one_target(args, A_CONFIG)
    config = read_config(name, overrides)
    require_data(config, networks)
    return config
