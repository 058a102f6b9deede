"""The other designs of a ladder's side: adapter layers, cross-attention to the backbone (LST, Table 4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optional_packages import transformers_ready

if not transformers_ready():
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)

from transformers import BertConfig, BertLMHeadModel, T5Config, T5ForConditionalGeneration

from ladders import IDS, INPUTS, MODELS, SMALL, bert, ladder, llama, t5
from sideagents.errors import SideAgentsError
from sideagents.ladder import LadderModel
from sideagents.ladder.side_blocks import Feed, Reader

DESIGNS: list[dict[str, Any]] = [
    {"block": "adapter"},
    {"fusion": "cross_attention"},
    {"block": "adapter", "fusion": "cross_attention", "down": "slice"},
    {"down": "slice"},
]


@pytest.mark.parametrize(
    ("options", "trainable", "percent"),
    [
        # 24 layers with an attention of 4 * 96 * 96 weights and a norm of 96 in place of a gate
        ({"fusion": "cross_attention"}, 5_097_240 - 24 + 24 * (4 * 96 * 96 + 96), 2.68),
        # 26 projections down, one up, 24 gates and bottlenecks to 384, 12 attentions to the encoder, 2 final norms
        (
            {"block": "adapter"},
            26 * 73_824 + 74_496 + 24 * (1 + 192 + 2 * 96 * 384 + 384 + 96) + 12 * (4 * 96 * 96 + 96) + 192,
            1.89,
        ),
        ({"down": "slice"}, 5_097_240 - 26 * 73_824, 1.43),
    ],
)
def test_numbers_of_weights(options: Any, trainable: int, percent: float) -> None:
    with torch.device("meta"):
        backbone = T5ForConditionalGeneration(T5Config(
            d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12, vocab_size=32128, decoder_start_token_id=0
        ))  # fmt: skip
        row = LadderModel.from_backbone(backbone, 8, **options).summary()
    assert row["trainable"] == trainable
    assert row["percent"] == pytest.approx(percent, abs=0.005)


@pytest.mark.parametrize("options", [*DESIGNS, {}])
def test_a_side_of_a_decoder_never_reads_what_comes_later(options: Any) -> None:
    torch.manual_seed(0)
    causal = BertLMHeadModel(BertConfig(**SMALL, is_decoder=True))
    later = IDS.clone()
    later[:, -1] = (later[:, -1] + 1) % 60
    for backbone in (causal, llama()):
        model = LadderModel.from_backbone(backbone, 4, **options).eval()
        logits, others = model(IDS).logits, model(later).logits
        torch.testing.assert_close(logits[:, :-1], others[:, :-1])
        assert not torch.allclose(logits[:, -1], others[:, -1])


@pytest.mark.parametrize("options", DESIGNS)
@pytest.mark.parametrize("make", MODELS)
def test_every_design_learns_and_is_saved(make: Any, options: Any, tmp_path: Path) -> None:
    model = ladder(make, **options)
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model.train()(**INPUTS[make]).loss
        loss.backward()
        assert all(p.grad is not None for p in model.trainable_parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    model.train()
    torch.manual_seed(3)
    model(**INPUTS[make]).loss.backward()
    expected = [p.grad.clone() for p in model.trainable_parameters()]
    model.zero_grad()
    model.activation_checkpointing_enable()
    torch.manual_seed(3)
    model(**INPUTS[make]).loss.backward()
    for parameter, gradient in zip(model.trainable_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    loss = model.eval()(**INPUTS[make]).loss
    model.save_pretrained(tmp_path)
    again = LadderModel.from_pretrained(tmp_path, make()).eval()
    assert again.design == model.design
    assert torch.equal(again(**INPUTS[make]).loss, loss)
    assert bool(model.gates()) == (model.design.fusion == "gate")


@pytest.mark.parametrize("options", DESIGNS)
@pytest.mark.parametrize("make", [t5, llama])
def test_generation_equals_the_forward_pass_without_a_cache(make: Any, options: Any) -> None:
    model = ladder(make, **options)
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-2)
    for _ in range(20):  # else one token is the likeliest always
        model.train()(**INPUTS[make]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    inputs = {key: INPUTS[make][key] for key in ("input_ids", "attention_mask")}
    for beams in (1, 3):
        settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
        cached = model.eval().generate(**inputs, **settings)
        assert torch.equal(cached, model.generate(**inputs, **settings, use_cache=False))
        assert len(cached[:, -6:].unique()) > 1


def test_recomputed_adapters_keep_less() -> None:
    def kept(model: LadderModel) -> int:
        found: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t) or t, lambda t: t):
            model.train()(**INPUTS[bert])
        return sum(t.shape[-1] == 24 for t in found if t.dim() == 3)  # inside of the bottlenecks

    model = ladder(bert, block="adapter")
    assert kept(model) > 0
    model.activation_checkpointing_enable()
    assert kept(model) == 0


def test_a_slice_is_taken_at_once() -> None:
    model, held = ladder(bert, down="slice"), []
    twin = model.twins["encoder"]
    twin.register_forward_pre_hook(lambda module, args: held.extend(args[1]))
    model(**INPUTS[bert])
    assert [state.shape for state in held] == [(3, 7, 12)] * 3


@pytest.mark.parametrize("make", MODELS)
def test_a_slice_keeps_nothing_of_the_backbone(make: Any) -> None:
    model = ladder(make, down="slice")
    wide = next(iter(model.twins.values())).wide
    own = {p.data_ptr() for p in model.parameters()}
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model.train()(**INPUTS[make])
    found = {t.data_ptr() for t in kept if t.dim() > 1 and t.shape[-1] == wide and t.data_ptr() not in own}
    assert len(found) <= 4  # the state that goes into the head, scaled or pooled


def test_a_slice_reads_every_r_th_coordinate_or_those_that_pruning_kept() -> None:
    states = torch.arange(64.0).view(1, 2, 32)
    model = ladder(t5, down="slice")
    expected = torch.tensor([[[0.0, 4, 8, 12, 16, 20, 24, 28], [32, 36, 40, 44, 48, 52, 56, 60]]])
    assert torch.equal(model.twins["encoder"].ladder(states), expected)
    backbone = t5()
    streams = {"encoder": torch.arange(8) + 3, "decoder": torch.arange(1, 32, 4)}
    with torch.no_grad():
        for name, stream in streams.items():
            for block in getattr(backbone, name).block:
                for part in block.layer:
                    attention = getattr(part, "SelfAttention", None) or getattr(part, "EncDecAttention", None)
                    (part.DenseReluDense.wo if attention is None else attention.o).weight[stream] *= 50
    model = LadderModel.from_backbone(backbone, 4, init="magnitude", down="slice")
    for name, stream in streams.items():
        slices = [part for part in model.twins[name].modules() if type(part).__name__ == "Slice"]
        assert len(slices) == 4
        assert all(torch.equal(part.index, stream) for part in slices)
        norm = getattr(backbone, name).block[0].layer[0].layer_norm.weight
        narrow = model.twins[name].tower.block[0].layer.layer[0].layer_norm.weight
        assert torch.equal(narrow, norm[stream])


def test_a_reader_by_hand() -> None:
    reader = Reader(2, 1, 0, causal=True)
    with torch.no_grad():
        for part in (reader.query, reader.key, reader.value, reader.out):
            part.weight.copy_(torch.eye(2))
    hidden = torch.tensor([[[3.0, 3.0], [1.0, 7.0]]])
    said = torch.tensor([[[5.0, 5.0], [1.0, -1.0]]])
    # norms give said (1, 1), (1, -1) and hidden (1, 1), (0.2, 1.4); scores are over the root of two
    share = 1 / (1 + torch.exp(torch.tensor((0.2 - 1.4 - 0.2 - 1.4) / 2**0.5)))
    expected = torch.tensor([[[4.0, 4.0], [2.0, 0.0]]])
    expected[0, 1, 1] = 7 + share - (1 - share)
    torch.testing.assert_close(reader(hidden, said, Feed(hidden, [])), expected)
    reader.causal = False
    padded = Feed(hidden, [], mask=torch.tensor([[1, 0]]))
    torch.testing.assert_close(reader(hidden, said, padded), hidden + 1)


def test_readers_look_neither_ahead_nor_at_padding() -> None:
    model = ladder(llama, fusion="cross_attention").eval()
    nn.init.normal_(model.up.weight)
    with torch.no_grad():
        whole = model(IDS).logits
        torch.testing.assert_close(model(IDS[:, :4]).logits, whole[:, :4])
        changed = IDS.clone()
        changed[1, 4:] = 1  # under the padding
        mask = INPUTS[bert]["attention_mask"]
        side = ladder(bert, fusion="cross_attention").eval()
        torch.testing.assert_close(side(changed, mask).logits, side(IDS, mask).logits)
        four = torch.zeros(3, 1, 7, 7)
        with pytest.raises(SideAgentsError, match=r"takes an attention mask of shape \(B, 7\), got \(3, 1, 7, 7\)"):
            model(IDS, attention_mask=four)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "adaptor"}, "unknown block 'adaptor', did you mean 'adapter'"),
        ({"fusion": "attention"}, "unknown fusion 'attention'"),
        ({"down": "sliced"}, "unknown down 'sliced', did you mean 'slice'"),
        ({"block": "adapter", "init": "magnitude"}, "init='magnitude': the backbone has no block='adapter'"),
    ],
)
def test_what_cannot_be(options: Any, message: str) -> None:
    with pytest.raises(SideAgentsError, match=message):
        ladder(bert, **options)
