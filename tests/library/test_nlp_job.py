"""`sideagents nlp` on made-up data: every method, resume, the chosen epoch, the test data read once, mistakes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from optional_packages import transformers_ready

if not transformers_ready():
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)


from sideagents.errors import CheckpointError, ConfigError, SideAgentsError
from sideagents.jobs import nlp as module
from sideagents.jobs.nlp import LEARNED, checked, load_nlp, nlp, summary_of
from sideagents.language.build import build
from sideagents.language.models import import_transformers, load_tokenizer
from sideagents.language.nlp_config import NlpConfig
from sideagents.language.nlp_methods import METHODS
from sideagents.language.tasks import GlueTexts, read_task
from sideagents.machine.precision import autocast
from sideagents.run.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from sideagents.storage.tensors import load_tensors
from sideagents_policies.cli.main import main
from sideagents_policies.jobs import read_job
from tiny_bert import tiny_model

OPTIONS: dict[str, dict[str, Any]] = {
    "adapters": {"width": 4},
    "lora": {"rank": 2},
    "lst": {"reduction": 2, "init": "distilled"},
    "prompt": {"tokens": 2},
}
WHO, WHERE = ("the man", "a dog", "the cat", "a woman"), ("in the house", "in the garden", "on the red house")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write RTE, where a sentence with "not" does not follow, and a file of SQuAD."""
    root = tmp_path_factory.mktemp("data")
    lines = []
    for number in range(48):
        who = WHO[(number // 2) % 4]
        said, label = (("sleeps", "entailment"), ("is not in", "not_entailment"))[number % 2]
        lines.append(f"{number}\t{who} sleeps\t{who} {said}\t{label}")
    head = "index\tsentence1\tsentence2\tlabel\n"
    (root / "RTE").mkdir()
    (root / "RTE" / "train.tsv").write_text(head + "\n".join(lines) + "\n")
    (root / "RTE" / "dev.tsv").write_text(head + "\n".join(lines[:16]) + "\n")
    articles = []
    for name in range(4):
        paragraphs = []
        for number in range(3):
            who, where = WHO[(name + number) % 4], WHERE[number]
            context = f"{who} sits {where} ."
            qas: list[dict[str, Any]] = [
                {"question": "where is who ?", "answers": [{"text": where, "answer_start": context.index(where)}]},
                {"question": "who eats ?", "answers": []},
            ]
            for place, entry in enumerate(qas):
                entry |= {"id": f"{name}-{number}-{place}", "is_impossible": not entry["answers"]}
            paragraphs.append({"context": context, "qas": qas})
        articles.append({"title": f"article_{name}", "paragraphs": paragraphs})
    with gzip.open(root / "squad.json.gz", "wt") as file:
        json.dump({"version": "v2.0", "data": articles}, file)
    return root


@pytest.fixture
def config(tiny: Path, data: Path, tmp_path: Path) -> NlpConfig:
    return NlpConfig(
        model=str(tiny), task="RTE", data=str(data), method="full", epochs=2, batch_size=8, length=32, held_out=0.25,
        learning_rate=1e-2, runs=str(tmp_path / "runs"), cache=str(tmp_path / "cache"),
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_runs_and_stores_what_it_learned_alone(config: NlpConfig, method: str) -> None:
    config = checked(config.model_copy(update={"method": method, "options": OPTIONS.get(method, {}), "epochs": 1}))
    run, result = nlp(config)
    assert set(result["metrics"]) == {"accuracy"}
    assert len(result["answers"]) == 16
    assert result["score"] == result["metrics"]["accuracy"]
    assert result["examples"] == 36
    assert len(result["held_out"]) == 1
    assert result["cached"] == (method in ("lst", "features", "sidetune"))
    stored = load_tensors(run / LEARNED)
    assert sum(tensor.numel() for tensor in stored.values()) == result["trainable"]
    assert json.loads((run / "result.json").read_text()) == result
    assert f"{method}, RTE: accuracy" in summary_of(result)
    model, tokenizer = load_nlp(run)
    texts = read_task(config, tokenizer).test
    with torch.no_grad(), autocast(config.precision):
        answers = [int(model(**texts.batch(torch.tensor([n]), targets=False)).logits.argmax()) for n in range(16)]
    assert answers == result["answers"]


def _family(kind: str, folder: Path) -> Any:
    """Write a small model of another family, with BERT's tokenizer."""
    transformers, words = import_transformers(), tiny_model(folder)
    shape = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    torch.manual_seed(0)
    if kind == "llama":
        model = transformers.LlamaModel(transformers.LlamaConfig(**shape, num_key_value_heads=2))
    elif kind == "electra":
        model = transformers.ElectraModel(
            transformers.ElectraConfig(**shape, embedding_size=8, max_position_embeddings=64)
        )
    elif kind == "roberta":
        model = transformers.RobertaModel(
            transformers.RobertaConfig(**shape, max_position_embeddings=34, pad_token_id=0)
        )
    else:
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 40}
        config = transformers.T5Config(**sizes, eos_token_id=3, decoder_start_token_id=0)
        model = transformers.T5ForConditionalGeneration(config)
    model.save_pretrained(folder)
    return words


@pytest.mark.parametrize("method", ["lst", "lora", "bitfit", "full"])
@pytest.mark.parametrize("kind", ["llama", "electra", "roberta", "t5"])
def test_other_families(config: NlpConfig, tmp_path: Path, kind: str, method: str) -> None:
    changes = {"model": str(_family(kind, tmp_path / kind)), "method": method, "options": OPTIONS.get(method, {})}
    _, result = nlp(checked(config.model_copy(update=changes | {"epochs": 1})))
    assert result["cached"] == (method == "lst" and kind in ("llama", "roberta"))
    heads = 2 * 16 + 2
    assert result["trainable"] > heads


def test_roberta_counts_its_places_from_its_padding(config: NlpConfig, tmp_path: Path) -> None:
    folder = _family("roberta", tmp_path / "roberta")
    changes = {"model": str(folder), "method": "features", "options": {}, "length": 34}
    with pytest.raises(SideAgentsError, match=r"length=34: model .* takes 33 tokens at most"):
        nlp(checked(config.model_copy(update=changes)))


@pytest.mark.parametrize("method", ["full", "sidetune", "lst"])
def test_measuring_leaves_no_trace(config: NlpConfig, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = checked(config.model_copy(update={"method": method, "options": OPTIONS.get(method, {})}))
    tokenizer = load_tokenizer(config.model)
    task = read_task(config, tokenizer)
    built = build(config, task.kind, task.outputs, tokenizer.pad_token_id, task.train, torch.device("cpu"))
    before = {name: p.clone() for name, p in built.model.named_parameters()}
    drawn = torch.random.get_rng_state()
    cost = module._cost(config, task, built)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in built.model.named_parameters())
    assert 0 < cost["percent"] <= 100 * (1 + 1e-9) or method == "sidetune"


def test_resumed_is_the_same_as_not_stopped(config: NlpConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = checked(config.model_copy(update={"method": "lst", "options": OPTIONS["lst"], "epochs": 3}))
    whole, expected = nlp(config)
    stopped = config.model_copy(update={"name": "stopped"})
    with monkeypatch.context() as patched:
        patched.setattr("sideagents.train.loop.save_checkpoint", _after(1))
        with pytest.raises(KeyboardInterrupt):
            nlp(stopped)
    run, found = nlp(stopped, resume=True)
    assert (run / LEARNED).read_bytes() == (whole / LEARNED).read_bytes()
    for key in ("score", "held_out", "epoch", "answers"):
        assert found[key] == expected[key]


def _after(count: int) -> Any:
    done: list[int] = []

    def save(*args: Any, **kwargs: Any) -> Any:
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(1)
        return save_checkpoint(*args, **kwargs)

    return save


def test_the_best_epoch_is_kept_and_the_test_data_read_when_asked(
    config: NlpConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = checked(config.model_copy(update={"epochs": 3}))
    scores = iter([0.5, 0.9, 0.1, 0.9])
    judged: list[str] = []
    evaluate = GlueTexts.evaluate

    def told(self: Any, found: Any, split: str) -> Any:
        judged.append(split)
        result = evaluate(self, found, split)
        return result if split == "test" else type(result)(next(scores), result.metrics, result.predictions)

    monkeypatch.setattr(GlueTexts, "evaluate", told)
    run, result = nlp(config, test=False)
    assert judged == ["held"] * 3
    assert result["held_out"] == [0.5, 0.9, 0.1]
    assert result["epoch"] == 2
    assert "metrics" not in result
    assert "held-out score 90.00" in summary_of(result)
    kept = load_tensors(run / LEARNED)
    last = load_checkpoint(list_checkpoints(run / "checkpoints")[-1]).tensors
    assert any(not torch.equal(kept[name], last[name]) for name in kept)
    again, result = nlp(config, resume=True)
    assert again == run
    assert judged == ["held"] * 4 + ["test"]
    assert set(load_tensors(run / LEARNED)) == set(kept)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in load_tensors(run / LEARNED).items())
    assert result["epoch"] == 2


def test_it_learns_what_can_be_learned(config: NlpConfig) -> None:
    found = nlp(checked(config.model_copy(update={"epochs": 12, "held_out": 0.0, "precision": "float32"})))[1]
    assert found["held_out"] == []
    assert found["epoch"] == 12
    assert found["score"] >= 0.9


def test_questions(config: NlpConfig, data: Path) -> None:
    more = {"task": "squad", "data": str(data / "squad.json.gz"), "test_articles": ("article_3",), "stride": 4}
    config = checked(config.model_copy(update=more | {"epochs": 15, "precision": "float32", "learning_rate": 5e-3}))
    found = nlp(config)[1]
    assert {"exact", "f1", "f1_answerable", "f1_unanswerable"} <= set(found["metrics"])
    assert len(found["answers"]) == 6
    assert found["score"] == found["metrics"]["f1"] >= 0.6
    assert found["metrics"]["f1_answerable"] > 0.2  # who never answers has 0.5 in all
    every = {"test_articles": (), "test_data": str(data / "squad.json.gz"), "epochs": 1}
    assert len(nlp(checked(config.model_copy(update=every)))[1]["answers"]) == 24


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["task=MRCP"], "task: unknown task 'MRCP', did you mean 'MRPC'?"),
        (["method=lts"], "unknown method of language adaptation 'lts', did you mean 'lst'?"),
        (["options={reduktion: 4}"], "method 'lst' has no option 'reduktion', did you mean 'reduction'?"),
        (["options={reduction: four}"], "method 'lst': option reduction must be a valid integer, got 'four'"),
        (["task=squad"], "task squad needs either test_articles or test_data"),
        (["data=nowhere"], "data: no such file or folder nowhere"),
        (["options={reduction: 0}"], "method 'lst': option reduction must be greater than or equal to 1, got 0"),
        (["method=sidetune", "options={alpha: linear}"], "alpha='linear': text is side-tuned by alpha=learned"),
        (["method=sidetune", "options.merge=alfa"], "option merge: unknown merge 'alfa', did you mean 'alpha'?"),
        (["method=sidetune", "options={merge: mlp_batchnorm}"], "has BatchNorm, which would count the padding"),
        (["model_options={num_hidden_layers: 3}"], "its files lack 16 tensors of the network"),
        (["model_options={hidden_act: foo}"], "cannot be loaded (KeyError: 'foo')"),
        (["rows=1"], "rows and held_out leave no example of RTE to train on"),
        (["options={reduction: 3}"], "reduction=3 does not divide the backbone's hidden_size=16"),
        (["options={reduction: 2, keep_encoder: [2]}"], "keep_encoder: give a list of numbers of layers from 0 to 1"),
        (["model=nowhere"], "model 'nowhere': cannot be loaded"),
        (["length=65"], "length=65: model"),
        (["task=CoLA"], "CoLA/train.tsv: no such file"),
        (["learning_rat=1"], "did you mean 'learning_rate'?"),
        (["--resume", "name=other"], "no run other_1, other_2, ... with a checkpoint"),
    ],
)
def test_a_mistake_is_one_line(
    tiny: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    line: str,
) -> None:
    given = ["task=RTE", f"model={tiny}", f"data={data}", f"runs={tmp_path / 'runs'}", "length=32", *words]
    assert main(["nlp", "nlp/glue", *given]) == 2
    shown = capsys.readouterr().err
    assert line in shown
    assert shown.count("error:") == 1
    assert not (tmp_path / "runs").exists()


def test_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "language", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == METHODS.names()


def test_a_broken_line_is_named(config: NlpConfig, tmp_path: Path) -> None:
    (tmp_path / "RTE").mkdir()
    text = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\n"
    (tmp_path / "RTE" / "train.tsv").write_text(text)
    with pytest.raises(SideAgentsError, match=r"train\.tsv:3: has 2 fields, 4 are needed"):
        nlp(checked(config.model_copy(update={"data": str(tmp_path)})))


def test_a_run_of_another_model_is_refused(config: NlpConfig, tiny: Path, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    run, _ = nlp(checked(config.model_copy(update={"model": str(folder), "epochs": 1, "method": "features"})))
    changed = import_transformers().BertModel.from_pretrained(folder)
    with torch.no_grad():
        changed.encoder.layer[0].output.dense.bias.add_(1.0)
    changed.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="fingerprint"):
        load_nlp(run)


def test_the_command(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tiny: Path,
) -> None:
    words = [
        "task=RTE", f"model={tiny}", f"data={data}", f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}",
        "epochs=1", "length=32", "options={reduction: 2}",
    ]  # fmt: skip
    assert main(["check", "nlp/glue", *words]) == 0
    assert "reduction: 2" in capsys.readouterr().out
    assert main(["nlp", "nlp/glue", *words, "--no-test", "--json", str(tmp_path / "r.json")]) == 0
    assert "held-out score" in capsys.readouterr().out
    assert "answers" not in json.loads((tmp_path / "r.json").read_text())
    assert main(["nlp", "nlp/glue", *words, "--resume"]) == 0
    assert "lst, RTE: accuracy" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="one of `kind: nlp` is needed here"):
        read_job("nlp", "vision/transfer")
