"""Methods of language adaptation: what learns, what stays, where each starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ladders import INPUTS, bert, llama, t5
from sideagents.errors import SideAgentsError
from sideagents.language.nlp_methods import METHODS, adapters, lora, lst
from sideagents.train.memory import peak_bytes

OPTIONS: dict[str, dict[str, Any]] = {
    "adapters": {"width": 4}, "lora": {"rank": 2}, "lst": {"reduction": 4}, "prompt": {"tokens": 3},
}  # fmt: skip


@pytest.mark.parametrize("make", [t5, bert])
@pytest.mark.parametrize("method", METHODS.names())
def test_it_learns_and_leaves_the_rest(make: Any, method: str) -> None:
    if make is t5 and method in ("features", "sidetune"):
        pytest.skip("a language model's head is frozen, so nothing would learn, and side-tuning is for one tower")
    torch.manual_seed(0)
    model = METHODS.get(method)(make(), **OPTIONS.get(method, {})).eval()  # without dropout
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(25):
        loss = model(**INPUTS[make]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert moved <= trained
    share = sum(before[name].numel() for name in trained) / sum(p.numel() for p in before.values())
    assert (share == 1.0) == (method in ("full", "scratch"))


@pytest.mark.parametrize("make", [t5, bert])
@pytest.mark.parametrize("method", ["adapters", "lora", "ia3"])
def test_it_starts_at_the_pretrained_model(make: Any, method: str) -> None:
    expected = make().eval()(**INPUTS[make]).logits
    model = METHODS.get(method)(make(), **OPTIONS.get(method, {})).eval()
    torch.testing.assert_close(model(**INPUTS[make]).logits, expected)


@pytest.mark.parametrize("make", [t5, bert])
def test_a_ladder_that_recomputes_learns_the_same_and_keeps_less(make: Any) -> None:
    gradients, peaks = [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = lst(make(), reduction=4, recompute=recompute).train()
        wide = {name: t.repeat(16, *[1] * (t.dim() - 1)) for name, t in INPUTS[make].items()}
        torch.manual_seed(0)
        peaks.append(
            peak_bytes(lambda m=model, x=wide: m(**x).loss.backward(), [*model.parameters(), *model.buffers()])
        )
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[1], gradients[0])
    assert peaks[1] < peaks[0]


def test_options_of_a_ladder_reach_its_design() -> None:
    options = {"reduction": 4, "mix": "residual", "down": "slice", "orientation": "code"}
    design = METHODS.get("lst")(bert(), **options).design
    assert {name: getattr(design, name) for name in options} == options


def test_adapters_stand_in_every_part() -> None:
    model = adapters(t5(), width=4)
    count = sum(type(part).__name__ == "Adapter" for part in model.modules())
    assert count == 3 * 2 + 3 * 3  # attention and feed-forward; the decoder has cross-attention too
    with pytest.raises(SideAgentsError, match="adapters: LlamaForCausalLM has none of T5LayerSelfAttention"):
        adapters(llama())
    assert any("q_proj.lora_A" in name for name, _ in lora(llama(), 2).named_parameters())
