"""`sideagents lifelong`: train on one task after another, evaluate all of them after each, resume between tasks."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sideagents.bases import load_base
from sideagents.config.typed import config_hash
from sideagents.core.alpha import make_alpha
from sideagents.core.base import FrozenBase
from sideagents.core.counting import weights_of
from sideagents.core.merge import MERGES
from sideagents.core.side import make_side
from sideagents.data.codes import cached_codes
from sideagents.data.images import LabelledImages
from sideagents.data.targets import TARGETS, outputs_of
from sideagents.errors import CheckpointError, ConfigError, SideAgentsError
from sideagents.jobs.job import Job
from sideagents.lifelong.learner import Learner
from sideagents.lifelong.learners import LEARNERS, make_learner
from sideagents.lifelong.lifelong_config import LifelongConfig
from sideagents.lifelong.lifelong_plots import plot_sequence
from sideagents.lifelong.metrics import final_mean, forgetting, parameters
from sideagents.lifelong.stream import StreamTask, read_stream
from sideagents.machine.devices import device_here, missing_device
from sideagents.machine.precision import base_dtype, resolved, told, with_precision
from sideagents.machine.seeding import seed_everything
from sideagents.run.checkpoint import check_finite, load_checkpoint, restore_tensors, restoring, save_checkpoint
from sideagents.run.folder import RunFolder
from sideagents.run.progress import Progress
from sideagents.storage.files import find_data, find_file, missing, missing_folder, write_json
from sideagents.train.distil import encode_all
from sideagents.train.readouts import make_readout
from sideagents.train.rendered import require_fitting
from sideagents.train.step import Stepper
from sideagents.train.student import DISTILLED, distil_side, missing_teachers
from sideagents.train.supervised import Predict, batches, example_loss, fixed_views, totals

_LOG_EVERY = 20  # steps

Matrix = np.ndarray[Any, np.dtype[np.float64]]


def lifelong(config: LifelongConfig, resume: bool = False) -> tuple[Path, dict[str, Any]]:
    """Run the sequence; return the run's folder and its result.

    The result holds `measure` (accuracy, or loss where not all tasks ask for classes), `mean_accuracy` in [0, 1] or
    `mean_loss` of all tasks at the end, `per_task`, `forgetting` (the mean rise of error or loss), `accuracy` and
    `loss` (after each task x tasks, None where not seen yet), `alpha`, `weights_per_task`.
    `resume` goes on with the newest run of that name after its last finished task. Raises `SideAgentsError`.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    if resume:
        config = RunFolder.going_on(config, Path(config.runs), config.name)
    tasks = read_stream(config)
    base = _base_of(config)
    print(told(config), flush=True)
    with RunFolder.working(Path(config.runs), config.name, config, resume, may_change=("device",)) as run:
        with run.telling():
            result = TaskSequence(config, base, tasks, run).play(resume)
        write_json(run.path / "result.json", result)
        plot_sequence(result, run.path / "plots" / "sequence.png")
    return run.path, result


def checked(config: LifelongConfig) -> LifelongConfig:
    """Return the configuration with its data looked up; raises `ConfigError` for unknown names and parts."""
    found: dict[str, Any] = {"data": find_data(config.data), "runs": os.path.expanduser(config.runs)}
    found |= {"base": find_file(config.base), "side_init": find_file(config.side_init)}
    if config.cache is not None:
        found["cache"] = os.path.expanduser(config.cache)
    if config.base_weights is not None:
        found["base_weights"] = find_data(config.base_weights)
    config = with_precision(config.model_copy(update=found))
    try:
        LEARNERS.check(config.method, config.method_options)
        rendered = config.reader == "taskonomy"
        maps = rendered and any(TARGETS[name].kind != "category" for name in config.order_of_targets)
        require_fitting(config, rendered, ("tasks", "held_out"), maps)
        MERGES.get(config.merge)
        if make_alpha(config.alpha).moves and getattr(LEARNERS.get(config.method), "shares_alpha", False):
            raise ConfigError(
                f"alpha: a curriculum ends with its task, and {config.method} has one network for all of them: take a "
                "learned or a fixed one"
            )
        if not list(missing_data(config)):
            base = _base_of(config)
            for shape in _shapes(config):
                make_readout(base.out_shape, shape, config.norm_groups)
            make_learner(_started(config, None), base, []).check()
    except ConfigError:
        raise
    except SideAgentsError as error:
        raise ConfigError(str(error)) from None
    return config


def _started(config: LifelongConfig, student: Path | None) -> LifelongConfig:
    """Return what a learner is made from: its sides start from the student's file once there is one."""
    if config.side_init != DISTILLED:
        return config
    return config.model_copy(update={"side_init": "default" if student is None else str(student)})


def _base_of(config: LifelongConfig) -> FrozenBase:
    """Load the base; it computes in the type of training."""
    return load_base(config.base, weights=config.base_weights, dtype=base_dtype(config.precision, config.device))


def _shapes(config: LifelongConfig) -> list[tuple[int, ...]]:
    """Return the shapes of outputs that the tasks will ask for, as far as the configuration knows them."""
    if config.reader == "cifar":
        return [(2,)]
    return [outputs_of(TARGETS[name], config.size) for name in config.order_of_targets]


def missing_data(config: LifelongConfig) -> Iterator[str]:
    """Yield one line for everything on disk that the configuration needs and that is not there."""
    where = {
        "cifar": "CIFAR-100: https://www.cs.toronto.edu/~kriz/cifar.html",
        "taskonomy": "`sideagents scenes render --tasks all` makes one",
    }
    if not Path(config.data).exists():
        yield f"data: {missing_folder(config.data)}; {where[config.reader]}"
    if config.held_out_data is not None and not Path(find_data(config.held_out_data)).exists():
        yield f"held_out_data: {missing_folder(config.held_out_data)}"
    yield from missing({"base_weights": config.base_weights, "side_init": config.side_init, "base": config.base})
    if config.side_init == DISTILLED:
        yield from missing_teachers(config.distil)
    if line := missing_device(config.device):
        yield line


class TaskSequence:
    """A run over tasks in this process."""

    def __init__(self, config: LifelongConfig, base: FrozenBase, tasks: list[StreamTask], run: RunFolder) -> None:
        self.config, self.base, self.tasks, self.run = config, base, tasks, run
        self.device = device_here(config.device)
        student = self._distilled() if config.side_init == DISTILLED else None
        self.learner: Learner = make_learner(_started(config, student), base, tasks)
        self._accuracy = np.full((len(tasks), len(tasks)), np.nan)
        self._loss = np.full((len(tasks), len(tasks)), np.nan)
        self._weights: list[int] = []
        self._alphas: list[float] = []
        self._seconds = 0.0
        self._test_codes: dict[int, Tensor | None] = {}

    def _distilled(self) -> Path:
        """Return the file of a side distilled from the base on the first task's images: later ones are not seen yet."""
        config, base, first = self.config, self.base.to(self.device), self.tasks[0]
        seed_everything(config.seed)
        side = make_side(
            config.side, base.out_shape, base.channels, base.input_size, base=base, options=config.side_options
        )
        path = self.run.path / "student.safetensors"
        distil_side(base, side.to(self.device), first.train.images, first.test.images, config.distil, path)
        return path

    def play(self, resume: bool) -> dict[str, Any]:
        """Train what is left and return the result."""
        first = self._restore() if resume else 0
        if resume:
            self.run.go_on(first * self.config.steps)
        total = self.config.steps * len(self.tasks)
        with Progress(total, f"{self.config.method}", unit="step", done=first * self.config.steps) as shown:
            for task in range(first, len(self.tasks)):
                started = time.perf_counter()
                self._begin(task)
                self._train(task, shown)
                check_finite(self.learner.state_dict(), (task + 1) * self.config.steps)
                self.learner.end(task, torch.Generator().manual_seed(self._seed(task) + 1))
                self._weights.append(weights_of(self.learner.trained(task), trainable_only=True))
                self._alphas.append(self.learner.alpha(task))
                for seen in range(task + 1):
                    self._accuracy[task, seen], self._loss[task, seen] = self._evaluate(seen)
                self._seconds += time.perf_counter() - started
                name, score = self._measure()
                mean = float(np.nanmean(score[task]))
                self.run.log((task + 1) * self.config.steps, {f"eval/mean_{name}": mean})
                shown.update(0, **{name: mean})
                self._save(task + 1)
        return self._result()

    def _begin(self, task: int) -> None:
        seed_everything(self._seed(task))  # fresh weights depend on the seed and the task alone, not on its turn
        self.learner.begin(task)
        self.learner.to(self.device)  # weights were drawn on the CPU: the same ones everywhere

    def _seed(self, task: int) -> int:
        return int(np.random.SeedSequence([self.config.seed, self.tasks[task].number]).generate_state(1)[0])

    # one task

    def _train(self, task: int, shown: Progress) -> None:
        config, learner, data = self.config, self.learner, self.tasks[task].train
        generator = torch.Generator().manual_seed(self._seed(task))
        augment = "none" if config.views else config.augment
        if config.views:
            data = fixed_views(cast(LabelledImages, data), config.augment, config.views, generator)
        codes = None
        if config.views and learner.reads_codes:
            codes = encode_all(self.base, data.images)  # of this run alone: not worth a file
        elif augment == "none":
            codes = self._codes(data.images)
        order = batches(len(data), config.batch_size, config.steps, generator)
        epoch = len(data) / config.batch_size
        stepper = Stepper(config, learner.trained(task), config.steps, epoch, title=f"task {self.tasks[task].name}")
        predict = self._predictor(task, codes)
        losses: list[float] = []
        stepper.trained.train()
        for index in order:

            def total(index: Tensor = index) -> Tensor:
                loss = example_loss(predict, data, augment, index, generator, device=self.device)
                return loss + learner.penalty()

            losses.append(stepper.step(total))
            shown.update(1, loss=losses[-1])
            if len(losses) == _LOG_EVERY or stepper.done == config.steps:
                step = task * config.steps + stepper.done
                self.run.log(step, {"train/loss": sum(losses) / len(losses), "task": task})
                losses.clear()
        stepper.trained.eval()

    def _predictor(self, task: int, codes: Tensor | None) -> Predict:
        def predict(images: Tensor, index: Tensor) -> Tensor:
            known = None if codes is None else codes[index].to(images.device)
            return cast(Tensor, self.learner(images, task, known))

        return predict

    def _evaluate(self, task: int) -> tuple[float, float]:
        """Return accuracy (nan where no class is asked) and mean loss on a task's test images."""
        self.learner.eval()
        test = self.tasks[task].test
        if task not in self._test_codes:
            self._test_codes[task] = self._codes(test.images)
        found = totals(self._predictor(task, self._test_codes[task]), test, self.config.precision, self.device)
        return found.accuracy, found.mean_loss

    def _codes(self, images: Tensor) -> Tensor | None:
        """Return the base's codes of images, where the method reads them."""
        if not self.learner.reads_codes:
            return None
        return cached_codes(self.base, images, None if self.config.cache is None else Path(self.config.cache))

    # stopping and going on

    def _save(self, done: int) -> None:
        state = {
            "accuracy": self._accuracy,
            "loss": self._loss,
            "weights": list(self._weights),
            "alphas": list(self._alphas),
            "seconds": self._seconds,
            "memory": self.learner.memory(),
        }
        save_checkpoint(
            self.run.checkpoints,
            done,
            self.learner.state_dict(),
            state,
            keep=2,
            config_hash=config_hash(self.config),
            base=self.base.name,
            fingerprint=self.base.fingerprint,
        )

    def _restore(self) -> int:
        checkpoint = load_checkpoint(self.run.checkpoint(), fingerprint=self.base.fingerprint)
        if not 0 < checkpoint.step <= len(self.tasks):
            raise CheckpointError(f"{checkpoint.path}: is of task {checkpoint.step}, there are {len(self.tasks)}")
        for task in range(checkpoint.step):
            self._begin(task)
        restore_tensors(self.learner.state_dict(), checkpoint.tensors, checkpoint.path)
        state = checkpoint.state
        with restoring(checkpoint):
            self._accuracy, self._loss = (
                np.array(state[key], np.float64).reshape(self._loss.shape) for key in ("accuracy", "loss")
            )
            self._weights = [int(count) for count in state["weights"]]
            self._alphas = [float(alpha) for alpha in state["alphas"]]
            self._seconds = float(state["seconds"])
            self.learner.remember(state["memory"])
        return checkpoint.step

    def _measure(self) -> tuple[str, Matrix]:
        """Return what tasks are compared by, and its matrix: accuracy where all tasks have one, else loss."""
        asked = all(task.test.asks_classes for task in self.tasks)
        return ("accuracy", self._accuracy) if asked else ("loss", self._loss)

    def _multiple(self) -> float:
        """Return what is stored at the end, as a multiple of the base; what several tasks use counts once."""
        tasks = [self.learner.stored(task) for task in range(len(self.tasks))]
        users = Counter(id(parameter) for own in tasks for parameter in own)
        alone = [sum(p.numel() for p in own if users[id(p)] == 1) for own in tasks]
        shared = {id(p): p.numel() for own in tasks for p in own if users[id(p)] > 1}
        return parameters(weights_of(self.base), alone, sum(shared.values()))

    def _result(self) -> dict[str, Any]:
        measure, score = self._measure()
        return {
            "method": self.config.method,
            "precision": resolved(self.config.precision, self.device),
            "tasks": [task.name for task in self.tasks],
            "measure": measure,
            f"mean_{measure}": final_mean(score),
            "per_task": [float(value) for value in score[-1]],
            "forgetting": float(np.mean(forgetting(score, higher_is_better=measure == "accuracy"))),
            "accuracy": _plain(self._accuracy),
            "loss": _plain(self._loss),
            "alpha": [None if math.isnan(value) else value for value in self._alphas],
            "weights_per_task": self._weights,
            "multiple": self._multiple(),
            "seconds": round(self._seconds, 1),
        }


def _plain(matrix: Matrix) -> list[list[float | None]]:
    return [[None if math.isnan(value) else float(value) for value in row] for row in matrix]


def table_of(result: Mapping[str, Any]) -> str:
    """Return a result as lines for people: scores of tasks and, where there is one, the weight of the base in each."""
    names, values = result["tasks"], result["per_task"]
    alphas = [f"{name} {value:.2f}" for name, value in zip(names, result["alpha"], strict=True) if value is not None]
    relevance = f"\nalpha: {'  '.join(alphas)}" if alphas else ""
    if result["measure"] == "accuracy":
        cells = "  ".join(f"{name} {100 * value:.1f}" for name, value in zip(names, values, strict=True))
        mean, lost = 100 * result["mean_accuracy"], 100 * result["forgetting"]
        return f"{result['method']}: mean accuracy {mean:.2f} %, forgetting {lost:.2f} points\n{cells}{relevance}"
    cells = "  ".join(f"{name} {value:.4f}" for name, value in zip(names, values, strict=True))
    mean, lost = result["mean_loss"], result["forgetting"]
    return f"{result['method']}: mean loss {mean:.4f}, forgetting {lost:.4f}\n{cells}{relevance}"


JOB = Job("lifelong", LifelongConfig, checked, missing_data, lifelong, table_of)
