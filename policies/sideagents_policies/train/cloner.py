"""Cloning in one process: demonstrations first, then DAgger where it is asked for.

DAgger (Ross et al. 2011): the policy acts by sampling, the expert says what it would have done in each state visited,
and training goes on with the newest frames of both. The critic learns on the way from discounted returns, on features
that it does not change, so that PPO starts with a sane one.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from sideagents.core.groups import parameter_groups
from sideagents.errors import DivergedError
from sideagents.machine.precision import told
from sideagents.machine.seeding import capture_rng, restore_rng
from sideagents.run.checkpoint import flatten_optimizer, restore_optimizer, restoring
from sideagents.run.progress import Progress
from sideagents_envs.errors import EnvsError
from sideagents_policies import parallel
from sideagents_policies.agent.build import build_policy
from sideagents_policies.agent.checks import remarks
from sideagents_policies.agent.runs import load_weights
from sideagents_policies.demos.collect import check_fits, count_frames, read_demos
from sideagents_policies.demos.frames import DemoReader
from sideagents_policies.demos.store import FrameStore
from sideagents_policies.train.dagger import Explorer, RoundFiles, dagger_seed, kept_frames, round_steps, window_frames
from sideagents_policies.train.session import Session, StopRequest
from sideagents_policies.train.summary import describe
from sideagents_policies.views.environments import build_venv
from sideagents_policies.views.plan import agent_base, observation_space, stacked_keys

KIND = "clone"
_LOG_EVERY = 50  # steps


@dataclass
class Place:
    """Where training is: round 0 is the demonstrations, then DAgger's; `step` counts within the round."""

    round: int = 0
    step: int = 0
    steps: int = 0  # over all rounds
    frames: int = 0  # labelled frames trained on, over all rounds and processes
    unlogged: int = 0  # steps since the last row of progress.csv


class Cloner:
    """Cloning in one process."""

    def __init__(self, session: Session, demos: Path) -> None:
        self.session, self.config, self.world = session, session.config, session.world
        self._demos = demos
        clone_ = self.config.clone
        base = agent_base(self.config)
        space = observation_space(self.config, base)
        self.policy = build_policy(self.config, base, self.world.device)
        share = count_frames(check_fits(demos, self.config), self.world.rank, self.world.size)
        self._rounds = round_steps(self.config, self.world.size)
        self._window = window_frames(self.config, self.world.size)
        capacity = kept_frames(self.config, share, self.world.size)
        stacks = stacked_keys(self.config, base)
        on_disk = clone_.frames_in == "disk"
        buffers = {f"frames{' on disk' if on_disk else ''}": capacity * FrameStore.frame_bytes(space, stacks)}
        session.say(describe(self.policy, buffers, self.world.size))
        session.say(told(self.config))
        for line in remarks(self.config):
            session.say(f"note: {line}")
        folder = session.folder / f"frames_process{self.world.rank}" if on_disk else None
        gap, here = self.config.vec.n_envs, parallel.processes_here()
        self.store = FrameStore(space, capacity, stacks, gap=gap, folder=folder, processes=here)
        self._reader = DemoReader(self.config, space, base, self.world.device)
        groups = parameter_groups(self.policy, clone_.learning_rate, clone_.alpha_learning_rate)
        fused = self.world.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(groups, clone_.learning_rate, weight_decay=clone_.weight_decay, fused=fused)
        self._rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        critic = {id(p) for p in self.policy.value_net.parameters()}
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._actor: list[nn.Parameter] = [p for p in trained if id(p) not in critic]
        self._critic: list[nn.Parameter] = [p for p in trained if id(p) in critic]
        self.place = Place()
        self._sums = torch.zeros(3, device=self.world.device)  # loss, accuracy, value loss of the steps not logged yet
        self._explorer: Explorer | None = None
        self._venv: VecEnv | None = None
        self._base = base
        self._files = RoundFiles(session.folder / "buffer", self.world.rank)
        self._needed = -1  # the last round that the checkpoint before the newest one includes
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Train to the end, or to a request to stop, which raises KeyboardInterrupt after saving."""
        self._load_demos()
        plan = self._plan()
        if plan[1:]:
            self._venv = build_venv(self.config, base=self._base, seed=dagger_seed(self.config), world=self.world)
            self._explorer = Explorer(self.config, self._venv, self.policy, self.world)
        self._restore()
        parallel.share_parameters(self.policy)
        show = "auto" if self.world.is_main else "off"
        with (
            StopRequest() as stop,
            Progress(sum(plan), "cloning", unit="step", done=self.place.steps, show=show) as progress,  # type: ignore[arg-type]
        ):
            for number in range(self.place.round, len(plan)):
                if number > 0 and self.place.step == 0:
                    self._explore(number, stop)
                self._train(plan, stop, progress)
                self.place = Place(number + 1, 0, self.place.steps, self.place.frames)
        self._save()
        self._files.remove_all()

    def close(self) -> None:
        """End the environments; remove what a run that goes on reads anew."""
        self.store.remove_files()
        if self._venv is not None:
            self._venv.close()

    # frames

    def _load_demos(self) -> None:
        """Read this process's share of the demonstrations: every world.size-th trajectory."""
        mine = islice(read_demos(self._demos), self.world.rank, None, self.world.size)
        started = time.perf_counter()
        count = self._reader.fill(self.store, mine)
        seconds = time.perf_counter() - started
        self.session.say(f"{count} demonstrations with {self.store.total} frames read in {seconds:.0f} s")

    def _plan(self) -> list[int]:
        """Return the training steps of each round; every process takes as many."""
        clone_ = self.config.clone
        batch = clone_.batch_size * self.world.size
        demos = self._sum(self.store.total)
        self._steps_per_pass = max(1, math.ceil(demos / batch))
        plan = [math.ceil(clone_.epochs * demos / batch)]
        seen = demos
        for steps in self._rounds:
            seen += steps * self.config.vec.n_envs * self.world.size
            plan.append(math.ceil(clone_.dagger_epochs * min(seen, clone_.dagger_buffer_frames) / batch))
        return plan

    def _sum(self, value: float) -> int:
        return int(parallel.all_sum(torch.tensor(float(value), dtype=torch.float64, device=self.world.device)))

    def _explore(self, number: int, stop: StopRequest) -> None:
        """Collect one DAgger round; a stop on the way saves the state from before it."""
        assert self._explorer is not None
        before = self._own_state()
        found = self._explorer.collect(self._rounds[number - 1], self.store, stop)
        if found is None:
            self._save(before)
            self._leave()
            return
        self._files.write(number, found.frames)
        self.store.add(found.frames)
        values = {"frames": self.place.frames, "time/dagger_fps": found.frames_per_second}
        self.session.log(self.place.steps, {**values, **found.scores(self.world)})

    def _rows(self, round_: int, step: int) -> NDArray[np.int64]:
        """Return the ages of one mini-batch: passes over the window, each in an order of its own."""
        size = min(len(self.store), self._window) if round_ else len(self.store)
        batch = min(self.config.clone.batch_size, size)
        in_pass = max(1, size // batch)
        key = (self.config.seed, self.world.rank, round_, step // in_pass)
        order = np.random.default_rng(key).permutation(size)
        first = (step % in_pass) * batch
        return order[first : first + batch].astype(np.int64) + len(self.store) - size

    # training

    def _train(self, plan: list[int], stop: StopRequest, progress: Progress) -> None:
        """Take the steps of the present round that are left."""
        place, total = self.place, sum(plan)
        extractor: Any = self.policy.features_extractor
        self.policy.set_training_mode(True)
        clock, timed = time.perf_counter(), 0  # frames since: of a resumed run those since then
        while place.step < plan[place.round]:
            extractor.set_progress(place.steps / total, place.steps / self._steps_per_pass)
            self._set_rates(place.steps / total)
            due = time.monotonic() - self._saved_at > self.config.clone.checkpoint_every_s
            rows = self._rows(place.round, place.step)
            statistics = self._step(rows, stop.pending, due and self.world.is_main)
            self._sums += statistics[:3]
            place.unlogged += 1
            place.step, place.steps = place.step + 1, place.steps + 1
            place.frames, timed = place.frames + len(rows) * self.world.size, timed + len(rows) * self.world.size
            if place.unlogged == _LOG_EVERY or place.step == plan[place.round]:
                loss, accuracy, critic = (self._sums / place.unlogged).tolist()
                if not math.isfinite(loss + critic):
                    said = f"the loss is {loss}, that of the critic {critic} up to step {place.steps}"
                    raise DivergedError(f"cloning has diverged, {said}: lower clone.learning_rate")
                rate = timed / (time.perf_counter() - clock)
                alpha = float(extractor.alpha_value())
                values = {"clone/loss": loss, "clone/accuracy": accuracy, "clone/value_loss": critic}
                extra = {"train/alpha": alpha, "time/frames_per_second": rate, "clone/round": place.round}
                rates = {"clone/learning_rate": self.optimizer.param_groups[0]["lr"]}
                self.session.log(place.steps, {"frames": place.frames, **values, **extra, **rates})
                progress.update(0, loss=loss, accuracy=accuracy, alpha=alpha)
                self._sums.zero_()
                place.unlogged, clock, timed = 0, time.perf_counter(), 0
            progress.update(1)
            if float(statistics[3]) > 0:
                self._save()
                self._leave()
            if float(statistics[4]) > 0:
                self._save()

    def _step(self, rows: NDArray[np.int64], stopping: bool, due: bool) -> Tensor:
        """Take one optimizer step; return loss, accuracy and value loss over all processes, and who wants what."""
        observations, labels, returns = self.store.take(rows, self.world.device)
        distribution, values = self.policy.evaluate(observations, critic_only=True)
        known = (labels >= 0).float()
        # frames without a label (-1) are not spread evenly: the mean is over those of all processes, and the average of
        # the processes' gradients its gradient
        count = parallel.all_sum(known.sum()).clamp(min=1.0) / self.world.size
        loss = -(distribution.log_prob(labels.clamp(min=0)) * known).sum() / count
        critic = (values - returns).square().mean()
        self.optimizer.zero_grad()
        (loss + critic).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            accuracy = ((distribution.mode() == labels) * known).sum() / count
            wishes = torch.tensor([float(stopping), float(due)], device=values.device)
            statistics = torch.cat([torch.stack([loss, accuracy, critic]), wishes]).detach()
        statistics = parallel.average_gradients([*self._actor, *self._critic], statistics)
        for parameters in (self._actor, self._critic):  # apart: returns are of another size than log-probabilities
            torch.nn.utils.clip_grad_norm_(parameters, self.config.clone.max_grad_norm)
        self.optimizer.step()
        return statistics

    def _set_rates(self, done: float) -> None:
        """Cosine from the full rate to `final_lr_fraction` of it."""
        least = self.config.clone.final_lr_fraction
        share = least + (1.0 - least) * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share

    # stopping and going on

    def _own_state(self) -> dict[str, Any]:
        explorer = None if self._explorer is None else self._explorer.get_state()
        return {"explorer": explorer, "rng": capture_rng()}  # networks may draw random numbers, in dropout for one

    def _save(self, own: dict[str, Any] | None = None) -> None:
        moments, groups = flatten_optimizer(self.optimizer)
        common = {"place": vars(self.place).copy(), "moments": moments, "groups": groups}
        common["sums"] = self._sums.clone()
        self.session.save(
            self.place.steps,
            KIND,
            self.policy,
            self._own_state() if own is None else own,
            common,
            extra={"demos": str(self._demos)},
        )
        self._saved_at = time.monotonic()
        # What only the checkpoint before this one needs goes: a kill while this one was written would go back to it.
        self._files.keep_for(self._needed, self._window + self.store.margin)
        self._needed = self._last_round()

    def _last_round(self) -> int:
        """Return the last round whose frames are in the store: at step 0 the present one is yet to be collected."""
        return self.place.round - (self.place.step == 0)

    def _leave(self) -> None:
        self.session.tell_stopped(KIND, f"step {self.place.steps}")
        raise KeyboardInterrupt

    def _restore(self) -> None:
        resumed = self.session.resumed
        if resumed is None:
            return
        with self.session.going_on(), restoring(resumed, EnvsError):
            own, common = self.session.own_state()
            load_weights(self.policy, resumed)
            restore_optimizer(self.optimizer, common["moments"], common["groups"])
            self.place = Place(**common["place"])
            self._sums.copy_(common.get("sums", self._sums))  # not in checkpoints of earlier versions
            if self._explorer is not None and own["explorer"] is not None:
                self._explorer.set_state(own["explorer"])
            self._needed = self._last_round()
            for frames in self._files.read(self._needed):
                self.store.add(frames)
            if "rng" in own:  # not in checkpoints of earlier versions
                restore_rng(own["rng"])
