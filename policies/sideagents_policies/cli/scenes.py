"""Verb family `scenes`: make, check, episodes, render."""

from __future__ import annotations

import argparse

from sideagents_policies.cli.common import Parser, Verbs, add_verb, natural, positive_int, user_path
from sideagents_policies.guard import UsageError

SPLITS = ["train", "val", "test"]


def add_verbs(verbs: Verbs) -> None:
    """Add `scenes` with its verbs."""
    family = add_verb(
        verbs,
        "scenes",
        "make, check and render buildings, and make episodes in them",
        """sideagents scenes make
        sideagents scenes check house.glb
        sideagents scenes episodes house.glb --out house.json.gz --count 100 --seed 1""",
    )
    family.set_defaults(run=_missing)
    scenes = family.add_subparsers(title="verbs", metavar="VERB", parser_class=type(family))
    make = add_verb(
        scenes,
        "make",
        "make the bundled buildings and episode lists that are missing",
        """sideagents scenes make
        sideagents scenes make --split val""",
    )
    make.add_argument("--split", choices=SPLITS, action="append", help="only this split; may be repeated")
    make.set_defaults(run=_make)

    check = add_verb(
        scenes,
        "check",
        "tell whether a building can be used: units, up axis, holes, walkable area",
        "sideagents scenes check house.glb",
    )
    check.add_argument("file", type=user_path, metavar="FILE.glb")
    check.add_argument(
        "--json", nargs="?", const="-", metavar="F", help="print a JSON object, or write it to this file"
    )
    _add_up(check)
    check.set_defaults(run=_check)

    episodes = add_verb(
        scenes,
        "episodes",
        "make PointNav episodes in a building, filtered for detour as Gibson's",
        "sideagents scenes episodes house.glb --out house.json.gz --count 100 --seed 1",
    )
    episodes.add_argument("file", type=user_path, metavar="FILE.glb")
    episodes.add_argument("--out", type=user_path, required=True, metavar="F.json.gz")
    episodes.add_argument("--count", type=positive_int, default=100, metavar="N", help="how many (default 100)")
    episodes.add_argument("--seed", type=natural, default=0, metavar="S", help="same seed, same episodes (default 0)")
    _add_up(episodes)
    episodes.set_defaults(run=_episodes)

    render = add_verb(
        scenes,
        "render",
        "write random views with targets in Taskonomy's folder layout, for `sideagents pretrain`",
        """sideagents scenes render --split train --out data/rendered
        sideagents scenes render house.glb flat.glb --out data/rendered --tasks curvature depth --views 50""",
    )
    render.add_argument("files", type=user_path, nargs="*", metavar="FILE.glb", help="buildings (default: bundled)")
    render.add_argument("--out", type=user_path, required=True, metavar="DIR")
    render.add_argument("--split", choices=SPLITS, default="train", help="which bundled buildings (default train)")
    render.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="curvature, depth, ..., or all (default: those of the shipped bases)"
    )
    render.add_argument(
        "--views", type=positive_int, default=100, metavar="N", help="views of a building (default 100)"
    )
    render.add_argument("--size", type=positive_int, default=64, metavar="PIXELS", help="square images (default 64)")
    render.add_argument("--seed", type=natural, default=0, metavar="S", help="same seed, same views (default 0)")
    render.set_defaults(run=_render)


def _add_up(verb: Parser) -> None:
    verb.add_argument(
        "--up", choices=["auto", "y", "z"], default="auto", help="axis that points upwards, see scenes.up"
    )


def _missing(args: argparse.Namespace) -> int:
    raise UsageError("a verb is missing: scenes make, check, episodes or render")


def _make(args: argparse.Namespace) -> int:
    from sideagents_envs.episodes.bundled import ensure_bundled

    print(ensure_bundled(args.split or SPLITS))
    return 0


def _check(args: argparse.Namespace) -> int:
    from sideagents.storage.files import write_text
    from sideagents_envs.episodes.inspection import inspect_building
    from sideagents_envs.errors import SceneError

    report = inspect_building(args.file, up=args.up)
    if args.json not in (None, "-"):
        write_text(user_path(args.json), report.as_json() + "\n")
    print(report.as_json() if args.json == "-" else report.as_text())
    if not report.usable:
        raise SceneError(report.refusal())
    return 0


def _episodes(args: argparse.Namespace) -> int:
    from sideagents_envs.episodes.files import generate_episodes, write_episodes
    from sideagents_envs.episodes.ground import on_ground
    from sideagents_envs.episodes.inspection import require_upright
    from sideagents_envs.errors import EpisodeError
    from sideagents_envs.scenes.scene import load_scene
    from sideagents_envs.scenes.stage import with_up

    if not args.out.name.endswith(".json.gz"):
        raise EpisodeError(f"--out {args.out}: the name of an episode file must end in .json.gz")
    navmesh = require_upright(args.file, args.up)
    made = generate_episodes(navmesh, args.file.name, args.count, args.seed)
    made = on_ground(made, load_scene(with_up(args.file, args.up)))
    write_episodes(args.out, made)
    print(f"wrote {len(made)} episodes to {args.out}")
    return 0


def _render(args: argparse.Namespace) -> int:
    from sideagents_envs.config import ScenesConfig
    from sideagents_envs.episodes.bundled import scenes_root
    from sideagents_envs.episodes.inspection import require_upright
    from sideagents_envs.render.taskonomy import FOLDERS, TASKS, render_taskonomy

    for path in args.files:
        require_upright(path, "auto")
    paths = args.files or scenes_root(ScenesConfig(), args.split)
    tasks = TASKS if args.tasks is None else tuple(FOLDERS) if "all" in args.tasks else args.tasks
    print(f"wrote {render_taskonomy(paths, args.out, tasks, args.views, args.size, args.seed)}")
    return 0
