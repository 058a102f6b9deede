"""Verbs that make and use agents: train, demos, clone, eval, enjoy, plot."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sideagents_policies.cli.common import (
    Parser,
    Verbs,
    add_import,
    add_verb,
    checked_config,
    natural,
    one_target,
    optional_target,
    positive_int,
    split_words,
    user_path,
)
from sideagents_policies.guard import UsageError

if TYPE_CHECKING:
    from sideagents_policies.config import AgentConfig

CONFIG = "CONFIG [section.key=value ...]"
RUN = "RUN [section.key=value ...]"
_RUN_OR_AGENT = "a RUN (a folder that train or clone wrote) or --agent NAME"


def add_verbs(verbs: Verbs) -> None:
    """Add the six verbs."""
    _add_training(verbs)
    _add_measuring(verbs)


def _add_training(verbs: Verbs) -> None:
    train = add_verb(
        verbs,
        "train",
        "train an agent by PPO",
        """sideagents train pointnav/sidetune_curvature --init runs/sidetune_curvature_clone_1
        sideagents train pointnav/features_curvature ppo.frames=1000000 workers=2
        sideagents train --resume runs/sidetune_curvature_train_1""",
        words=CONFIG,
    )
    add_import(train)
    start = train.add_mutually_exclusive_group()
    start.add_argument("--init", type=user_path, metavar="RUN", help="start from this run's networks, often a clone's")
    start.add_argument("--resume", type=user_path, metavar="RUN", help="go on with this run, in its folder")
    train.set_defaults(run=_train)

    demos = add_verb(
        verbs,
        "demos",
        "collect demonstrations of the shortest-path expert",
        "sideagents demos pointnav/sidetune_curvature --out data/demos demos.trajectories=4900",
        words=CONFIG,
    )
    add_import(demos)
    demos.add_argument("--out", type=user_path, metavar="DIR", help="folder of the shards (default: RUNS/NAME_demos)")
    demos.add_argument("--minari", metavar="ID", help="write them to Minari's store as well")
    demos.set_defaults(run=_demos)

    clone = add_verb(
        verbs,
        "clone",
        "train an agent by behaviour cloning, with DAgger rounds where the config asks for them",
        """sideagents clone pointnav/sidetune_curvature --demos data/demos
        sideagents clone pointnav/sidetune_curvature clone.epochs=2 clone.dagger_frames=200000
        sideagents clone --resume runs/sidetune_curvature_clone_1""",
        words=CONFIG,
    )
    add_import(clone)
    clone.add_argument("--demos", type=user_path, metavar="DIR", help="demonstrations (else collected first)")
    start = clone.add_mutually_exclusive_group()
    start.add_argument("--init", type=user_path, metavar="RUN", help="start from the networks of this run")
    start.add_argument("--resume", type=user_path, metavar="RUN", help="go on with this run, in its folder")
    clone.set_defaults(run=_clone)


def _add_measuring(verbs: Verbs) -> None:
    evaluate = add_verb(
        verbs,
        "eval",
        "evaluate runs, or a baseline, on a fixed list of held-out episodes",
        """sideagents eval runs/sidetune_curvature_train_1 --split val
        sideagents eval runs/sidetune_* runs/features_* --split val
        sideagents eval runs/sidetune_curvature_train_1 --episodes-file house.json.gz --scene-dir scenes
        sideagents eval --agent straight --split val --episodes 200 --json straight.json""",
        words="RUN [RUN ...] [section.key=value ...]",
    )
    _add_playing(evaluate)
    evaluate.add_argument(
        "--episodes", type=natural, metavar="N", help="the first N, evenly from its buildings (0: all)"
    )
    evaluate.add_argument("--json", type=user_path, metavar="F", help="write one run's metrics to this file")
    evaluate.set_defaults(run=_eval)

    enjoy = add_verb(
        verbs,
        "enjoy",
        "film an agent: its view, what the base sees, map, path and alpha",
        """sideagents enjoy runs/sidetune_curvature_train_1 --out agent.mp4
        sideagents enjoy runs/sidetune_curvature_train_1 --episode 7 --out agent.gif --fps 6
        sideagents enjoy --agent expert --split test --out expert.mp4""",
        words=RUN,
    )
    _add_playing(enjoy)
    enjoy.add_argument(
        "--episode", type=natural, default=0, metavar="I", help="number in the list, as eval has it (default 0)"
    )
    enjoy.add_argument("--fps", type=positive_int, default=12, metavar="N", help="steps a second (default 12)")
    enjoy.add_argument(
        "--out",
        type=user_path,
        metavar="F",
        help=".mp4, .gif, or .png for a picture (default: an .mp4 in RUN/videos, of a baseline here)",
    )
    enjoy.set_defaults(run=_enjoy)

    compare = add_verb(
        verbs,
        "compare",
        "differences between two evaluations of the same episodes, with intervals",
        """sideagents compare runs/a_train_1/eval/val_sampled_step900000 runs/b_train_1/eval/val_sampled_step900000""",
        words="EVALUATION EVALUATION",
    )
    compare.add_argument("--json", type=user_path, metavar="F", help="write the differences to this file")
    compare.set_defaults(run=_compare)

    plot = add_verb(
        verbs,
        "plot",
        "draw learning curves of runs, averaged over seeds with intervals",
        "sideagents plot runs/sidetune_* runs/features_* --out curves.png",
        words="RUN [RUN ...]",
    )
    plot.add_argument("--out", type=user_path, required=True, metavar="F", help="image file, .png, .svg or .pdf")
    plot.set_defaults(run=_plot)


def _add_playing(verb: Parser) -> None:
    """Add who plays, which episodes, and how: what `eval` and `enjoy` share."""
    add_import(verb)
    who = verb.add_mutually_exclusive_group()
    who.add_argument("--agent", metavar="NAME", help="a baseline in place of a run: random, forward, straight, expert")
    who.add_argument(
        "--best", action="store_true", help="the checkpoint that did best in training (eval.every_frames), not the last"
    )
    verb.add_argument("--split", choices=["train", "val", "test"], help="buildings to play in")
    verb.add_argument(
        "--episodes-file", type=user_path, metavar="F", help="any PointNav-v1 .json.gz file, played round its buildings"
    )
    verb.add_argument("--scene-dir", type=user_path, metavar="DIR", help="where that file's buildings are")
    verb.add_argument("--deterministic", action="store_true", default=None, help="arg-max in place of sampled actions")


def _train(args: argparse.Namespace) -> int:
    from sideagents_policies.train.reinforcement import resume, train

    if args.resume is not None:
        resume(args.resume, *optional_target(args))
    else:
        train(checked_config(args), init=args.init)
    return 0


def _demos(args: argparse.Namespace) -> int:
    from sideagents_policies.demos.collect import collect
    from sideagents_policies.paths import demos_folder

    config = checked_config(args, networks=False)  # the expert acts alone
    folder = collect(config, demos_folder(config) if args.out is None else args.out)
    print(f"demonstrations: {folder}")
    if args.minari is not None:
        from sideagents_policies.demos.minari_export import export_minari

        print(f"Minari data set: {export_minari(folder, config, args.minari)}")
    return 0


def _clone(args: argparse.Namespace) -> int:
    from sideagents_policies.train.cloning import clone, resume

    if args.resume is not None:
        resume(args.resume, *optional_target(args), demos=args.demos)
    else:
        clone(checked_config(args), demos=args.demos, init=args.init)
    return 0


def _eval(args: argparse.Namespace) -> int:
    from sideagents_policies.evaluate.evaluation import evaluate_baseline, evaluate_run, evaluate_runs

    if args.json is not None and args.json.is_dir():
        raise UsageError(f"--json {args.json}: is a folder")
    options = {
        "split": args.split,
        "episodes": args.episodes,
        "episodes_file": args.episodes_file,
        "scenes_dir": args.scene_dir,
    }
    if args.agent is not None:
        evaluate_baseline(args.agent, _baseline_config(args), json_path=args.json, **options)
        return 0
    targets, overrides = split_words(args.words)
    options |= {"deterministic": args.deterministic, "overrides": overrides}
    if len(targets) < 2:
        run, _ = one_target(args, _RUN_OR_AGENT)
        evaluate_run(_chosen(run, args), json_path=args.json, **options)
    elif args.json is not None:
        raise UsageError(f"--json {args.json}: is for one run; of several, each has its own in RUN/eval/*/metrics.json")
    else:
        evaluate_runs([_chosen(run, args) for run in targets], **options)
    return 0


def _chosen(run: str, args: argparse.Namespace) -> Path:
    """Return the run, or its best checkpoint where that is asked for."""
    if not args.best:
        return Path(run)
    from sideagents.run.folder import RunFolder

    return RunFolder.open(Path(run)).best()


def _baseline_config(args: argparse.Namespace) -> AgentConfig:
    """Return the configuration that a baseline plays under: the one named, else the defaults; data must be there."""
    from sideagents_policies.agent.checks import default_config, read_config, require_data

    name, overrides = optional_target(args)
    config = default_config(overrides) if name is None else read_config(name, overrides)
    if args.scene_dir is None and args.episodes_file is None:
        require_data(config, networks=False)
    return config


def _enjoy(args: argparse.Namespace) -> int:
    from sideagents_policies.evaluate.enjoy import record, record_baseline

    options = {
        "episode": args.episode,
        "out": args.out,
        "split": args.split,
        "episodes_file": args.episodes_file,
        "scenes_dir": args.scene_dir,
        "fps": args.fps,
    }
    if args.agent is None:
        run, overrides = one_target(args, _RUN_OR_AGENT)
        path = record(_chosen(run, args), deterministic=args.deterministic, overrides=overrides, **options)
    else:
        path = record_baseline(args.agent, _baseline_config(args), **options)
    print(f"wrote {path}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from sideagents.storage.files import write_json
    from sideagents_policies.evaluate.compare import compare, comparison_table

    if len(args.words) != 2:
        raise UsageError("compare needs two folders that eval wrote: sideagents compare RUN/eval/NAME RUN/eval/NAME")
    result = compare(*map(user_path, args.words))
    print(comparison_table(result))
    if args.json is not None:
        write_json(args.json, result)
    return 0


def _plot(args: argparse.Namespace) -> int:
    from sideagents_policies.evaluate.plot import plot_runs

    runs, overrides = split_words(args.words)
    if overrides or not runs:
        raise UsageError("plot needs run folders: sideagents plot RUN [RUN ...] --out F.png")
    if args.out.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--out {args.out}: a plot is a .png, .svg or .pdf")
    print(f"wrote {plot_runs([Path(run) for run in runs], args.out)}")
    return 0
