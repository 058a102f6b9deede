"""Behaviour cloning of the very policy that PPO trains: a new run, alone or among peers, and one that goes on."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from sideagents.errors import ConfigError
from sideagents.machine.seeding import seed_everything
from sideagents.run.checkpoint import Checkpoint, load_checkpoint
from sideagents.run.folder import RunFolder
from sideagents_policies import parallel
from sideagents_policies.agent import checks
from sideagents_policies.agent.runs import load_weights
from sideagents_policies.config import AgentConfig
from sideagents_policies.demos.collect import DemosError, check_fits, collect, count_trajectories
from sideagents_policies.train.cloner import KIND, Cloner
from sideagents_policies.train.session import (
    Session,
    how_to_finish,
    launched_alone,
    main_run,
    new_run,
    rejoin,
    reopen,
    resume_workers,
    resuming,
    run_workers,
    under_launcher,
)


def clone(config: AgentConfig, demos: Path | None = None, init: Path | None = None) -> Path:
    """Clone the expert into a new run and return its folder.

    demos: a folder that `sideagents demos` filled; without it they are collected first, into RUN/demos. All that it
    holds are learnt from, and the run's configuration says how many that are.
    init: a run whose networks training starts from. Raises `SideAgentsError` or `EnvsError`.
    """
    start = None if init is None else load_checkpoint(RunFolder.open(init).checkpoint())
    _, policy = checks.try_networks(config)  # asked before anything is written
    if start is not None and policy is not None:
        load_weights(policy, start)
    if demos is not None:
        config = _with_held_trajectories(demos, config)
    if config.clone.epochs == 0 and config.clone.dagger_frames == 0:
        raise ConfigError("clone.epochs and clone.dagger_frames are both 0: there is nothing to train")
    if under_launcher():
        return _clone_among_peers(config, demos, start)
    with new_run(config, KIND) as run:
        demos = _collected(config, run, start) if demos is None else demos
        if not launched_alone(config):
            return clone_here(Session(config, parallel.init(config.device), run, None), start, demos)
        init_words = [] if start is None else ["--init", str(start.path)]
        run_workers(run, config, [KIND, "--demos", str(demos), *init_words])
    return run.path


def _with_held_trajectories(demos: Path, config: AgentConfig) -> AgentConfig:
    """Return the configuration with the number of demonstrations that a folder holds; tell when it is another."""
    header = check_fits(demos, config)
    held = count_trajectories(header["shards"])
    if held != config.demos.trajectories and os.environ.get("RANK", "0") == "0":
        print(f"{demos} holds {held} demonstrations, not {config.demos.trajectories}: all of them are used", flush=True)
    section = config.demos.model_copy(update={"trajectories": held, "images": header["images"]})
    return config.model_copy(update={"demos": section})


def _collected(config: AgentConfig, run: RunFolder, start: Checkpoint | None) -> Path:
    """Collect demonstrations into the run; when that is interrupted, tell how to go on."""
    try:
        return collect(config, run.path / "demos")
    except KeyboardInterrupt:
        if (run.path / "demos" / "demos.json").exists():
            init = [] if start is None else ["--init", str(start.path)]
            print(f"stopped while collecting demonstrations; {how_to_finish(run, init)}", flush=True)
        else:
            print("stopped before the first demonstrations were whole: nothing was kept", flush=True)
        raise


def _clone_among_peers(config: AgentConfig, demos: Path | None, start: Checkpoint | None) -> Path:
    """Clone as one of the processes that torchrun started; the first collects the demonstrations for all."""
    world = parallel.init(config.device, timeout_s=3600.0)
    try:
        if demos is None:
            demos = Path(config.runs) / f"{config.name}_demos"
            if world.is_main:
                collect(config, demos)
            parallel.all_sum(torch.zeros(1, device=world.device))  # wait for it
        with main_run(config, KIND, world) as run:
            return clone_here(Session(config, world, run, None), start, demos)
    finally:
        parallel.finish()


def resume(path: Path, given: str | None = None, overrides: list[str] | None = None, demos: Path | None = None) -> Path:
    """Go on with a clone from its latest checkpoint; see `session.reopen` for what may be changed."""
    run, config = reopen(path, given, overrides or [])
    demos = _demos_of(run, load_checkpoint(run.checkpoint())) if demos is None else demos
    held = count_trajectories(check_fits(demos, config)["shards"])
    if held != config.demos.trajectories:
        raise DemosError(f"{demos}: holds {held} demonstrations, the run learns from {config.demos.trajectories}")
    with resuming(run, KIND) as checkpoint:
        if launched_alone(config):
            resume_workers(run, config, [KIND, "--demos", str(demos)])
            return run.path
        world = parallel.init(config.device)
        try:
            return clone_here(rejoin(run, config, checkpoint, world), None, demos)
        finally:
            parallel.finish()


def _demos_of(run: RunFolder, checkpoint: Checkpoint) -> Path:
    """Return the demonstrations that a clone learns from: where they were, or in the run, which may have been moved."""
    own = run.path / "demos"
    recorded = Path(str(checkpoint.extra.get("demos", own)))
    return own if not recorded.is_dir() and own.is_dir() else recorded


def clone_here(session: Session, start: Checkpoint | None, demos: Path) -> Path:
    """Train in this process, as one of `session.world`."""
    config = session.config
    torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    cloner = Cloner(session, demos)
    try:
        if start is not None:
            load_weights(cloner.policy, start)
        with session.telling(KIND):
            cloner.run()
    finally:
        cloner.close()
        session.close()
    session.say(f"cloned: {session.folder}")
    return session.folder
