"""Verbs `adapt`, `relevance` and `lifelong`: supervised adaptation, no environments."""

from __future__ import annotations

import argparse

from sideagents_policies.cli.common import A_CONFIG, Verbs, add_run_options, add_verb, one_target


def add_verbs(verbs: Verbs) -> None:
    """Add `adapt`, `relevance` and `lifelong`."""
    adapt = add_verb(
        verbs,
        "adapt",
        "adapt a base to one data set of images",
        """sideagents adapt vision/resnet26_cifar
        sideagents adapt vision/adapters_cifar method=taps options.lam=0.5
        sideagents adapt vision/adapters_cifar --resume""",
        words="CONFIG [key=value ...]",
    )
    add_run_options(adapt, _adapt)
    relevance = add_verb(
        verbs,
        "relevance",
        "rank bases for a task by the alpha that side-tuning learns",
        """sideagents relevance vision/relevance_cifar
        sideagents relevance vision/relevance_cifar bases='[curvature, random]' --json ranking.json
        sideagents relevance vision/relevance_cifar --resume""",
        words="CONFIG [key=value ...]",
    )
    add_run_options(relevance, _relevance)
    lifelong = add_verb(
        verbs,
        "lifelong",
        "train on a sequence of tasks and measure what is forgotten",
        """sideagents lifelong lifelong/icifar_demo --json result.json
        sideagents lifelong lifelong/icifar method=ewc ewc.strength=1e4 seed=2
        sideagents lifelong lifelong/icifar --resume""",
        words="CONFIG [key=value ...]",
    )
    add_run_options(lifelong, _lifelong)


def _adapt(args: argparse.Namespace) -> int:
    from sideagents.jobs.adapt import absent_data, adapt_run, score_of
    from sideagents.storage.files import require, write_json
    from sideagents_policies.jobs import read_adapt

    config = read_adapt(*one_target(args, A_CONFIG))
    require(absent_data(config))
    run, result = adapt_run(config, resume=args.resume)
    print(f"{result['method']}: {score_of(result)}, {result['multiple']:.3f} x the base")
    print(f"wrote {run}")
    if args.json is not None:
        write_json(args.json, result)
    return 0


def _relevance(args: argparse.Namespace) -> int:
    from sideagents.jobs.adapt import absent_data
    from sideagents.jobs.relevance import each_base, relevance, table_of
    from sideagents.storage.files import require, write_json
    from sideagents_policies.jobs import read_relevance

    ranking = read_relevance(*one_target(args, A_CONFIG))
    configs = each_base(ranking)
    for config in configs.values():
        require(absent_data(config))
    folder, rows = relevance(ranking, configs, args.resume)
    print(table_of(rows))
    print(f"wrote {folder}")
    if args.json is not None:
        write_json(args.json, rows)
    return 0


def _lifelong(args: argparse.Namespace) -> int:
    from sideagents.jobs.lifelong import absent_data, lifelong, table_of
    from sideagents.storage.files import require, write_json
    from sideagents_policies.jobs import read_lifelong

    config = read_lifelong(*one_target(args, A_CONFIG))
    require(absent_data(config))
    run, result = lifelong(config, resume=args.resume)
    print(table_of(result))
    print(f"wrote {run}")
    if args.json is not None:
        write_json(args.json, result)
    return 0
