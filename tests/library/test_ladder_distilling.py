"""Distillation: a side learns what its backbone says, the task's head and the backbone stay as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from optional_packages import transformers_ready

if not transformers_ready():
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)

from ladders import INPUTS, MODELS, bert, ladder, llama, t5
from sideagents.errors import SideAgentsError
from sideagents.ladder import LadderModel, distil


@pytest.mark.parametrize("make", MODELS)
def test_the_side_learns_what_the_backbone_says(make: Any) -> None:
    model = ladder(make).eval()
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    losses = distil(model, [INPUTS[make]] * 40, learning_rate=1e-2)
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    if make in (t5, llama):
        inputs = {key: tensor for key, tensor in INPUTS[make].items() if key != "labels" or make is t5}
        with torch.no_grad():
            wanted = model.backbone(**inputs).logits.argmax(-1)
            assert (model(**inputs).logits.argmax(-1) == wanted).float().mean() > 0.5


def without_dropout(model: LadderModel) -> None:
    for part in model.twins.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        elif isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.0


def test_the_loss_by_definition() -> None:
    inputs = INPUTS[t5] | {"labels": INPUTS[t5]["labels"].clone()}
    inputs["labels"][0, 3:] = -100
    model = ladder(t5).eval()
    first = ladder(t5)
    without_dropout(first)
    with torch.no_grad():
        wanted = F.softmax(model.backbone(**inputs).logits, -1)
        found = F.softmax(model(**inputs).logits, -1)
    apart = (wanted * (wanted.log() - found.log())).sum(-1)
    expected = apart[inputs["labels"] != -100].mean()
    assert distil(first, [inputs]) == pytest.approx([expected.item()], rel=1e-4)
    tower = ladder(bert).eval()
    states, backbone = tower.last_states(**INPUTS[bert])
    real = INPUTS[bert]["attention_mask"].bool()
    error = (states - backbone).square().mean(-1)[real].mean() / backbone.square().mean()
    again = ladder(bert)
    without_dropout(again)
    assert distil(again, [INPUTS[bert]]) == pytest.approx([error.item()], rel=1e-4)


def test_a_side_that_starts_distilled() -> None:
    torch.manual_seed(1)
    model = LadderModel.from_backbone(t5(), 4, init="distilled", batches=[INPUTS[t5]] * 10)
    plain = ladder(t5)
    assert not torch.equal(model.up.weight, plain.up.weight)
    with pytest.raises(SideAgentsError, match=r"init='distilled' needs batches=\.\.\., inputs of the backbone"):
        LadderModel.from_backbone(t5(), 4, init="distilled")
    with pytest.raises(SideAgentsError, match="init='distilled': mix='residual' starts at the backbone's output"):
        LadderModel.from_backbone(t5(), 4, init="distilled", mix="residual", batches=[INPUTS[t5]])
    with pytest.raises(SideAgentsError, match="there is no batch to learn from"):
        distil(plain, [])
