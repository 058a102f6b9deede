"""`sideagents nlp`: adapt a language model to one task, choose the epoch on held-out data, evaluate once at the end."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sideagents.config.typed import config_hash, load_config
from sideagents.errors import ConfigError, SideAgentsError, nearest
from sideagents.jobs.job import Job
from sideagents.ladder import LadderModel
from sideagents.language.build import Built, build, full_batch
from sideagents.language.cost import training_cost
from sideagents.language.glue import TASKS
from sideagents.language.models import MINILM, load_tokenizer, model_path
from sideagents.language.nlp_config import NlpConfig
from sideagents.language.nlp_methods import METHODS
from sideagents.language.sidetuned_text import SideTunedText
from sideagents.language.states import Encoder, StatesTooLarge, cached_states, states_read
from sideagents.language.tasks import SQUAD, Split, TextResult, TextTask, head_of, read_task
from sideagents.language.texts import Texts, batches_by_length, moved, outputs_of
from sideagents.machine.devices import device_here, device_of, missing_device
from sideagents.machine.precision import resolved, told, with_precision
from sideagents.run.checkpoint import load_checkpoint, restore_tensors, restoring
from sideagents.run.folder import RunFolder
from sideagents.storage.files import find_data, write_json
from sideagents.storage.tensors import load_tensors, save_tensors
from sideagents.train.loop import fit

_MAY_CHANGE = ("device", "threads", "cache", "runs")  # on resume
LEARNED = "learned.safetensors"  # what was trained, as of the chosen epoch
Call = Callable[[Mapping[str, Tensor], Tensor], Any]


def checked(config: NlpConfig) -> NlpConfig:
    """Return the configuration with its data looked up; raises `ConfigError` for unknown names and what cannot be."""
    found = {"data": find_data(config.data)}
    found |= {key: os.path.expanduser(getattr(config, key)) for key in ("runs", "model")}
    found |= {"cache": os.path.expanduser(config.cache)} if config.cache is not None else {}
    found |= {"test_data": find_data(config.test_data)} if config.test_data is not None else {}
    config = with_precision(config.model_copy(update=found))
    known = (*TASKS, SQUAD)
    if config.task not in known:
        raise ConfigError(
            f"task: unknown task {config.task!r}{nearest(config.task, known)} (known: {', '.join(known)})"
        )
    questions = bool(config.test_articles) + (config.test_data is not None)
    if questions != (config.task == SQUAD):
        raise ConfigError("task squad needs either test_articles or test_data, and no other task does")
    if config.method == "prompt" and config.task == SQUAD:
        raise ConfigError("method prompt moves the places of tokens, where squad's answers stand: take another one")
    try:
        METHODS.check(config.method, config.options)
    except SideAgentsError as error:
        raise ConfigError(str(error)) from None
    return config


def missing_data(config: NlpConfig) -> Iterator[str]:
    """Yield one line for everything on disk that the configuration needs and that is not there."""
    for key, path in {"data": config.data, "test_data": config.test_data}.items():
        if path is not None and not Path(path).exists():
            yield f"{key}: no such file or folder {path}"
    if line := missing_device(config.device):
        yield line
    if config.model == MINILM:
        try:
            model_path(MINILM)
        except SideAgentsError as error:
            yield f"model: {error}"


def nlp(config: NlpConfig, resume: bool = False, test: bool = True) -> tuple[Path, dict[str, Any]]:
    """Adapt a model to a task; return the run's folder and its result.

    After every epoch the held-out part of the training data is evaluated, and the weights of the best epoch are kept
    (`learned.safetensors`, those that learned alone); without such a part, those of the last one. They are evaluated on
    the task's test data once, at the end, unless `test` is false: `resume` does that later, and goes on with the newest
    run of that name after its last finished epoch. The result: `score` and `metrics` on the test data, `answers`, one
    for each example of it; `held_out`, the score after each epoch; `epoch`, the one that was chosen; `shares`, see
    `shares_of`; weights,
    memory and time as in `training_cost`, on a batch of full length. Raises `SideAgentsError`.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    if resume:
        config = RunFolder.going_on(config, Path(config.runs), config.name)
    device = device_here(config.device)
    print(told(config), flush=True)
    tokenizer = load_tokenizer(config.model)
    task = read_task(config, tokenizer)
    built = build(config, task.kind, task.outputs, tokenizer.pad_token_id, task.train, device)
    model = built.model
    cost = _cost(config, task, built)
    with RunFolder.working(Path(config.runs), config.name, config, resume, may_change=_MAY_CHANGE) as run:
        result = _train(config, task, model, run, {"base": config.model, "fingerprint": built.fingerprint}, resume)
        about = {"method": config.method, "task": config.task, "precision": resolved(config.precision, device)}
        result = {**about, **result, **cost}
        if test:
            result |= _test(config, task, model, run)
        write_json(run.path / "result.json", result)
    return run.path, result


def measured(config: NlpConfig) -> dict[str, Any]:
    """Return the weights of a configuration's method, and memory and time of its training step; nothing is trained."""
    tokenizer = load_tokenizer(config.model)
    task = read_task(config, tokenizer)
    device = device_here(config.device)
    built = build(config, task.kind, task.outputs, tokenizer.pad_token_id, task.train, device)
    return _cost(config, task, built)


def load_nlp(folder: Path) -> tuple[nn.Module, Any]:
    """Return the model of a finished run, on the CPU in eval mode, and its tokenizer; raises `SideAgentsError`."""
    run = RunFolder.open(folder)
    config = load_config(NlpConfig, run.config_path)
    tokenizer = load_tokenizer(config.model)
    kind, outputs = head_of(config.task)
    built = build(config, kind, outputs, tokenizer.pad_token_id, None, torch.device("cpu"))
    load_checkpoint(run.checkpoint(), fingerprint=built.fingerprint)
    restore_tensors(built.model.state_dict(), load_tensors(run.path / LEARNED), run.path / LEARNED)
    return built.model.eval(), tokenizer


def _cost(config: NlpConfig, task: TextTask, built: Built) -> dict[str, Any]:
    """Measure a training step of full length, and leave the model as it was; `percent`: of the pre-trained weights."""
    model = built.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = moved(full_batch(task.train, config.batch_size, config.length), device_of(model))
    with torch.random.fork_rng(devices=[]):
        cost = training_cost(model, inputs, config.precision)
    restore_tensors(model.state_dict(), before, "the model before it was measured")
    model.zero_grad(set_to_none=True)
    return cost | {"percent": 100 * cost["trainable"] / built.pretrained}


def _train(
    config: NlpConfig, task: TextTask, model: nn.Module, run: RunFolder, base: Mapping[str, str], resume: bool
) -> dict[str, Any]:
    learn, tested = _calls(config, task, model)
    best = -math.inf
    if resume:  # of the epochs that are not run again
        checkpoint = load_checkpoint(run.checkpoint())
        with restoring(checkpoint):
            rows = checkpoint.state.get("rows", [])
            best = max((float(row["eval/score"]) for row in rows if "eval/score" in row), default=best)

    def evaluate() -> dict[str, float]:
        nonlocal best
        if task.held is None:
            save_tensors(run.path / LEARNED, model.state_dict())
            return shares_of(model)
        found = task.evaluate(_asked(config, task, tested, task.held), "held").score
        if found > best:
            best = found
            save_tensors(run.path / LEARNED, model.state_dict())
        return {"eval/score": found} | shares_of(model)

    lengths = task.train.lengths()
    fitted = fit(
        model,
        lambda index, generator: learn(task.train.batch(index), index).loss,
        len(task.train),
        config,
        epochs=config.epochs,
        seed=config.seed,
        batches=partial(batches_by_length, lengths, config.batch_size) if config.group_by_length else None,
        run=run,
        resume=resume,
        evaluate=evaluate,
        title=f"{config.method}, {config.task}",
        about={"config_hash": config_hash(config), **base},
    )
    scores = [row["eval/score"] for row in fitted.rows if "eval/score" in row]
    return {
        "examples": len(task.train),
        "held_out": scores,
        "epoch": scores.index(max(scores)) + 1 if scores else config.epochs,
        "train_seconds": fitted.seconds,
        "cached": states_read(model) is not None,
    }


def _calls(config: NlpConfig, task: TextTask, model: nn.Module) -> tuple[Call, Call]:
    """Return how the model is asked about batches of training and of held-out examples: by cached states if it can."""
    numbers = states_read(model)
    device = device_of(model)
    if numbers is None:
        return _plain(model), _plain(model)
    encoder = Encoder(cast(Any, model))
    folder = None if config.cache is None else Path(config.cache)

    def asked(texts: Texts) -> Call:
        try:
            states = cached_states(encoder, texts, numbers, config.precision, folder)
        except StatesTooLarge as error:
            print(f"{error}: they are computed anew in every epoch", flush=True)
            return _plain(model)

        def call(inputs: Mapping[str, Tensor], index: Tensor) -> Any:
            known = states.batch(index, inputs["input_ids"].shape[1])
            with encoder.replaying({number: state.to(device) for number, state in known.items()}):
                return model(**moved(inputs, device))

        return call

    return asked(task.train), asked(task.held if task.held is not None else task.train)


def _asked(config: NlpConfig, task: TextTask, call: Call, texts: Texts) -> list[tuple[Tensor, ...]]:
    return outputs_of(call, texts, task.names, config.precision, task.by_token, device_here(config.device))


def _plain(model: nn.Module) -> Call:
    device = device_of(model)
    return lambda inputs, index: model(**moved(inputs, device))


def _test(config: NlpConfig, task: TextTask, model: nn.Module, run: RunFolder) -> dict[str, Any]:
    """Evaluate the chosen epoch on the test data."""
    restore_tensors(model.state_dict(), load_tensors(run.path / LEARNED), run.path / LEARNED)
    model.eval()

    def evaluated(split: Split, texts: Texts) -> TextResult:
        return task.evaluate(_asked(config, task, _plain(model), texts), split)

    if task.held is not None:
        evaluated("held", task.held)  # SQuAD's threshold is that of the chosen epoch
    found = evaluated("test", task.test)
    return {"score": found.score, "metrics": found.metrics, "shares": shares_of(model), "answers": found.predictions}


def shares_of(model: nn.Module) -> dict[str, float]:
    """Return the weight of the frozen model by name: `alpha` of side-tuning, a ladder's mean `gate/TOWER`."""
    if isinstance(model, SideTunedText):
        return {"alpha": model.share()} if model.side is not None and model.alpha is not None else {}
    if isinstance(model, LadderModel):
        return {f"gate/{name}": float(gates.detach().mean()) for name, gates in model.gates().items()}
    return {}


def summary_of(result: Mapping[str, Any]) -> str:
    """Return a result for people: metrics of the test data, or of held-out data where that is unread, and weights."""
    metrics = result.get("metrics") or {"held-out score": max(result["held_out"], default=math.nan)}
    shown = ", ".join(f"{name} {100 * value:.2f}" for name, value in metrics.items())
    return f"{result['method']}, {result['task']}: {shown}; {result['trainable']:,} weights ({result['percent']:.2f} %)"


JOB = Job("nlp", NlpConfig, checked, missing_data, nlp, summary_of)
