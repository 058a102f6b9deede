"""Ladder Side-Tuning in Hugging Face's hands: its trainers, precisions and recomputation, and each family of models."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

if find_spec("transformers") is None:
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)

import transformers
from test_ladder import INPUTS, MODELS, SMALL, bert, ladder, llama, t5, vit
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, T5Config, T5ForConditionalGeneration

from sideagents.errors import CheckpointError
from sideagents.ladder import LadderModel
from sideagents.run.tensors import load_tensors


def test_clip_s_tower_of_images() -> None:
    torch.manual_seed(0)
    shape = {key: value for key, value in SMALL.items() if key != "vocab_size"}
    tower = CLIPVisionModel(CLIPVisionConfig(**shape, image_size=32, patch_size=8))
    images = INPUTS[vit]["pixel_values"]
    expected = copy.deepcopy(tower).eval()(pixel_values=images)
    model = LadderModel.from_backbone(tower, 4, mix="residual")
    found = model(pixel_values=images)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output)
    found.pooler_output[:, 0].sum().backward()  # of one number: that of all is the norm's and does not move
    assert model.up.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.trainable_parameters())


@pytest.mark.parametrize("make", MODELS)
def test_bfloat16_and_recomputed_side_layers(make: Any) -> None:
    model = ladder(make)
    torch.manual_seed(3)  # of the side's dropout
    loss = model.train()(**INPUTS[make]).loss
    loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.activation_checkpointing_enable()
    torch.manual_seed(3)
    again = model.train()(**INPUTS[make]).loss
    assert torch.equal(again, loss)
    again.backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, expected[name])
    model.activation_checkpointing_disable()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = model(**INPUTS[make]).loss
    lowered.backward()
    assert torch.isfinite(lowered)
    torch.manual_seed(1)
    half = LadderModel.from_backbone(make().to(torch.bfloat16), 4)
    inputs = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in INPUTS[make].items()}
    half(**inputs).loss.backward()
    assert all(p.grad is not None and p.dtype == torch.bfloat16 for p in half.trainable_parameters())


@pytest.mark.parametrize("make", [t5, bert])
def test_the_trainer_of_hugging_face(make: Any, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed (the `nlp` extra)")
    rows = [{key: tensor[i] for key, tensor in INPUTS[make].items()} for i in range(3)]
    kind = "Seq2SeqTrain" if make is t5 else "Train"
    more = {"predict_with_generate": True, "generation_max_length": 4} if make is t5 else {}
    arguments = getattr(transformers, f"{kind}ingArguments")(
        str(tmp_path / "run"), num_train_epochs=8, per_device_train_batch_size=3, learning_rate=1e-2, report_to=[],
        save_strategy="no", logging_strategy="epoch", disable_tqdm=True, use_cpu=True, **more,
    )  # fmt: skip
    model = ladder(make)
    trainer = getattr(transformers, f"{kind}er")(model, arguments, train_dataset=rows)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    assert not any(part.training for part in model.backbone.modules())
    assert trainer.evaluate(rows)["eval_loss"] < losses[0]
    assert len(trainer.predict(rows).predictions) == 3
    trainer.save_model(str(tmp_path / "saved"))
    tensors = load_tensors(tmp_path / "saved" / "model.safetensors")
    assert not any(name.startswith("backbone.") and "classifier" not in name for name in tensors)
    again = ladder(make)
    again.load_state_dict(tensors)
    assert torch.equal(again.eval()(**INPUTS[make]).loss, model.eval()(**INPUTS[make]).loss)


def _of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    wide = SMALL | {"hidden_size": 64}
    if kind == "electra":
        return transformers.ElectraForSequenceClassification(
            transformers.ElectraConfig(**SMALL, embedding_size=24, num_labels=3)
        )
    if kind == "roberta":
        return transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**SMALL, num_labels=3))
    if kind == "mistral":
        return transformers.MistralForCausalLM(
            transformers.MistralConfig(**wide, num_key_value_heads=2, sliding_window=4)
        )
    if kind == "qwen2":
        settings = {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
        return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**wide, **settings))
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4, "vocab_size": 60}
    if kind == "mt5":
        return transformers.MT5ForConditionalGeneration(transformers.MT5Config(**shape, decoder_start_token_id=0))
    gated = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(**shape, **gated))


@pytest.mark.parametrize("init", ["random", "magnitude"])
@pytest.mark.parametrize("kind", ["electra", "roberta", "mistral", "qwen2", "mt5", "t5 v1.1"])
def test_every_family_learns(kind: str, init: Any, tmp_path: Path) -> None:
    backbone = _of(kind)
    torch.manual_seed(1)
    model = LadderModel.from_backbone(backbone, 4, init=init)
    inputs = INPUTS[bert if kind in ("electra", "roberta") else t5 if "t5" in kind else llama]
    model.train()(**inputs).loss.backward()
    assert all(p.grad is not None for p in model.trainable_parameters())
    loss = model.eval()(**inputs).loss
    model.save_pretrained(tmp_path)
    assert torch.equal(LadderModel.from_pretrained(tmp_path, _of(kind)).eval()(**inputs).loss, loss)


def test_side_layers_attend_as_the_layers_they_belong_to() -> None:
    model = LadderModel.from_backbone(_of("qwen2"), 4, keep_decoder=[0, 2])
    types = model.backbone.config.layer_types
    assert model.twins["decoder"].tower.config.layer_types == [types[0], types[2]]
    assert len(set(types)) == 2


def test_a_frozen_head_counts_in_the_fingerprint(tmp_path: Path) -> None:
    ladder(llama).save_pretrained(tmp_path)
    other = llama()
    nn.init.normal_(other.lm_head.weight)
    with pytest.raises(CheckpointError, match="was saved for backbone"):
        LadderModel.from_pretrained(tmp_path, other)
