"""`sideagents nlp`: adapt a language model to one task, choose the epoch on held-out data, judge once at the end."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sideagents.errors import ConfigError, SideAgentsError, nearest
from sideagents.ladder.pruning import fisher_importance
from sideagents.language.config import NlpConfig
from sideagents.language.cost import training_cost
from sideagents.language.glue import TASKS
from sideagents.language.methods import METHODS
from sideagents.language.models import MINILM, load_model, load_tokenizer, model_path
from sideagents.language.sidetuned import SideTunedText
from sideagents.language.states import Encoder, cached_states, states_read
from sideagents.language.tasks import SQUAD, JudgedTexts, Split, TextTask, read_task
from sideagents.language.texts import Texts, answers_of, moved
from sideagents.run.checkpoint import load_checkpoint, restore_tensors
from sideagents.run.config import config_hash, dump_config, load_config
from sideagents.run.devices import device_here, device_of, missing_device
from sideagents.run.files import find_data, write_json
from sideagents.run.folder import RunFolder
from sideagents.run.options import check_options
from sideagents.run.scalars import read_scalars
from sideagents.run.seeding import seed_everything
from sideagents.run.tensors import digest_tensors, load_tensors, save_tensors
from sideagents.train.loop import fit

LEARNED = "learned.safetensors"  # what was trained, as of the chosen epoch
Call = Callable[[Mapping[str, Tensor], Tensor], Any]


def checked(config: NlpConfig) -> NlpConfig:
    """Return the configuration with its data looked up; raises `ConfigError` for unknown names and what cannot be."""
    found = {"data": find_data(config.data), "runs": os.path.expanduser(config.runs)}
    found |= {"cache": os.path.expanduser(config.cache)} if config.cache is not None else {}
    found |= {"test_data": find_data(config.test_data)} if config.test_data is not None else {}
    config = config.model_copy(update=found)
    known = (*TASKS, SQUAD)
    if config.task not in known:
        raise ConfigError(
            f"task: unknown task {config.task!r}{nearest(config.task, known)} (known: {', '.join(known)})"
        )
    questions = bool(config.test_articles) + (config.test_data is not None)
    if questions != (config.task == SQUAD):
        raise ConfigError("task squad needs either test_articles or test_data to be judged by, and no other task does")
    try:
        check_options(METHODS.get(config.method), config.method, config.options, ("model", "importance", "batches"))
    except SideAgentsError as error:
        raise ConfigError(str(error)) from None
    return config


def absent_data(config: NlpConfig) -> Iterator[str]:
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

    After every epoch the held-out part of the training data is judged, and the weights of the best epoch are kept
    (`learned.safetensors`, those that learned alone); without such a part, those of the last one. They are judged by
    the task's test data once, at the end, unless `test` is false: `resume` does that later, and goes on with the newest
    run of that name after its last finished epoch. The result: `score` and `metrics` on the test data, `answers`, one
    for each example of it; `held_out`, the score after each epoch; `epoch`, the one that was chosen; `alpha`; weights,
    memory and time as in `training_cost`, on a batch of full length. Raises `SideAgentsError`.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    task = read_task(config, load_tokenizer(config.model))
    model, fingerprint = build(config, task)
    with torch.random.fork_rng(devices=[]):
        cost = training_cost(copy.deepcopy(model), _full_batch(config, task, model), config.bf16)
    run = RunFolder.create(Path(config.runs), config.name, dump_config(config), resume=resume)
    if resume:
        run.require_config(config, but=("device",))
        run.note_resume()
    try:
        result = _train(config, task, model, run, {"base": config.model, "fingerprint": fingerprint}, resume)
    finally:
        run.close()
    result = {"method": config.method, "task": config.task, **result, **cost}
    if test:
        result |= _test(config, task, model, run)
    write_json(run.path / "result.json", result)
    return run.path, result


def load_nlp(folder: Path) -> tuple[nn.Module, Any]:
    """Return the model of a finished run, in eval mode, and its tokenizer; raises `SideAgentsError`."""
    run = RunFolder.open(folder)
    config = load_config(NlpConfig, run.config_path)
    tokenizer = load_tokenizer(config.model)
    model, fingerprint = build(config, read_task(config, tokenizer))
    load_checkpoint(run.checkpoint(), fingerprint=fingerprint)
    restore_tensors(model.state_dict(), load_tensors(run.path / LEARNED), run.path / LEARNED)
    return model.eval(), tokenizer


def build(config: NlpConfig, task: TextTask) -> tuple[nn.Module, str]:
    """Return the adapted model, whose state dict holds what learns alone, and the pre-trained one's fingerprint."""
    seed_everything(config.seed)
    model: Any = load_model(config.model, task.kind, task.outputs, config.model_options)
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and config.length > longest:
        raise SideAgentsError(f"length={config.length}: model {config.model!r} takes {longest} tokens at most")
    fingerprint = digest_tensors(hashlib.sha256(), model.base_model.state_dict())
    options = dict(config.options)
    if options.get("init") == "fisher":
        count = min(config.fisher_examples, len(task.train))
        options["importance"] = fisher_importance(model, _batches(task, count, 1, targets=True), count)
    elif options.get("init") == "distilled":
        options["batches"] = _batches(task, len(task.train), config.batch_size, targets=False)
    adapted = METHODS.get(config.method)(model, **options).to(device_here(config.device))
    adapted.register_state_dict_post_hook(_forget_frozen)  # type: ignore[no-untyped-call]  # torch's annotations
    return adapted, fingerprint


def _batches(task: TextTask, count: int, size: int, targets: bool) -> Iterator[dict[str, Tensor]]:
    for index in torch.split(torch.arange(count), size):
        yield task.train.batch(index, targets)


def _forget_frozen(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Take what does not learn out of a state dict: the pre-trained model is named, not stored."""
    learned = {prefix + name for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    for name in list(state):
        if name not in learned:
            del state[name]


def _full_batch(config: NlpConfig, task: TextTask, model: nn.Module) -> dict[str, Tensor]:
    """Return a batch as large as one can become, of made-up tokens: what memory is measured on."""
    shape, words = (config.batch_size, config.length), int(cast(Any, model).config.vocab_size)
    ids = torch.randint(words // 2, words, shape, generator=torch.Generator().manual_seed(0))
    index = torch.arange(config.batch_size) % len(task.train)
    targets = {name: found[index] for name, found in task.train.targets.items()}
    inputs = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
    return moved(inputs | targets, device_of(model))


def _train(
    config: NlpConfig, task: TextTask, model: nn.Module, run: RunFolder, base: Mapping[str, str], resume: bool
) -> dict[str, Any]:
    learn, judged = _calls(config, task, model)
    best = -math.inf
    if resume:
        earlier = [row.get("eval/score") for row in read_scalars(run.progress.path)]
        best = max((float(score) for score in earlier if score), default=best)

    def evaluate() -> dict[str, float]:
        nonlocal best
        if task.held is None:
            save_tensors(run.path / LEARNED, model.state_dict())
            return {}
        found = task.judge(_asked(config, task, judged, task.held), "held").score
        if found > best:
            best = found
            save_tensors(run.path / LEARNED, model.state_dict())
        return {"eval/score": found}

    fitted = fit(
        model,
        lambda index, generator: learn(task.train.batch(index), index).loss,
        len(task.train),
        config,
        epochs=config.epochs,
        seed=config.seed,
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
        states = cached_states(encoder, texts, numbers, config.bf16, folder)

        def call(inputs: Mapping[str, Tensor], index: Tensor) -> Any:
            known = states.batch(index, inputs["input_ids"].shape[1])
            with encoder.replaying({number: state.to(device) for number, state in known.items()}):
                return model(**moved(inputs, device))

        return call

    return asked(task.train), asked(task.held if task.held is not None else task.train)


def _asked(config: NlpConfig, task: TextTask, call: Call, texts: Texts) -> list[tuple[Tensor, ...]]:
    return answers_of(call, texts, task.names, config.bf16, task.by_token, device_here(config.device).type)


def _plain(model: nn.Module) -> Call:
    device = device_of(model)
    return lambda inputs, index: model(**moved(inputs, device))


def _test(config: NlpConfig, task: TextTask, model: nn.Module, run: RunFolder) -> dict[str, Any]:
    """Judge the chosen epoch by the test data."""
    restore_tensors(model.state_dict(), load_tensors(run.path / LEARNED), run.path / LEARNED)
    model.eval()

    def judged(split: Split, texts: Texts) -> JudgedTexts:
        return task.judge(_asked(config, task, _plain(model), texts), split)

    if task.held is not None:
        judged("held", task.held)  # SQuAD's threshold is that of the chosen epoch
    found = judged("test", task.test)
    alpha = model.alpha.value() if isinstance(model, SideTunedText) and model.side is not None else None
    return {"score": found.score, "metrics": found.metrics, "alpha": alpha, "answers": found.answers}


def summary_of(result: Mapping[str, Any]) -> str:
    """Return a result for people: metrics of the test data, or of held-out data where that is unread, and weights."""
    metrics = result.get("metrics") or {"held-out score": max(result["held_out"], default=math.nan)}
    shown = ", ".join(f"{name} {100 * value:.2f}" for name, value in metrics.items())
    return f"{result['method']}, {result['task']}: {shown}; {result['trainable']:,} weights ({result['percent']:.2f} %)"
