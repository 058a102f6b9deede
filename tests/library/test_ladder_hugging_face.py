"""Ladder Side-Tuning in Hugging Face's hands: its trainers, precisions and recomputation, and each family of models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from optional_packages import transformers_ready

if not transformers_ready():
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)

import transformers
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, T5Config

from ladders import INPUTS, MODELS, SMALL, bert, ladder, llama, t5, vit
from sideagents.errors import CheckpointError, SideAgentsError
from sideagents.ladder import LadderModel
from sideagents.storage.tensors import load_tensors


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
    assert not any(name.startswith("backbone.") for name in tensors)
    again = ladder(make)
    again.load_state_dict(tensors)
    assert torch.equal(again.eval()(**INPUTS[make]).loss, model.eval()(**INPUTS[make]).loss)


_WIDE = SMALL | {"hidden_size": 64}
_DECODER = _WIDE | {"num_key_value_heads": 2}
_T5 = {
    "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4, "vocab_size": 60, "decoder_start_token_id": 0
}  # fmt: skip
_SLIDING = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
_BART = {
    "d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 48, "vocab_size": 60, "max_position_embeddings": 32, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None,
    "decoder_layerdrop": 0.5,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "electra": ("Electra", "SequenceClassification", SMALL | {"embedding_size": 24, "num_labels": 3}),
    "roberta": ("Roberta", "SequenceClassification", SMALL | {"num_labels": 3}),
    "xlm-roberta": ("XLMRoberta", "SequenceClassification", SMALL | {"num_labels": 3}),
    "camembert": ("Camembert", "SequenceClassification", SMALL | {"num_labels": 3}),
    "deit": ("DeiT", "ImageClassification", SMALL | {"image_size": 32, "patch_size": 8, "num_labels": 3}),
    "mistral": ("Mistral", "CausalLM", _DECODER | {"sliding_window": 4}),
    "qwen2": ("Qwen2", "CausalLM", _DECODER | _SLIDING),
    "qwen3": ("Qwen3", "CausalLM", _DECODER | {"head_dim": 16}),
    "gemma": ("Gemma", "CausalLM", _DECODER | {"head_dim": 16}),
    "gemma2": ("Gemma2", "CausalLM", _DECODER | {"head_dim": 16, "sliding_window": 4}),
    "smollm3": ("SmolLM3", "CausalLM", _DECODER | {"pad_token_id": 0}),
    "bart": ("Bart", "ConditionalGeneration", _BART),
    "mbart": ("MBart", "ConditionalGeneration", _BART),
    "mt5": ("MT5", "ConditionalGeneration", _T5),
    "umt5": ("UMT5", "ConditionalGeneration", _T5),
    "t5 v1.1": (
        "T5", "ConditionalGeneration", _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    ),
}  # fmt: skip


def _of(kind: str) -> nn.Module:
    name, task, settings = FAMILIES[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings)
    made: nn.Module = getattr(transformers, f"{name}For{task}")(config)
    return made


@pytest.mark.parametrize("init", ["random", "magnitude"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_learns(kind: str, init: Any, tmp_path: Path) -> None:
    backbone, task = _of(kind), FAMILIES[kind][1]
    by_task = {"SequenceClassification": bert, "ImageClassification": vit, "CausalLM": llama}
    inputs = INPUTS[by_task.get(task, t5)]
    expected = backbone.eval()(**inputs).loss
    torch.manual_seed(1)
    model = LadderModel.from_backbone(backbone, 4, init=init)
    residual = LadderModel.from_backbone(backbone, 4, init=init, mix="residual").eval()
    torch.testing.assert_close(residual(**inputs).loss, expected)
    model.train()(**inputs).loss.backward()
    assert all(p.grad is not None for p in model.trainable_parameters())
    if "input_ids" in inputs and task in ("CausalLM", "ConditionalGeneration"):
        nn.init.normal_(residual.up.weight)
        words = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        settings = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False}
        cached = residual.generate(**words, **settings)
        assert torch.equal(cached, residual.generate(**words, **settings, use_cache=False))
    loss = model.eval()(**inputs).loss
    model.save_pretrained(tmp_path)
    assert torch.equal(LadderModel.from_pretrained(tmp_path, _of(kind)).eval()(**inputs).loss, loss)


def test_what_trainers_ask_for_is_shown() -> None:
    model = ladder(t5)
    shifted = model.prepare_decoder_input_ids_from_labels(INPUTS[t5]["labels"])
    assert torch.equal(shifted, model.backbone.prepare_decoder_input_ids_from_labels(INPUTS[t5]["labels"]))
    assert not hasattr(ladder(bert), "prepare_decoder_input_ids_from_labels")
    model.gradient_checkpointing_enable()  # the older name
    assert any(getattr(part, "gradient_checkpointing", False) for part in model.twins.modules())
    model.gradient_checkpointing_disable()
    assert not any(getattr(part, "gradient_checkpointing", False) for part in model.twins.modules())


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


def _deberta(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    shape = {key: value for key, value in SMALL.items() if key != "vocab_size"}
    config = transformers.DebertaV2Config(
        vocab_size=60, **shape, relative_attention=True, position_buckets=4, norm_rel_ebd="layer_norm",
        position_biased_input=False, type_vocab_size=0, num_labels=3, max_position_embeddings=16,
        **({"pos_att_type": ["p2c", "c2p"], "share_att_key": True} | settings),
    )  # fmt: skip
    return transformers.DebertaV2ForSequenceClassification(config)


@pytest.mark.parametrize("settings", [{}, {"share_att_key": False}, {"conv_kernel_size": 3}])
@pytest.mark.parametrize("options", [{}, {"init": "magnitude"}, {"block": "adapter"}, {"mix": "residual"}])
def test_deberta(settings: Any, options: Any, tmp_path: Path) -> None:
    expected = _deberta(**settings).eval()(**INPUTS[bert])
    backbone = _deberta(**settings)
    model = LadderModel.from_backbone(backbone, 4, **options)
    tower = model.twins["encoder"].tower
    if options.get("block") != "adapter":
        assert tower.encoder.rel_embeddings.weight.shape == (8, 12)
    if "init" in options:
        wide, narrow = backbone.deberta.encoder.rel_embeddings.weight, tower.encoder.rel_embeddings.weight
        assert all(any(torch.equal(column, other) for other in wide.T) for column in narrow.T)
    model.train()(**INPUTS[bert]).loss.backward()
    assert all(p.grad is not None for p in model.trainable_parameters())
    assert all(p.grad is None for p in backbone.deberta.parameters())
    found = model.eval()(**INPUTS[bert])
    if "mix" in options:
        torch.testing.assert_close(found.logits, expected.logits)
    model.save_pretrained(tmp_path)
    again = LadderModel.from_pretrained(tmp_path, _deberta(**settings)).eval()
    assert torch.equal(again(**INPUTS[bert]).logits, found.logits)


def test_a_deberta_s_side_knows_places() -> None:
    model = LadderModel.from_backbone(_deberta(), 4).eval()
    twin = model.twins["encoder"]
    with torch.no_grad():
        nn.init.constant_(twin.alpha, -20.0)  # the side alone
        nn.init.normal_(model.up.weight)
        nn.init.normal_(twin.ladder.weight)
        for part in twin.tower.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight)
        before = model(**INPUTS[bert]).logits
        nn.init.normal_(twin.tower.encoder.rel_embeddings.weight, std=5.0)
        assert not torch.allclose(model(**INPUTS[bert]).logits, before, atol=1e-4)


def test_clip_s_projection_is_frozen() -> None:
    torch.manual_seed(0)
    shape = {key: value for key, value in SMALL.items() if key != "vocab_size"}
    config = CLIPVisionConfig(**shape, image_size=32, patch_size=8, projection_dim=10)
    tower = transformers.CLIPVisionModelWithProjection(config)
    images = INPUTS[vit]["pixel_values"]
    expected = copy.deepcopy(tower).eval()(pixel_values=images).image_embeds
    model = LadderModel.from_backbone(tower, 4, mix="residual")
    assert not model.trains_head
    found = model(pixel_values=images)
    torch.testing.assert_close(found.image_embeds, expected)
    found.image_embeds.square().sum().backward()
    assert all(p.grad is not None for p in model.trainable_parameters())
    assert all(p.grad is None for p in tower.parameters())


def _spans(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "bert":
        return transformers.BertForQuestionAnswering(transformers.BertConfig(**SMALL))
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4, "vocab_size": 60}
    return transformers.T5ForQuestionAnswering(T5Config(**shape, decoder_start_token_id=0))


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_question_answering(kind: str, tmp_path: Path) -> None:
    model = LadderModel.from_backbone(_spans(kind), 4)
    assert model.trains_head
    inputs = {key: INPUTS[bert][key] for key in ("input_ids", "attention_mask")}
    spans = {"start_positions": torch.tensor([0, 1, 2]), "end_positions": torch.tensor([1, 2, 3])}
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model.train()(**inputs, **spans).loss
        loss.backward()
        assert all(p.grad is not None for p in model.trainable_parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    found = model.eval()(**inputs)
    model.save_pretrained(tmp_path)
    assert "head.qa_outputs.weight" in load_tensors(tmp_path / "side.safetensors")
    again = LadderModel.from_pretrained(tmp_path, _spans(kind)).eval()
    assert torch.equal(again(**inputs).start_logits, found.start_logits)


@pytest.mark.parametrize("make", [*MODELS, _deberta])
def test_results_by_place_and_hidden_states(make: Any) -> None:
    model = LadderModel.from_backbone(make(), 4).eval()
    inputs = INPUTS.get(make, INPUTS[bert])
    with torch.no_grad():
        named = model(**inputs, output_hidden_states=True)
        placed = model(**inputs, return_dict=False)
        assert isinstance(placed, tuple)
        assert torch.equal(placed[0], named.loss)
        assert torch.equal(placed[1], named.logits)
        model.backbone.config.return_dict = False
        assert torch.equal(model(**inputs)[0], named.loss)
        assert torch.equal(model(**inputs, return_dict=True).loss, named.loss)
        model.backbone.config.return_dict = True
        states = named.decoder_hidden_states if make is t5 else named.hidden_states
        plain = model.backbone(**inputs, output_hidden_states=True)
        frozen = plain.decoder_hidden_states if make is t5 else plain.hidden_states
        assert len(states) == len(frozen) == 4
        assert all(torch.equal(one, other) for one, other in zip(states[:-1], frozen[:-1], strict=True))
        last = model.last_states(**inputs)
        if make is not vit:  # whose last state is of before its norm
            assert torch.equal(states[-1], last[0])
            assert torch.equal(frozen[-1], last[1])


def test_bart_s_side_never_drops_layers_reads_by_attention_and_has_no_adapters() -> None:
    model = LadderModel.from_backbone(_of("bart"), 4).train()
    model(**INPUTS[t5]).loss.backward()
    assert all(p.grad is not None for p in model.trainable_parameters())
    reader = LadderModel.from_backbone(_of("bart"), 4, fusion="cross_attention", down="slice", mix="residual").eval()
    nn.init.normal_(reader.up.weight)
    words = {key: INPUTS[t5][key] for key in ("input_ids", "attention_mask")}
    settings = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False}
    assert torch.equal(reader.generate(**words, **settings), reader.generate(**words, **settings, use_cache=False))
    with pytest.raises(SideAgentsError, match="block='adapter' is not known for a bart: take 'transformer'"):
        LadderModel.from_backbone(_of("bart"), 4, block="adapter")
