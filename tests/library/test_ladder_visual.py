"""Images beside words: the side reads them, the backbone never does (LST's CLIP-T5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optional_packages import transformers_ready

if not transformers_ready():
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)

import transformers
from transformers import T5Config, T5ForConditionalGeneration

from ladders import IDS, INPUTS, MASK, bert, ladder, llama, t5, vit
from sideagents.errors import SideAgentsError
from sideagents.ladder import LadderModel, distil

REGIONS = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(2))
THERE = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
SEEING = [t5, bert]


def seeing(make: Any, **options: Any) -> LadderModel:
    model = ladder(make, visual=5, **options)
    for twin in model.twins.values():
        nn.init.normal_(twin.ladder.weight)
    nn.init.normal_(model.up.weight)
    return model.eval()


def test_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        backbone = T5ForConditionalGeneration(T5Config(
            d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12, vocab_size=32128, decoder_start_token_id=0
        ))  # fmt: skip
        row = LadderModel.from_backbone(backbone, 4, visual=2048).summary()
    assert row["trainable"] == 16_386_072 + 2048 * 768 + 768
    assert row["percent_of_all"] == pytest.approx(7.46, abs=0.005)


@pytest.mark.parametrize(
    ("make", "options"),
    [(t5, {}), (bert, {}), (t5, {"fusion": "cross_attention"}), (bert, {"fusion": "cross_attention"}),
     (t5, {"block": "adapter"})],
)  # fmt: skip
def test_the_side_sees_and_the_backbone_does_not(make: Any, options: Any) -> None:
    model = seeing(make, **options)
    entered: dict[str, list[Tensor]] = {}

    def note(name: str) -> Any:
        return lambda module, args, output: entered.setdefault(name, []).append(
            output[0] if isinstance(output, tuple) else output
        )

    layers = model.backbone.encoder.block if make is t5 else model.backbone.bert.encoder.layer
    for layer in next(iter(model.twins.values())).kept:
        layers[layer].register_forward_hook(note(str(layer)))
    with torch.no_grad():
        words = model(**INPUTS[make]).logits
        seen = model(**INPUTS[make], visual=REGIONS).logits
        other = model(**INPUTS[make], visual=REGIONS + 1).logits
    assert not torch.allclose(words, seen, atol=1e-4)
    assert not torch.allclose(other, seen, atol=1e-4)
    for states in entered.values():
        assert all(torch.equal(state, states[0]) for state in states)
        assert states[0].shape[1] == IDS.shape[1]
    loss = model.train()(**INPUTS[make], visual=REGIONS, visual_mask=THERE).loss
    loss.backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.trainable_parameters())


@pytest.mark.parametrize("make", SEEING)
def test_an_image_that_is_not_there_changes_nothing(make: Any) -> None:
    model, blind = seeing(make), ladder(make).eval()
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("visual.")}
    blind.load_state_dict(state)
    with torch.no_grad():
        words = blind(**INPUTS[make]).logits
        assert torch.equal(model(**INPUTS[make]).logits, words)
        hidden = model(**INPUTS[make], visual=REGIONS, visual_mask=torch.zeros(3, 4)).logits
        torch.testing.assert_close(hidden, words)
        masked = model(**INPUTS[make], visual=REGIONS, visual_mask=THERE).logits
        changed = REGIONS + (1 - THERE)[..., None]
        torch.testing.assert_close(model(**INPUTS[make], visual=changed, visual_mask=THERE).logits, masked)
        # regions have no order, words have
        turned = model(**INPUTS[make], visual=REGIONS.flip(1), visual_mask=THERE.flip(1)).logits
        torch.testing.assert_close(turned, masked)


def test_zeros_on_the_ladder_and_no_places_for_an_image() -> None:
    model = seeing(t5)
    twin = model.twins["encoder"]
    rung = twin.tower.block[0]
    entered: list[Tensor] = []
    biases: list[Tensor] = []
    rung.layer.register_forward_pre_hook(lambda module, args: entered.append(args[0]) or biases.append(args[2]))
    starts: list[Tensor] = []
    twin.ladder.register_forward_hook(lambda module, args, output: starts.append(output))
    with torch.no_grad():
        model(**INPUTS[t5], visual=REGIONS)
        torch.testing.assert_close(starts[0][:, 7:], twin.ladder(model.visual(REGIONS)))
        nn.init.constant_(twin.alpha, 0.05)  # a gate of sigmoid(0.5)
        model(**INPUTS[t5], visual=REGIONS)
    torch.testing.assert_close(entered[0][:, 7:], starts[0][:, 7:] / 2)
    share = torch.sigmoid(torch.tensor(0.5))
    torch.testing.assert_close(entered[1][:, 7:], starts[0][:, 7:] * (1 - share))
    assert biases[0].shape == (1, 4, 11, 11)
    assert not biases[0][:, :, 7:].any()
    assert not biases[0][..., 7:].any()
    torch.testing.assert_close(biases[0][..., :7, :7], rung.layer.layer[0].SelfAttention.compute_bias(7, 7))


@pytest.mark.parametrize("options", [{}, {"block": "adapter"}])
def test_generation_sees(options: Any) -> None:
    model = seeing(t5, **options)
    inputs = {"input_ids": IDS, "attention_mask": MASK, "visual": REGIONS, "visual_mask": THERE}
    for beams in (1, 3):
        settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
        cached = model.generate(**inputs, **settings)
        assert torch.equal(cached, model.generate(**inputs, **settings, use_cache=False))
    greedy = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    words = torch.zeros(3, 1, dtype=torch.long)
    with torch.no_grad():
        for _ in range(greedy.shape[1] - 1):
            logits = model(**inputs, decoder_input_ids=words).logits[:, -1]
            words = torch.cat([words, logits.argmax(-1, keepdim=True)], dim=1)
    ended = (greedy == 1).cumsum(1) - (greedy == 1).int() > 0  # what is filled up after the end
    assert torch.equal(words.masked_fill(ended, 0), greedy)
    blind = model.generate(input_ids=IDS, attention_mask=MASK, max_new_tokens=6, do_sample=False)
    assert greedy.shape != blind.shape or not torch.equal(greedy, blind)


def test_recomputed_layers_trainer_distillation_and_files(tmp_path: Path) -> None:
    model = seeing(t5).train()
    inputs = INPUTS[t5] | {"visual": REGIONS, "visual_mask": THERE}
    torch.manual_seed(3)
    model(**inputs).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.activation_checkpointing_enable()
    torch.manual_seed(3)
    model(**inputs).loss.backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, expected[name])
    losses = distil(model, [inputs] * 10, learning_rate=1e-2)
    assert losses[-1] < losses[0]
    loss = model.eval()(**inputs).loss
    model.save_pretrained(tmp_path)
    assert torch.equal(LadderModel.from_pretrained(tmp_path, t5()).eval()(**inputs).loss, loss)
    pytest.importorskip("accelerate", reason="accelerate is not installed (the `nlp` extra)")
    rows = [{key: tensor[i] for key, tensor in inputs.items()} for i in range(3)]
    arguments = transformers.TrainingArguments(
        str(tmp_path / "run"), num_train_epochs=2, per_device_train_batch_size=3, report_to=[], save_strategy="no",
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    before = model.visual.weight.clone()
    transformers.Trainer(model, arguments, train_dataset=rows).train()
    assert not torch.equal(model.visual.weight, before)  # the columns reached the model


@pytest.mark.parametrize("make", [llama, vit])
def test_models_that_cannot_see(make: Any) -> None:
    with pytest.raises(SideAgentsError, match=r"visual: the side of a .* cannot read images beside words"):
        ladder(make, visual=5)
    with pytest.raises(SideAgentsError, match="visual: block='adapter' looks at one place at a time"):
        ladder(bert, visual=5, block="adapter")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"visual": REGIONS[0]}, r"visual is of shape \(B, V, 5\), got \(4, 5\)"),
        ({"visual": REGIONS[..., :4]}, r"visual is of shape \(B, V, 5\), got \(3, 4, 4\)"),
        ({"visual": REGIONS, "visual_mask": THERE[:, :3]}, r"visual_mask is of shape \(3, 4\), got \(3, 3\)"),
        ({"visual": REGIONS[:2]}, "visual is of 2 examples, the words are of 3"),
        ({"visual_mask": THERE}, "visual_mask is given without visual"),
        (
            {"visual": REGIONS, "attention_mask": torch.ones(3, 7, 7)},
            r"visual needs an attention mask of shape \(B, T\), got \(3, 7, 7\)",
        ),
    ],
)
def test_what_cannot_be(given: Any, message: str) -> None:
    with pytest.raises(SideAgentsError, match=message):
        seeing(bert)(**(INPUTS[bert] | given))
    with pytest.raises(SideAgentsError, match="this ladder reads no images: build it with visual="):
        ladder(bert)(**INPUTS[bert], visual=REGIONS)
    with pytest.raises(SideAgentsError, match="is a whole number, at least 0, got -1"):
        ladder(bert, visual=-1)
