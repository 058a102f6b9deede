"""Ladders over a quantised backbone, and a side of another type than its backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optional_packages import transformers_ready

if not transformers_ready():
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)

import transformers

from ladders import INPUTS, MODELS, SMALL, bert, ladder, llama, t5
from sideagents.errors import CheckpointError, SideAgentsError
from sideagents.ladder import LadderModel, fisher_importance


class Int8(nn.Module):
    """A linear layer as quantisation leaves it: integers with a scale for each row, made floats as it runs."""

    def __init__(self, linear: nn.Linear, parameter: bool) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        integers = (linear.weight.detach() / scale).round().to(torch.int8)
        if parameter:
            self.weight = nn.Parameter(integers, requires_grad=False)
        else:
            self.register_buffer("qweight", integers)

    def forward(self, x: Tensor) -> Tensor:
        stored = self.weight if hasattr(self, "weight") else self.qweight
        return F.linear(x, stored.to(x.dtype) * self.scale.to(x.dtype), self.bias)


def quantise(model: Any, parameter: bool = True) -> Any:
    for owner in list(model.base_model.modules()):
        for name, part in list(owner.named_children()):
            # T5 reads the type of this one's weights, which libraries of quantisation keep whole in half precision
            if isinstance(part, nn.Linear) and not (name == "wo" and not parameter) and name != "lm_head":
                setattr(owner, name, Int8(part, parameter))
    return model


@pytest.mark.parametrize("parameter", [True, False])
@pytest.mark.parametrize("make", MODELS)
def test_a_quantised_backbone(make: Any, parameter: bool, tmp_path: Path) -> None:
    plain = ladder(make)
    torch.manual_seed(1)
    model = LadderModel.from_backbone(quantise(make(), parameter), 4)
    assert any(isinstance(part, Int8) for part in model.backbone.modules())
    assert not any(isinstance(part, Int8) for part in model.twins.modules())
    assert model.summary() == plain.summary()
    torch.testing.assert_close(model.eval()(**INPUTS[make]).loss, plain.eval()(**INPUTS[make]).loss, rtol=0.1, atol=0)
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model.train()(**INPUTS[make]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())
    loss = model.eval()(**INPUTS[make]).loss
    model.save_pretrained(tmp_path)
    again = LadderModel.from_pretrained(tmp_path, quantise(make(), parameter)).eval()
    assert torch.equal(again(**INPUTS[make]).loss, loss)
    with pytest.raises(CheckpointError, match="was saved for backbone"):
        LadderModel.from_pretrained(tmp_path, make())


@pytest.mark.parametrize("make", [t5, llama])
def test_generation_over_integers(make: Any) -> None:
    model = LadderModel.from_backbone(quantise(make()), 4, mix="residual").eval()
    nn.init.normal_(model.up.weight)
    inputs = {key: INPUTS[make][key] for key in ("input_ids", "attention_mask")}
    settings = {"max_new_tokens": 5, "do_sample": False, "num_beams": 2}
    assert torch.equal(model.generate(**inputs, **settings), model.generate(**inputs, **settings, use_cache=False))


def test_what_cannot_be_quantised() -> None:
    with pytest.raises(SideAgentsError, match="a quantised backbone has no weights to prune"):
        LadderModel.from_backbone(quantise(bert()), 4, init="magnitude")
    whole = bert()
    whole.classifier = Int8(whole.classifier, True)
    with pytest.raises(
        SideAgentsError, match="the ladder trains is quantised: load the model with classifier left out"
    ):
        LadderModel.from_backbone(whole, 4)


@pytest.mark.parametrize("options", [{}, {"fusion": "cross_attention"}, {"block": "adapter"}])
@pytest.mark.parametrize("make", MODELS)
def test_a_side_in_another_type(make: Any, options: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = LadderModel.from_backbone(make().to(torch.bfloat16), 4, dtype=torch.float32, **options)
    inputs = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in INPUTS[make].items()}
    loss = model(**inputs).loss
    loss.backward()
    side = [*model.twins.parameters(), *model.up.parameters()]
    assert all(p.dtype == torch.float32 and p.grad is not None for p in side)
    torch.testing.assert_close(ladder(make, **options).eval()(**INPUTS[make]).loss, model.eval()(**inputs).loss.float(),
                               rtol=0.05, atol=0)  # fmt: skip
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**inputs).loss.backward()
    loss = model(**inputs).loss
    model.save_pretrained(tmp_path)
    about = json.loads((tmp_path / "ladder.json").read_text())
    assert about["dtype"] == "float32"
    again = LadderModel.from_pretrained(tmp_path, make().to(torch.bfloat16)).eval()
    assert again.up.weight.dtype == torch.float32
    assert torch.equal(again(**inputs).loss, loss)
    for wrong in ("float33", "nn", 3):
        (tmp_path / "ladder.json").write_text(json.dumps(about | {"dtype": wrong}))
        with pytest.raises(CheckpointError, match=r"ladder\.json: is damaged"):
            LadderModel.from_pretrained(tmp_path, make().to(torch.bfloat16))


_ROOMY = SMALL | {"hidden_size": 128, "intermediate_size": 256}  # 4 bits go by blocks of 64


def _roomy(make: Any) -> Any:
    torch.manual_seed(0)
    if make is bert:
        return transformers.BertForSequenceClassification(transformers.BertConfig(**_ROOMY, num_labels=3))
    if make is llama:
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_ROOMY))
    shape = {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 3, "num_heads": 4, "vocab_size": 60}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**shape, decoder_start_token_id=0))


# 4 bits have no gradient on the CPU in eval mode, and BERT's pooler stands behind the side
@pytest.mark.parametrize(("bits", "make"), [(8, bert), (8, llama), (8, t5), (4, llama), (4, t5)])
def test_bitsandbytes_layers(bits: int, make: Any) -> None:
    library = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

    def packed() -> Any:
        backbone = _roomy(make)
        for owner in list(backbone.base_model.modules()):
            for name, part in list(owner.named_children()):
                if not isinstance(part, nn.Linear) or name in ("wo", "lm_head"):
                    continue
                kind = library.nn.Linear8bitLt if bits == 8 else library.nn.Linear4bit
                more = {"has_fp16_weights": False} if bits == 8 else {"compute_dtype": torch.float32}
                layer = kind(part.in_features, part.out_features, part.bias is not None, **more)
                layer.load_state_dict(part.state_dict())
                setattr(owner, name, layer.to("cpu"))
        return backbone

    backbone = packed()
    model = LadderModel.from_backbone(backbone, 4)
    assert model.summary() == LadderModel.from_backbone(_roomy(make), 4).summary()
    model.train()(**INPUTS[make]).loss.backward()
    assert all(p.grad is not None for p in model.trainable_parameters())
    loss = model.eval()(**INPUTS[make]).loss
    assert torch.isfinite(loss)
    with pytest.raises(SideAgentsError, match="a quantised backbone has no weights to prune"):
        LadderModel.from_backbone(packed(), 4, init="magnitude")
    with pytest.raises(SideAgentsError, match="a quantised model has no gradients to weigh"):
        fisher_importance(backbone, [INPUTS[make]])
