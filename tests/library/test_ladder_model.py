"""A ladder as an object: pickled, copied, detached, its optimizer's groups, poolers, caches of a fixed length."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from optional_packages import transformers_ready

if not transformers_ready():
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)

import transformers
from transformers import BertConfig, BertForQuestionAnswering, BertModel

from ladders import IDS, INPUTS, MODELS, SMALL, bert, ladder, llama, t5, vit
from sideagents.core.groups import parameter_groups
from sideagents.errors import CheckpointError, SideAgentsError
from sideagents.ladder import LadderModel
from sideagents.storage.tensors import load_tensors, save_tensors


@pytest.mark.parametrize("make", MODELS)
def test_pickled_and_copied(make: Any, tmp_path: Path) -> None:
    model = ladder(make).eval()
    loss = model(**INPUTS[make]).loss
    again = pickle.loads(pickle.dumps(model))
    torch.save(model, tmp_path / "model.pt")
    for other in (again, copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert torch.equal(other(**INPUTS[make]).loss, loss)
        assert isinstance(other, LadderModel)
        nn.init.zeros_(other.up.weight)
        other(**INPUTS[make]).loss.backward()  # the copy's hooks are the copy's
        assert other.up.weight.grad is not None
        assert model.up.weight.grad is None
        assert torch.equal(model(**INPUTS[make]).loss, loss)


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


@pytest.mark.parametrize("make", MODELS)
def test_detached(make: Any, tmp_path: Path) -> None:
    backbone = make().train()
    backbone.get_input_embeddings().requires_grad_(False)
    attributes = set(backbone.__dict__)
    flags = {name: p.requires_grad for name, p in backbone.named_parameters()}
    modes = {name: part.training for name, part in backbone.named_modules()}
    before, expected = hooks(backbone), copy.deepcopy(backbone).eval()(**INPUTS[make])
    model = LadderModel.from_backbone(backbone, 4)
    other = copy.deepcopy(model)
    assert hooks(backbone) > before
    model(**INPUTS[make]).loss.backward()
    for one in (model, other):
        given = one.detach()
        assert hooks(given) == before
        assert {name: p.requires_grad for name, p in given.named_parameters()} == flags
        assert {name: part.training for name, part in given.named_modules()} == modes
        assert all(p.grad is None for p in given.parameters())
        assert set(given.__dict__) == attributes
        assert torch.equal(given.eval()(**INPUTS[make]).logits, expected.logits)
        with pytest.raises(SideAgentsError, match="this ladder was detached from its backbone"):
            one(**INPUTS[make])
    model.save_pretrained(tmp_path)  # what it has learned can be kept
    LadderModel.from_pretrained(tmp_path, backbone)(**INPUTS[make])


def test_the_last_ladder_to_go_gives_gradients_back() -> None:
    torch.manual_seed(0)
    backbone = BertModel(BertConfig(**SMALL))
    first, second = LadderModel.from_backbone(backbone, 4), LadderModel.from_backbone(backbone, 6)
    first.detach()
    assert not any(p.requires_grad for p in backbone.parameters())
    second(IDS).last_hidden_state.sum().backward()
    first.detach()  # again
    second.detach()
    assert all(p.requires_grad for p in backbone.parameters())
    assert backbone.training


def test_gates_do_not_decay() -> None:
    model = ladder(t5, keep_encoder=[0, 2])
    weights, vectors, gates = model.parameter_groups(weight_decay=0.1)
    assert [group["name"] for group in (weights, vectors, gates)] == ["weights", "vectors", "alpha"]
    assert [group["weight_decay"] for group in (weights, vectors, gates)] == [0.1, 0.0, 0.0]
    assert not any("lr" in group for group in (weights, vectors, gates))
    assert {p.ndim for p in weights["params"]} == {2}
    assert {p.ndim for p in vectors["params"]} == {1}
    assert [gate.shape for gate in gates["params"]] == [(3,), (3,)]
    found = {id(p) for group in (weights, vectors, gates) for p in group["params"]}
    assert found == {id(p) for p in model.trainable_parameters()}
    assert sum(len(group["params"]) for group in (weights, vectors, gates)) == len(found)
    for twin in model.twins.values():
        nn.init.constant_(twin.alpha, 0.3)
    optimizer = torch.optim.AdamW(model.parameter_groups(weight_decay=0.1), lr=1e-3)
    model(**INPUTS[t5]).loss.backward()
    for gate in gates["params"]:
        gate.grad.zero_()
    optimizer.step()
    assert all(torch.equal(gate, torch.full((3,), 0.3)) for gate in gates["params"])
    without = ladder(bert, fusion="cross_attention").parameter_groups(0.1)
    assert [group["name"] for group in without] == ["weights", "vectors"]


@pytest.mark.parametrize("decay_vectors", [False, True])
def test_gates_are_alphas_to_every_trainer(decay_vectors: bool) -> None:
    model = copy.deepcopy(ladder(t5))
    *others, alpha = parameter_groups(nn.ModuleDict({"task": model}), 0.1, 0.2, 0.3, decay_vectors=decay_vectors)
    assert (alpha["name"], alpha["lr"], alpha["weight_decay"]) == ("alpha", 0.2, 0.0)
    gates = [twin.alpha for twin in model.twins.values()]
    assert len(gates) == 2
    assert [id(p) for p in alpha["params"]] == [id(gate) for gate in gates]
    assert not {id(gate) for gate in gates} & {id(p) for group in others for p in group["params"]}
    if not decay_vectors:
        assert model.parameter_groups(0.3, lr=0.1, alpha_lr=0.2) == [*others, alpha]
    assert model.parameter_groups(lr=0.1)[-1]["lr"] == 0.1


def interrupted() -> Any:
    yield INPUTS[bert]
    raise KeyboardInterrupt


def test_a_build_that_fails_gives_the_backbone_back(tmp_path: Path) -> None:
    backbone = bert().train()
    backbone.get_input_embeddings().requires_grad_(False)
    attributes, before = set(backbone.__dict__), hooks(backbone)
    flags = {name: p.requires_grad for name, p in backbone.named_parameters()}
    modes = {name: part.training for name, part in backbone.named_modules()}
    tensors = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}

    def as_it_was() -> bool:
        assert {name: p.requires_grad for name, p in backbone.named_parameters()} == flags
        assert {name: part.training for name, part in backbone.named_modules()} == modes
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in backbone.state_dict().items())
        return set(backbone.__dict__) == attributes and hooks(backbone) == before

    with pytest.raises(SideAgentsError, match="there is no batch to learn from"):
        LadderModel.from_backbone(backbone, 4, init="distilled", batches=[])
    assert as_it_was()
    with pytest.raises(KeyboardInterrupt):
        LadderModel.from_backbone(backbone, 4, init="distilled", batches=interrupted())
    assert as_it_was()
    with pytest.raises(SideAgentsError, match="importance is of another model"):
        LadderModel.from_backbone(backbone, 4, init="fisher", importance={})
    assert as_it_was()

    model = LadderModel.from_backbone(backbone, 4, init="distilled", batches=[INPUTS[bert]])
    folder = model.save_pretrained(tmp_path)
    model.detach()
    whole = load_tensors(folder / "side.safetensors")
    save_tensors(folder / "side.safetensors", {name: tensor for name, tensor in whole.items() if name != "up.weight"})
    with pytest.raises(CheckpointError, match=r"side\.safetensors"):
        LadderModel.from_pretrained(folder, backbone)
    assert as_it_was()
    save_tensors(folder / "side.safetensors", whole)
    about = json.loads((folder / "ladder.json").read_text())
    (folder / "ladder.json").write_text(json.dumps(about | {"dtype": "int64"}))
    with pytest.raises(CheckpointError, match=r"ladder\.json: is damaged"):
        LadderModel.from_pretrained(folder, backbone)
    assert as_it_was()
    (folder / "ladder.json").write_text(json.dumps(about))
    again = LadderModel.from_pretrained(folder, backbone)
    again(**INPUTS[bert]).loss.backward()
    assert again.up.weight.grad is not None


@pytest.mark.parametrize("tower", [False, True])
def test_a_pooler_that_the_checkpoint_does_not_have(tower: bool, tmp_path: Path) -> None:
    def backbone(seed: int) -> Any:
        model = bert()
        torch.manual_seed(seed)
        nn.init.normal_(model.bert.pooler.dense.weight)  # as transformers draws what a checkpoint does not have
        return model.bert if tower else model

    prefix = "" if tower else "bert."
    model = LadderModel.from_backbone(backbone(1), 4, train_pooler=True)
    frozen = LadderModel.from_backbone(backbone(1), 4)
    assert set(model.heads()) - set(frozen.heads()) == {f"{prefix}pooler"}
    difference = model.summary()["trainable"] - frozen.summary()["trainable"]
    assert difference == 48 * 48 + 48 == frozen.summary()["backbone"] - model.summary()["backbone"]
    output = model(IDS)
    (output.pooler_output if tower else output.logits)[:, 0].sum().backward()
    pooler = model.heads()[f"{prefix}pooler"]
    assert pooler.dense.weight.grad.abs().sum() > 0
    nn.init.normal_(pooler.dense.bias)
    expected = model.eval()(IDS)[1 if tower else 0]
    model.save_pretrained(tmp_path)
    assert f"head.{prefix}pooler.dense.weight" in load_tensors(tmp_path / "side.safetensors")
    again = LadderModel.from_pretrained(tmp_path, backbone(2)).eval()
    assert torch.equal(again(IDS)[1 if tower else 0], expected)
    frozen.save_pretrained(tmp_path / "frozen")
    with pytest.raises(CheckpointError, match="was saved for backbone"):
        LadderModel.from_pretrained(tmp_path / "frozen", backbone(2))
    with pytest.raises(SideAgentsError, match="train_pooler: a LlamaForCausalLM has no pooler"):
        ladder(llama, train_pooler=True)


@pytest.mark.parametrize("options", [{}, {"block": "adapter"}, {"keep_decoder": [1]}])
@pytest.mark.parametrize("make", [t5, llama])
def test_caches_of_a_fixed_length(make: Any, options: Any) -> None:
    model = ladder(make, mix="residual", **options).eval()
    nn.init.normal_(model.up.weight)
    inputs = {key: INPUTS[make][key] for key in ("input_ids", "attention_mask")}
    for beams in (1, 3):
        settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
        found = model.generate(**inputs, **settings, cache_implementation="static")
        assert torch.equal(found, model.generate(**inputs, **settings))
        assert len(found[:, -6:].unique()) > 1


def test_cross_attention_needs_a_cache_that_grows() -> None:
    model = ladder(llama, fusion="cross_attention").eval()
    with pytest.raises(SideAgentsError, match="needs a cache that grows: leave cache_implementation out"):
        model.generate(input_ids=IDS, max_new_tokens=2, cache_implementation="static", do_sample=False)


def test_the_trainer_finds_labels_of_spans(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed (the `nlp` extra)")
    torch.manual_seed(0)
    model = LadderModel.from_backbone(BertForQuestionAnswering(BertConfig(**SMALL)), 4)
    spans = {"start_positions": torch.tensor([0, 1, 2]), "end_positions": torch.tensor([1, 2, 3])}
    inputs = {"input_ids": IDS, **spans}
    rows = [{key: tensor[i] for key, tensor in inputs.items()} for i in range(3)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=1, report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    assert trainer.label_names == ["start_positions", "end_positions"]
    trainer.train()
    with torch.no_grad():
        expected = model.eval()(**inputs).loss
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert type(model).__name__ == "LadderModelOfBertForQuestionAnswering"


def test_a_backbone_in_another_type_is_named(tmp_path: Path) -> None:
    ladder(vit).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="and is bfloat16 where that was float32"):
        LadderModel.from_pretrained(tmp_path, vit().to(torch.bfloat16))
    about = json.loads((tmp_path / "ladder.json").read_text())
    assert (about["dtype"], about["backbone_dtype"]) == ("float32", "float32")
