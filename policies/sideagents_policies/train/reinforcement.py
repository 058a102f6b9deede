"""Training by PPO: from a configuration, from the networks of another run, or on from a checkpoint."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecEnv

from sideagents.config.typed import load_config
from sideagents.core.base import FrozenBase
from sideagents.machine.precision import told
from sideagents.machine.seeding import seed_everything
from sideagents.run.checkpoint import Checkpoint, load_checkpoint, restoring
from sideagents.run.folder import RunFolder
from sideagents.run.progress import Progress
from sideagents.storage.files import require
from sideagents_envs.errors import EnvsError
from sideagents_policies import parallel
from sideagents_policies.agent import checks
from sideagents_policies.agent.build import build_agent, learning_rate
from sideagents_policies.agent.ppo import SideTunedPPO
from sideagents_policies.agent.runs import load_weights
from sideagents_policies.config import AgentConfig
from sideagents_policies.evaluate.evaluation import TrainingEvaluation
from sideagents_policies.train.estimates import too_large
from sideagents_policies.train.session import (
    Session,
    StopRequest,
    launched_alone,
    main_run,
    new_run,
    rejoin,
    reopen,
    resume_workers,
    resuming,
    run_workers,
)
from sideagents_policies.train.summary import describe, rollout_bytes
from sideagents_policies.views.environments import build_venv
from sideagents_policies.views.plan import agent_base, observation_space, stacked_keys
from sideagents_policies.views.stack import environment_state, restore_environment

KIND = "train"
_AVERAGED_UPDATES = 8  # success and SPL are those of the episodes that ended in so many updates


def train(config: AgentConfig, init: Path | None = None) -> Path:
    """Train a new agent and return its run folder.

    init: a run whose networks training starts from, usually a clone. Raises `SideAgentsError` or `EnvsError`.
    """
    start = None if init is None else load_checkpoint(RunFolder.open(init).checkpoint())
    if launched_alone(config):
        _try_out(config, start)
        with new_run(config, KIND) as run:
            run_workers(run, config, [KIND, *([] if start is None else ["--init", str(start.path)])])
        return run.path
    world = parallel.init(config.device)
    try:
        # the agent is built first: nothing is written where that fails
        with _learner(config, world, start) as learner, main_run(config, KIND, world) as own:
            return _train(Session(config, world, own, None), learner)
    finally:
        parallel.finish()


def _try_out(config: AgentConfig, start: Checkpoint | None = None) -> None:
    """Raise `SideAgentsError` where the processes that are about to be started could not build the agent."""
    base, policy = checks.try_networks(config)
    require(too_large(config, base))
    if start is not None and policy is not None:
        load_weights(policy, start)


def resume(path: Path, given: str | None = None, overrides: list[str] | None = None) -> Path:
    """Go on with a run from its latest checkpoint; see `session.reopen` for what may be changed.

    With another `ppo.frames` schedules go on as in a run of so many frames, as those of stable-baselines3 do under
    `learn(..., reset_num_timesteps=False)`; a line says what moves.
    """
    before = load_config(AgentConfig, RunFolder.open(path).config_path)
    run, config = reopen(path, given, overrides or [])
    with resuming(run, KIND) as checkpoint:
        if os.environ.get("RANK", "0") == "0" and (line := _rescheduled(before, config, checkpoint.step)):
            print(f"note: {line}", flush=True)
        if launched_alone(config):
            _try_out(config)
            resume_workers(run, config, [KIND])
            return run.path
        world = parallel.init(config.device)
        try:
            return train_here(rejoin(run, config, checkpoint, world), None)
        finally:
            parallel.finish()


def _rescheduled(before: AgentConfig, now: AgentConfig, step: int) -> str:
    """Say what schedules do at `step` where the frames that they are spread over have changed; empty where nothing."""
    old, new = before.ppo, now.ppo
    left = [max(0.0, 1.0 - step / ppo.frames) for ppo in (old, new)]
    if left[0] == left[1]:
        return ""
    moved = []
    if new.final_lr_fraction != 1.0:
        rates = [learning_rate(new, share) for share in left]
        moved.append(f"the learning rate goes from {rates[0]:.3g} to {rates[1]:.3g}")
    if new.final_ent_coef is not None:
        moved.append(f"the entropy's coefficient is on its way from {new.ent_coef:g} to {new.final_ent_coef:g} again")
    if now.model.method == "stagewise" or now.model.alpha.startswith(("linear", "stagewise")):
        moved.append("alpha, which never rises, waits until its curriculum is there")
    if not moved:
        return ""
    return f"schedules are now spread over {new.frames} frames, not {old.frames}: {', '.join(moved)}"


class _Learner(NamedTuple):
    """What trains in this process: PPO with its policy, its environments, the frozen base; the rollout's bytes."""

    agent: SideTunedPPO
    venv: VecEnv
    base: FrozenBase | None
    rollout: int


@contextmanager
def _learner(config: AgentConfig, world: parallel.World, start: Checkpoint | None) -> Iterator[_Learner]:
    """Make environments, base and agent, with the weights that it starts from; the environments end with the block."""
    torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    base = agent_base(config)
    require(too_large(config, base))
    venv = build_venv(config, base=base, world=world)
    try:
        agent = build_agent(config, venv, base, world)
        if start is not None:
            load_weights(agent.policy, start)
        rollout = rollout_bytes(config, observation_space(config, base), stacked_keys(config, base))
        yield _Learner(agent, venv, base, rollout)
    finally:
        venv.close()


def train_here(session: Session, start: Checkpoint | None) -> Path:
    """Train in this process, as one of `session.world`."""
    with _learner(session.config, session.world, start) as learner:
        return _train(session, learner)


def _train(session: Session, learner: _Learner) -> Path:
    config, agent, resumed = session.config, learner.agent, session.resumed
    session.say(describe(agent.policy, {"rollout": learner.rollout}, session.world.size))
    session.say(told(config))
    for line in checks.remarks(config):
        session.say(f"note: {line}")
    try:
        if resumed is not None:
            with session.going_on(), restoring(resumed, EnvsError):
                own, _ = session.own_state()
                load_weights(agent.policy, resumed)
                restore_environment(learner.venv, own["environments"])
                agent.set_training_state(own["ppo"])
        left = config.ppo.frames - agent.num_timesteps
        if left <= 0:
            session.say(f"{agent.num_timesteps} of {config.ppo.frames} frames are done; raise ppo.frames to go on")
            return session.folder
        with session.telling(KIND), _evaluation(session, learner.base) as evaluation:
            _learn(session, agent, left, evaluation)
    finally:
        session.close()
    session.say(f"trained: {session.folder}")
    return session.folder


@contextmanager
def _evaluation(session: Session, base: FrozenBase | None) -> Iterator[TrainingEvaluation | None]:
    """Give the main process what evaluates in training, where the configuration asks for it."""
    if session.config.eval.every_frames == 0:
        yield None
        return
    evaluation = None
    with parallel.others_wait(session.world):
        if session.world.is_main:
            evaluation = TrainingEvaluation(session.config, base, session.world)
    try:
        yield evaluation
    finally:
        if evaluation is not None:
            evaluation.close()


def _learn(session: Session, agent: SideTunedPPO, left: int, evaluation: TrainingEvaluation | None) -> None:
    agent.set_logger(Logger(None, [_RunWriter(session)]))
    with StopRequest() as stop:
        callback = _TrainCallback(session, stop, evaluation)
        try:
            with callback.progress:
                agent.learn(left, callback=callback, reset_num_timesteps=session.resumed is None)
        except _Stopped:
            session.tell_stopped(KIND, f"{agent.num_timesteps} frames")
            raise KeyboardInterrupt from None


class _Stopped(Exception):
    """Training was asked to stop and has saved."""


class _RunWriter(KVWriter):
    """SB3's logger into the run folder."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        """Write the numbers of one update."""
        numbers = {key: value for key, value in key_values.items() if isinstance(value, int | float)}
        self._session.log(step, numbers)

    def close(self) -> None:
        """Do nothing: the run folder is closed by its owner."""


class _TrainCallback(BaseCallback):
    """Logs, evaluates and saves between updates, stops when asked."""

    model: SideTunedPPO

    def __init__(self, session: Session, stop: StopRequest, evaluation: TrainingEvaluation | None) -> None:
        super().__init__()
        self._session, self._stop, self._evaluation = session, stop, evaluation
        self._evaluated = 0  # frames at the last evaluation
        self._recent: deque[list[float]] = deque(maxlen=_AVERAGED_UPDATES)
        self._sums = [0.0] * 4
        self._clock = time.perf_counter()
        self._last_saved = 0
        show = "auto" if session.world.is_main else "off"
        self.progress = Progress(session.config.ppo.frames, "ppo", unit="frame", show=show)  # type: ignore[arg-type]

    def _on_training_start(self) -> None:
        if self._session.resumed is not None:
            own, _ = self._session.own_state()
            with restoring(self._session.resumed, EnvsError):
                self._recent.extend(own["recent"])
                self._evaluated = int(self._session.resumed.extra.get("evaluated", 0))
        self._last_saved = self.progress.done = self.model.num_timesteps

    def _on_rollout_start(self) -> None:
        """Between two updates: everything that a resumed run needs is at rest here."""
        stopping = self._stop.agreed(self._session.world.device)
        if stopping:
            self._save()  # an evaluation that is due waits for the resumed run
            raise _Stopped
        due = self.model.num_timesteps - self._last_saved >= self._session.config.ppo.checkpoint_every_frames
        if not self._evaluate() and due:
            self._save()
        self._clock, self._sums = time.perf_counter(), [0.0] * 4

    def _on_step(self) -> bool:
        for env in self.locals["dones"].nonzero()[0]:
            info = self.locals["infos"][env]
            for i, value in enumerate((1.0, info["is_success"], info["spl"], info["episode_return"])):
                self._sums[i] += float(value)
        return True

    def _on_rollout_end(self) -> None:
        device = self._session.world.device
        self._recent.append(parallel.all_sum(torch.tensor(self._sums, dtype=torch.float64, device=device)).tolist())
        episodes, *sums = (sum(column) for column in zip(*self._recent, strict=True))
        if episodes:
            for name, value in zip(("success", "spl", "return"), sums, strict=True):
                self.logger.record(f"rollout/{name}", value / episodes)
        rollout = self.model.n_steps * self.model.n_envs * self._session.world.size
        self.logger.record("time/rollout_fps", rollout / (time.perf_counter() - self._clock))
        extractor: Any = self.model.policy.features_extractor
        self.progress.update(rollout, success=sums[0] / max(episodes, 1.0), alpha=float(extractor.alpha_value()))

    def _on_training_end(self) -> None:
        if not self._evaluate():
            self._save()

    def _evaluate(self) -> bool:
        """Evaluate and save when that is due; return whether it was."""
        done, every = self.model.num_timesteps, self._session.config.eval.every_frames
        if every == 0 or done // every == self._evaluated // every:
            return False
        self._evaluated = done
        score = None
        with parallel.others_wait(self._session.world):
            if self._evaluation is not None:
                means = self._evaluation.measure(self.model.policy)
                self._session.log(done, {f"eval/{metric}": mean for metric, mean in means.items()})
                score = (means["success"], means["spl"])
                self.progress.write(f"evaluated at {done} frames: success {score[0]:.3f}, SPL {score[1]:.3f}")
        self._save(score)
        return True

    def _save(self, score: tuple[float, float] | None = None) -> None:
        model = self.model
        own = {
            "ppo": model.get_training_state(),
            "environments": environment_state(self.training_env),
            "recent": list(self._recent),
        }
        extra = {"evaluated": self._evaluated}
        self._session.save(model.num_timesteps, KIND, model.policy, own, extra=extra, score=score)
        self._last_saved = model.num_timesteps
