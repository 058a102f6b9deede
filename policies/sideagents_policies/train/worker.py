"""One of the processes that `workers: N` starts: `python -m sideagents_policies.train.worker RUN train|clone ...`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    """Join the peers and train in the run folder, whose configuration says everything else."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("kind", choices=["train", "clone"])
    parser.add_argument("--init", type=Path)
    parser.add_argument("--demos", type=Path)
    parser.add_argument("--resume", type=Path, metavar="CONFIG", help="the configuration to go on with")
    parser.add_argument("--command", help="what was typed to go on")
    parser.add_argument("--import", dest="imports", action="append", default=[])
    args = parser.parse_args()

    from sideagents.config.imports import import_own
    from sideagents.config.typed import load_config
    from sideagents.errors import DivergedError
    from sideagents.run.checkpoint import load_checkpoint
    from sideagents.run.folder import RunFolder
    from sideagents_policies import parallel
    from sideagents_policies.agent import checks
    from sideagents_policies.config import AgentConfig
    from sideagents_policies.train.cloning import clone_here
    from sideagents_policies.train.reinforcement import train_here
    from sideagents_policies.train.session import Session

    for module in args.imports:
        import_own(module)
    run = RunFolder.open(args.run)
    # whoever started this process trusts it
    config = checks.checked(load_config(AgentConfig, run.config_path if args.resume is None else args.resume))
    world = parallel.init(config.device)
    resumed = load_checkpoint(run.checkpoint()) if args.resume is not None else None
    session = Session(config, world, run if world.is_main else None, resumed, args.command)
    start = None if args.init is None else load_checkpoint(args.init)
    try:
        if args.kind == "train":
            train_here(session, start)
        else:
            clone_here(session, start, args.demos)
    except parallel.LostPeer:  # who started this process says which was lost, and how
        return parallel.LOST
    except DivergedError:  # mostly in all processes at once, and the main one says it; else who started this process
        if world.is_main:
            raise
        return parallel.DIVERGED
    parallel.finish()
    return 0


if __name__ == "__main__":
    from sideagents_policies.guard import guarded

    code = guarded(main)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # after a peer was lost, gloo's threads would abort an ordinary exit
