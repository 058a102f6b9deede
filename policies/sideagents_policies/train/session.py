"""What training by PPO and by cloning have in common: the run folder, peers, a clean stop, the logger."""

from __future__ import annotations

import math
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from sideagents.config.imports import import_words
from sideagents.config.typed import dump_config, load_config
from sideagents.errors import CheckpointError, DivergedError, SideAgentsError
from sideagents.machine.precision import sets_precision
from sideagents.run.checkpoint import Checkpoint, load_checkpoint, restoring, save_checkpoint
from sideagents.run.folder import RunFolder
from sideagents.run.provenance import command_line
from sideagents.storage.lock import locked
from sideagents_envs.errors import EnvsError
from sideagents_policies import parallel
from sideagents_policies.agent import checks
from sideagents_policies.agent.policy import SideTunedPolicy
from sideagents_policies.agent.ppo import check_statistics
from sideagents_policies.agent.runs import identity, open_run
from sideagents_policies.config import AgentConfig
from sideagents_policies.parallel import World
from sideagents_policies.paths import locate

KEPT = 3  # newest checkpoints of a run, beside the best
# What the state of a checkpoint holds: of each process, and common to all.
_OWN = {"train": ("ppo", "environments", "recent"), "clone": ("explorer",)}
_COMMON = {"train": (), "clone": ("place", "moments", "groups")}


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a request that training honours at its next clean point; a second one ends at once.

    Use as a context manager. `pending` is this process's own request; `agreed()` asks all that train together.
    """

    def __init__(self) -> None:
        self.pending = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True
        if not parallel.is_launched():  # who passes the signal on has said it, once for all processes
            parallel.tell_stopping()

    def agreed(self, device: torch.device) -> bool:
        """Return whether any of the processes was asked to stop; all of them must call it."""
        return bool(parallel.all_sum(torch.tensor([float(self.pending)], device=device)))


class Session:
    """One training run as seen by one process: only the main process has `run` and writes logs and checkpoints.

    `folder` is the run's folder, known to all; `resumed` is the checkpoint that training goes on from, or None;
    `command` is what was typed to go on, where it is not what started this process.
    """

    def __init__(
        self,
        config: AgentConfig,
        world: World,
        run: RunFolder | None,
        resumed: Checkpoint | None,
        command: str | None = None,
    ) -> None:
        self._command = command
        self.config, self.world, self.run, self.resumed = config, world, run, resumed
        path = ["" if run is None else str(run.path)]
        if world.size > 1:
            dist.broadcast_object_list(path, src=0)
        self.folder = Path(path[0])

    def log(self, step: int, values: Mapping[str, float | int | str]) -> None:
        """Write scalars to progress.csv and TensorBoard; what is nan (alpha of an agent that has none) is left out."""
        if self.run is not None:
            known = {key: value for key, value in values.items() if value == value}
            self.run.log(step, {"frames": step, **known})

    def say(self, text: str) -> None:
        """Print a line in the main process."""
        if self.world.is_main:
            print(text, flush=True)

    def tell_stopped(self, verb: str, where: str) -> None:
        """Print where training stopped and the command that goes on."""
        self.say(f"stopped and saved at {where}: {self.resuming(verb)}")

    def resuming(self, verb: str) -> str:
        """Return the command that goes on with the run."""
        words = [*import_words(), *(f"{key}={path}" for key, path in checks.own_code(self.config).items())]
        return " ".join([f"sideagents {verb} --resume {self.folder}", *words])

    def save(
        self,
        step: int,
        kind: str,
        policy: SideTunedPolicy,
        own: Mapping[str, Any],
        common: Any = None,
        extra: Mapping[str, Any] | None = None,
        score: Sequence[float] | None = None,
    ) -> None:
        """Write a checkpoint; `own` is the state of each process, gathered from all of them."""
        states = _gathered(dict(own), self.world)
        if self.run is None:
            return
        base = getattr(policy.features_extractor, "base", None)
        named = identity(self.config, base)
        save_checkpoint(
            self.run.checkpoints,
            step,
            policy.state_dict(),
            {"kind": kind, "common": common, "processes": states},
            extra=extra,
            score=score,
            config_hash=named["config_hash"],
            base=named["base"],
            fingerprint=named["fingerprint"],
            keep=KEPT,
        )

    @contextmanager
    def going_on(self) -> Iterator[Checkpoint]:
        """Give the checkpoint, to put this process's state back in the block; note then in the folder that it goes on.

        All processes that train together must call it. When the state of any cannot be put back nothing is written: the
        first of them raises its error, the others `LostPeer`.
        """
        assert self.resumed is not None
        problem: Exception | None = None
        try:
            yield self.resumed
        except (SideAgentsError, EnvsError) as error:
            problem = error
        failed = torch.zeros(self.world.size, device=self.world.device)
        failed[self.world.rank] = float(problem is not None)
        first = next(iter(parallel.all_sum(failed).nonzero().flatten().tolist()), None)
        if problem is not None and first == self.world.rank:
            raise problem
        if first is not None:
            raise parallel.LostPeer
        if self.run is not None:
            self.run.go_on(self.resumed.step, self.config, self._command)

    def telling(self, verb: str) -> AbstractContextManager[None]:
        """Let what ends training in the block name the last good checkpoint and the command to go on."""
        return nullcontext() if self.run is None else self.run.telling(self.resuming(verb))

    def own_state(self) -> tuple[dict[str, Any], Any]:
        """Return what `save` was given by this process, and the common part; raises `CheckpointError`."""
        assert self.resumed is not None
        processes = self.resumed.state["processes"]
        if len(processes) != self.world.size:
            raise CheckpointError(
                f"{self.resumed.path}: was trained by {len(processes)} processes, now there are {self.world.size}"
            )
        return processes[self.world.rank], self.resumed.state["common"]

    def close(self) -> None:
        """Flush the logs."""
        if self.run is not None:
            self.run.close()


def _gathered(own: dict[str, Any], world: World) -> list[Any]:
    """Return the states of all processes in the main one; raises `LostPeer` when one of them is lost."""
    if world.size == 1:
        return [own]
    states: list[Any] = [None] * world.size
    try:
        dist.gather_object(own, states if world.is_main else None)
    except RuntimeError as error:
        raise parallel.LostPeer from error
    return states


def new_run(config: AgentConfig, verb: str) -> AbstractContextManager[RunFolder]:
    """Make the folder `runs/NAME_VERB_n` and hold its lock for the block; see `RunFolder.working`."""
    return RunFolder.working(Path(config.runs), f"{config.name}_{verb}", config)


def reopen(path: Path, given: str | None, overrides: list[str]) -> tuple[RunFolder, AgentConfig]:
    """Open a run to go on with it, under the configuration it has, or one that may be resumed from it.

    given: a configuration file or name on the command line. Raises `ConfigError` when that makes it another run.
    """
    if given is None:
        run, now = open_run(path, overrides)
    else:
        run, now = RunFolder.open(path), checks.read_config(given, overrides)
    before = locate(load_config(AgentConfig, run.config_path))
    if not sets_precision(overrides):
        now = now.model_copy(update={"precision": before.precision})
    checks.refuse_changes(before, now)
    checks.require_data(now)
    if run.latest() is None:
        remedy = f": {how_to_finish(run)}" if (run.path / "demos" / "demos.json").exists() else ""
        raise CheckpointError(f"{path}: has no checkpoint yet, so there is nothing to resume{remedy}")
    return run, now


def how_to_finish(run: RunFolder, words: Sequence[str] = ()) -> str:
    """Return the commands that collect the rest of a run's demonstrations and clone from them in a new run."""
    demos = run.path / "demos"
    collect = ["sideagents", "demos", str(run.config_path), "--out", str(demos), *import_words()]
    clone = ["sideagents", "clone", str(run.config_path), "--demos", str(demos), *words, *import_words()]
    return f"go on with `{' '.join(collect)}`, then `{' '.join(clone)}`"


@contextmanager
def resuming(run: RunFolder, kind: str) -> Iterator[Checkpoint]:
    """Hold the run's lock, in the process that writes into it, and give the checkpoint that training goes on from."""
    main = os.environ.get("RANK", "0") == "0"
    with locked(run.path) if main else nullcontext():
        run.check_files()
        yield to_resume(run, kind)


def to_resume(run: RunFolder, kind: str) -> Checkpoint:
    """Return the latest checkpoint of a run; nothing is written.

    Raises `CheckpointError` for one of another kind of training, one that is not the latest, or a damaged one.
    """
    latest = run.latest()
    if run.selected is not None and (latest is None or run.selected.resolve() != latest.resolve()):
        raise CheckpointError(
            f"{run.selected}: is not the run's latest checkpoint; start a new run from it with --init"
        )
    checkpoint = load_checkpoint(run.checkpoint())
    found = checkpoint.state.get("kind") if isinstance(checkpoint.state, dict) else None
    if found != kind:
        raise CheckpointError(
            f"{checkpoint.path}: was saved by `sideagents {found}`, `sideagents {kind}` cannot resume it "
            "(a new run starts from it with --init)"
        )
    _check_state(checkpoint, kind)
    return checkpoint


def _check_state(checkpoint: Checkpoint, kind: str) -> None:
    """Raise `CheckpointError` unless the state has the parts that a run of this kind goes on from."""
    state, processes = checkpoint.state, checkpoint.state.get("processes")
    whole = isinstance(processes, list) and processes and all(isinstance(own, dict) for own in processes)
    missing = [] if whole else ["processes"]
    missing += [key for key in _OWN[kind] if whole and any(key not in own for own in processes)]
    common = state.get("common")
    missing += [key for key in _COMMON[kind] if not isinstance(common, dict) or key not in common]
    if "common" not in state:
        missing.append("common")
    if missing:
        raise CheckpointError(f"{checkpoint.path / 'state.json'}: is damaged, it lacks {', '.join(missing)}")
    if kind == "train":
        with restoring(checkpoint):
            for own in processes:
                check_statistics(own["ppo"])
                if not all(len(row) == 4 and all(map(math.isfinite, row)) for row in own["recent"]):
                    raise ValueError("the recent episodes are no rows of four numbers")


def rejoin(run: RunFolder, config: AgentConfig, checkpoint: Checkpoint, world: World) -> Session:
    """Return the session of one of the processes that go on with a run."""
    return Session(config, world, run if world.is_main else None, checkpoint)


def main_run(config: AgentConfig, verb: str, world: World) -> AbstractContextManager[RunFolder | None]:
    """Make the run folder in the main process; None in the others."""
    return new_run(config, verb) if world.is_main else nullcontext()


def launched_alone(config: AgentConfig) -> bool:
    """Return whether this process should start the workers itself: `workers` above 1 and no launcher around it."""
    return config.workers > 1 and not under_launcher()


def under_launcher() -> bool:
    """Return whether torchrun, or our own launcher, started this process among others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def resume_workers(run: RunFolder, config: AgentConfig, arguments: list[str]) -> None:
    """Go on with a run in `workers` processes; the folder keeps its configuration until they all have their state back.

    Raises as `run_workers`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(dump_config(config), encoding="utf-8")
        run_workers(run, config, [*arguments, "--resume", str(path), f"--command={command_line()}"])


def run_workers(run: RunFolder, config: AgentConfig, arguments: list[str]) -> None:
    """Train in `workers` processes of this machine; what they report they print themselves.

    Raises KeyboardInterrupt after Ctrl-C, `DivergedError` where only this process is left to say it, and SystemExit
    when one of them failed: all are stopped then, and the last checkpoint stays.
    """
    code = parallel.launch(
        config.workers, ["-m", "sideagents_policies.train.worker", str(run.path), *arguments, *import_words()]
    )
    if code in (130, 143):
        raise KeyboardInterrupt
    if code == 2:
        raise SystemExit(2)
    if code == parallel.DIVERGED:
        with run.telling():
            raise DivergedError("training has diverged in one of its processes: lower the learning rate")
    if code:
        latest = run.latest()
        kept = f"go on from {latest} with --resume {run.path}" if latest else "no checkpoint was written yet"
        print(f"error: training stopped with code {code}; {kept}", file=sys.stderr)
        raise SystemExit(1)
