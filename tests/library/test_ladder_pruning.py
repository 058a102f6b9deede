"""Structural pruning: one set of coordinates along a stream, heads keep their places, inner widths agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from optional_packages import transformers_ready

if not transformers_ready():
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)

from transformers import (
    BertModel,
    ElectraConfig,
    ElectraModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from ladders import IDS, INPUTS, MASK, MODELS, SMALL, bert, llama, t5
from sideagents.errors import SideAgentsError
from sideagents.ladder import LadderModel, fisher_importance
from sideagents.ladder.pruning import pruned

R = 2


def favour(weight: torch.Tensor, rows: Any = None, columns: Any = None) -> None:
    with torch.no_grad():
        if rows is not None:
            weight[rows] *= 50
        if columns is not None:
            weight[:, columns] *= 50


@pytest.mark.parametrize("init", ["magnitude", "fisher"])
@pytest.mark.parametrize("make", MODELS)
def test_the_side_starts_from_the_backbone_and_learns(make: Any, init: Any) -> None:
    backbone = make()
    batches = [{key: tensor[i : i + 1] for key, tensor in INPUTS[make].items()} for i in range(3)]
    importance = fisher_importance(backbone, batches) if init == "fisher" else None
    torch.manual_seed(1)
    model = LadderModel.from_backbone(backbone, 4, init=init, importance=importance)
    other = make()
    torch.manual_seed(1)
    random = LadderModel.from_backbone(other, 4)
    names = [name for name, _ in random.twins.named_parameters()]
    same = [torch.equal(model.twins.get_parameter(n), random.twins.get_parameter(n)) for n in names]
    kept = [n for n, equal in zip(names, same, strict=True) if equal]
    untouched = [n for n in names if ".down." in n or n.split(".")[1] in ("ladder", "alpha")]
    assert untouched
    assert set(untouched) <= set(kept)  # gates and projections are as they were drawn
    drawn = [
        n for n in names if n.endswith("weight") and ".layer." in n and "norm" not in n.lower() and n not in untouched
    ]
    assert not any(n in kept for n in drawn)
    model.train()(**INPUTS[make]).loss.backward()
    assert all(p.grad is not None for p in model.trainable_parameters())


def test_t5_by_hand() -> None:
    backbone = t5()  # width 32, four heads of 8, 64 inside; half of all that is kept
    stream, memory = torch.arange(1, 32, 2), torch.arange(16)
    dims = torch.tensor([0, 2, 5, 7])  # of each head
    heads = torch.cat([dims + 8 * head for head in range(4)])
    inner = torch.arange(20, 52)
    for tower, own in ((backbone.encoder, memory), (backbone.decoder, stream)):
        for block in tower.block:
            for sub in block.layer[:-1]:
                attention = getattr(sub, "SelfAttention", None) or sub.EncDecAttention
                cross = hasattr(sub, "EncDecAttention")
                for name in ("q", "k", "v"):
                    read = memory if cross and name != "q" else own
                    favour(getattr(attention, name).weight, heads, read)
                favour(attention.o.weight, own, heads)
            favour(block.layer[-1].DenseReluDense.wi.weight, inner, own)
            favour(block.layer[-1].DenseReluDense.wo.weight, own, inner)
    model = LadderModel.from_backbone(backbone, R, keep_encoder=[1], keep_decoder=[0, 2], init="magnitude")
    wide, narrow = backbone.decoder.block[2], model.twins["decoder"].tower.block[1].layer
    for index, name in ((0, "SelfAttention"), (1, "EncDecAttention")):
        old, new = getattr(wide.layer[index], name), getattr(narrow.layer[index], name)
        assert torch.equal(new.q.weight, old.q.weight[heads][:, stream])
        read = memory if index else stream
        assert torch.equal(new.k.weight, old.k.weight[heads][:, read])
        assert torch.equal(new.v.weight, old.v.weight[heads][:, read])
        assert torch.equal(new.o.weight, old.o.weight[stream][:, heads])
        assert torch.equal(narrow.layer[index].layer_norm.weight, wide.layer[index].layer_norm.weight[stream])
    assert torch.equal(
        narrow.layer[2].DenseReluDense.wo.weight, wide.layer[2].DenseReluDense.wo.weight[stream][:, inner]
    )
    first = backbone.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    given = model.twins["encoder"].tower.block[0].layer.layer[0].SelfAttention.relative_attention_bias
    assert torch.equal(given.weight, first.weight)  # of the dropped first layer: it holds for all


def test_llama_keeps_pairs_of_rotated_dimensions_and_groups_of_heads() -> None:
    backbone = llama()  # four heads of 16 in two groups
    pairs = torch.tensor([1, 4, 5, 7])
    dims = torch.cat([pairs, pairs + 8])
    values = torch.tensor([0, 1, 2, 3, 9, 10, 11, 15])
    for layer in backbone.model.layers:
        attention = layer.self_attn
        favour(attention.q_proj.weight, torch.cat([pairs + 16 * head for head in range(4)]))  # one half tells the other
        favour(attention.v_proj.weight, torch.cat([values + 16 * group for group in range(2)]))
        favour(attention.o_proj.weight, None, torch.cat([values + 16 * head for head in range(4)]))
    model = LadderModel.from_backbone(backbone, R, init="magnitude")
    old, new = backbone.model.layers[0].self_attn, model.twins["decoder"].tower.layers[0].layer.self_attn
    rows = torch.cat([dims + 16 * head for head in range(4)])
    columns = _columns(old.q_proj.weight[rows], new.q_proj.weight)
    assert torch.equal(new.k_proj.weight, old.k_proj.weight[rows[:16]][:, columns])
    assert torch.equal(new.v_proj.weight, old.v_proj.weight[torch.cat([values, values + 16])][:, columns])
    assert torch.equal(new.o_proj.weight, old.o_proj.weight[columns][:, torch.cat([values + 16 * h for h in range(4)])])
    assert torch.equal(new.q_proj.weight, old.q_proj.weight[rows][:, columns])


def _columns(wide: torch.Tensor, narrow: torch.Tensor) -> torch.Tensor:
    """Return which columns of one matrix the other has."""
    return torch.stack([(wide == column[:, None]).all(dim=0).nonzero()[0, 0] for column in narrow.T])


def test_fisher_information_is_the_mean_of_squared_gradients_and_leaves_no_trace() -> None:
    backbone = bert()
    backbone.config.return_dict = False  # as some ask for tuples
    flags = [p.requires_grad for p in backbone.parameters()]
    batches = [{key: tensor[i : i + 1] for key, tensor in INPUTS[bert].items()} for i in range(3)]
    found = fisher_importance(backbone.train(), batches, samples=2)
    assert backbone.training
    assert [p.requires_grad for p in backbone.parameters()] == flags
    assert all(p.grad is None for p in backbone.parameters())
    expected = 0.0
    for batch in batches[:2]:
        backbone.eval().zero_grad()
        backbone(**batch)[0].backward()
        expected = expected + backbone.classifier.weight.grad.square() / 2
    torch.testing.assert_close(found["classifier.weight"], expected)
    assert found["classifier.weight"].dtype == torch.float32
    small = fisher_importance(bert().half(), batches)  # whose squares are 0 in float16
    assert float((small["bert.encoder.layer.0.attention.self.value.weight"] > 0).float().mean()) > 0.9
    with pytest.raises(SideAgentsError, match="there is no batch"):
        fisher_importance(backbone, [])
    with pytest.raises(SideAgentsError, match="init='fisher' needs importance"):
        LadderModel.from_backbone(backbone, 4, init="fisher")


def test_fisher_information_needs_labels_and_a_head() -> None:
    inputs = {"input_ids": IDS[:1]}
    backbone = bert().eval()
    with pytest.raises(SideAgentsError, match="batch 1 gives no loss: batches need labels, and a BertForSequence"):
        fisher_importance(backbone, [inputs])
    assert all(p.requires_grad and p.grad is None for p in backbone.parameters())
    with pytest.raises(SideAgentsError, match="a BertModel a head that learns"):
        fisher_importance(BertModel(backbone.config), [inputs])


def test_importance_of_another_model_is_refused_and_the_backbone_is_given_back() -> None:
    backbone = bert()
    own = {name: torch.ones_like(p) for name, p in backbone.named_parameters()}
    fewer = {name: tensor for name, tensor in own.items() if ".layer.2." not in name}
    wider = own | {"bert.encoder.layer.1.output.dense.weight": torch.ones(48, 100)}
    for other, name in (
        (fewer, r"bert\.encoder\.layer\.2\.\S+'"),
        (wider, r"\S+1\.output\.dense\.weight' of shape \(48, 96\)"),
    ):
        with pytest.raises(SideAgentsError, match=f"importance is of another model, it has no '{name}") as found:
            LadderModel.from_backbone(backbone, 4, init="fisher", importance=other)
        assert "\n" not in str(found.value)
        assert all(p.requires_grad for p in backbone.parameters())
    LadderModel.from_backbone(backbone, 4, init="fisher", importance=own)


@pytest.mark.parametrize("head_dim", [20, 100])
def test_rotated_heads_stay_even(head_dim: int) -> None:
    shape = SMALL | {"hidden_size": 4 * head_dim, "intermediate_size": 160}
    backbone = LlamaForCausalLM(LlamaConfig(**shape))
    odd = f"reduction=4 leaves heads of {head_dim // 4} of the backbone's {head_dim} dimensions"
    for build in (LadderModel.from_backbone, pruned):
        with pytest.raises(
            SideAgentsError, match=f"{odd}.* take one that leaves an even number .*1, 2, 5, 10"
        ) as found:
            build(backbone, 4)
        assert "\n" not in str(found.value)
    for even in (2, 5, 10):
        LadderModel.from_backbone(backbone, even)(**INPUTS[llama]).loss.backward()
    LadderModel.from_backbone(backbone, 4, block="adapter")(**INPUTS[llama]).loss.backward()  # nothing is turned


@pytest.mark.parametrize("reduction", [2, 4])
def test_embeddings_that_are_not_as_wide_as_the_stream(reduction: int) -> None:
    torch.manual_seed(0)
    shape = SMALL | {"hidden_size": 16, "intermediate_size": 32}
    backbone = ElectraModel(ElectraConfig(**shape, embedding_size=8)).eval()  # half as wide, as in all small ones
    project = backbone.embeddings_project
    favour(project.weight, torch.arange(16))  # told apart by rows alone
    nn.init.normal_(project.bias)
    side, width, wide = pruned(backbone, reduction)
    assert (width, wide) == (16 // reduction, 16)
    for name, parameter in backbone.embeddings.named_parameters():
        assert torch.equal(side.embeddings.get_parameter(name), parameter)
    assert side.embeddings_project.weight.shape == (width, 8)
    stream = _columns(project.weight.T, side.embeddings_project.weight.T)
    assert torch.equal(side.embeddings_project.bias, project.bias[stream])
    norm = "encoder.layer.0.attention.output.LayerNorm.weight"
    assert torch.equal(side.get_parameter(norm), backbone.get_parameter(norm)[stream])
    states = side.eval()(input_ids=IDS, attention_mask=MASK).last_hidden_state
    assert states.shape == (3, 7, width)
    states.square().sum().backward()
    assert side.embeddings_project.weight.grad.abs().sum() > 0


def test_embeddings_as_wide_as_the_stream_give_up_its_coordinates() -> None:
    torch.manual_seed(0)
    backbone = ElectraModel(ElectraConfig(**SMALL, embedding_size=48))
    side, _, _ = pruned(backbone, 4)
    words = backbone.embeddings.word_embeddings.weight
    kept = side.embeddings.word_embeddings.weight
    assert torch.equal(kept, words[:, _columns(words, kept)])
    assert side(input_ids=IDS).last_hidden_state.shape == (3, 7, 12)
