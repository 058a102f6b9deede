"""Speed and memory, as rows: `python scripts/benchmark.py env|render|stacks|train|adapt|nlp --json FILE`."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from sideagents.errors import SideAgentsError
from sideagents.storage.files import write_text
from sideagents_envs.errors import EnvsError
from sideagents_policies.guard import one_line


def env_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks.env import benchmark_env

    return benchmark_env(
        sizes=options.sizes,
        n_envs=options.envs,
        steps=options.steps,
        repeats=options.repeats,
        scene=options.scene,
        progress=lambda line: print(line, file=sys.stderr),
    )


def render_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks.render import benchmark_render

    return benchmark_render(
        options.scene or (),
        sizes=options.sizes,
        images=options.images,
        repeats=options.repeats,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )


def stack_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks.stacks import benchmark_stacks

    return benchmark_stacks(
        options.scene or (),
        sizes=options.sizes,
        episodes=options.episodes,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )


def train_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks.train import CHOICES, benchmark_train

    return benchmark_train(
        options.only or CHOICES, quick=options.quick, progress=lambda line: print(line, file=sys.stderr, flush=True)
    )


def nlp_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks.nlp import benchmark_nlp

    return benchmark_nlp(
        options.only or (),
        options.size,
        options.batch,
        options.source,
        options.target,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )


def adapt_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks.adapt import benchmark_adapt

    return benchmark_adapt(
        options.only or (),
        options.base,
        options.batch,
        options.repeats,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description="Measure speed; rows {name, value, unit, ...} go to --json FILE.")
    verbs = root.add_subparsers(dest="verb", required=True)
    env = verbs.add_parser("env", help="environment steps per second of one process, and where the time goes")
    env.add_argument("--sizes", type=int, nargs="+", default=[64, 84, 128, 256], metavar="PIXELS")
    env.add_argument("--envs", type=int, default=8, help="environments in the process")
    env.add_argument("--steps", type=int, default=300, help="batched steps per repeat")
    env.add_argument("--repeats", type=int, default=5)
    env.add_argument("--scene", type=Path, help="a building of your own, measured besides the bundled ones")
    env.set_defaults(rows=env_rows)
    render = verbs.add_parser("render", help="images per second of one core beside the rays alone, in a minute")
    render.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], metavar="PIXELS")
    render.add_argument("--images", type=int, default=16, help="images in one call")
    render.add_argument("--repeats", type=int, default=7)
    render.add_argument("--scene", type=Path, action="append", help="a building of your own (again for more)")
    render.set_defaults(rows=render_rows)
    stacks = verbs.add_parser("stacks", help="the expert's episodes in the embedded simulator and through habitat-lab")
    stacks.add_argument("--sizes", type=int, nargs="+", default=[64, 256], metavar="PIXELS")
    stacks.add_argument("--episodes", type=int, default=20, help="episodes in each building")
    stacks.add_argument("--scene", type=Path, action="append", help="a building of your own (again for more)")
    stacks.set_defaults(rows=stack_rows)
    train = verbs.add_parser("train", help="frames per second of PPO beside the limit of its parts, in about 8 minutes")
    train.add_argument("--only", nargs="+", metavar="NAME", help="some of: bundled resnet18 resnet50 workers")
    train.add_argument("--quick", action="store_true", help="see in seconds that it runs; the figures mean nothing")
    train.set_defaults(rows=train_rows)
    adapt = verbs.add_parser("adapt", help="time and memory of one training step of each method beside fine-tuning")
    adapt.add_argument("--only", nargs="+", metavar="METHOD", help="some methods; fine-tuning is always measured")
    adapt.add_argument("--base", default="resnet26", help="name of the base")
    adapt.add_argument("--batch", type=int, default=32, help="images in the step")
    adapt.add_argument("--repeats", type=int, default=7)
    adapt.set_defaults(rows=adapt_rows)
    nlp = verbs.add_parser("nlp", help="memory and time of one training step of a T5 by each method, each in a process")
    nlp.add_argument(
        "--only",
        nargs="+",
        metavar="METHOD",
        help="full, adapters, lora, bitfit, prompt, and ladders lst, lst_...",
    )
    nlp.add_argument("--size", default="t5-base", help="tiny, t5-small, t5-base or t5-large")
    nlp.add_argument("--batch", type=int, default=32, help="examples in the step")
    nlp.add_argument("--source", type=int, default=128, metavar="TOKENS", help="length of the input")
    nlp.add_argument("--target", type=int, default=8, metavar="TOKENS", help="length of the output")
    nlp.set_defaults(rows=nlp_rows)
    for verb in verbs.choices.values():
        verb.add_argument("--json", type=Path, metavar="FILE", help="where the rows are written")
        verb.add_argument(
            "--against", type=Path, metavar="FILE", help="rows of before: exit code 1 where a ratio is a tenth worse"
        )
    return root


def check_writable(path: Path) -> None:
    """Raise OSError before minutes are spent on measuring what could not be written."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of an earlier run; raises `SideAgentsError` for a file that holds none."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text())
        assert all("name" in row for row in rows)
    except (ValueError, TypeError, AssertionError):
        raise SideAgentsError(f"--against {path}: is no file that --json has written") from None
    return rows


def fallen_back(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> int:
    """Print each ratio beside that of before; return 1 where one is a tenth worse. Raises where there is none."""
    from benchmarks.against import compared

    found = list(compared(rows, before))
    if not found:
        raise SideAgentsError("--against: no row with a ratio is in both, nothing can be compared")
    for name, now, then, slower in found:
        print(f"{'WORSE' if slower else 'as good'}: {name} {now:.3f}, before {then:.3f}", file=sys.stderr)
    return int(any(slower for *_, slower in found))


def main() -> int:
    options = parser().parse_args()
    try:
        if options.json is not None:
            check_writable(options.json)
        before = None if options.against is None else read_rows(options.against)
        rows = options.rows(options)
        if options.json is None:
            print(json.dumps(rows, indent=1))
        else:
            write_text(options.json, json.dumps(rows, indent=1) + "\n")
        return 0 if before is None else fallen_back(rows, before)
    except (EnvsError, SideAgentsError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
