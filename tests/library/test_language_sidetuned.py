"""Side-tuned encoders: exact ends, a frozen tower, narrow sides; states computed beforehand stand in for layers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from optional_packages import transformers_ready

if not transformers_ready():
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)


from sideagents.core.merge import MERGES
from sideagents.errors import SideAgentsError
from sideagents.language.models import import_transformers, load_model, load_tokenizer
from sideagents.language.nlp_methods import METHODS, features, lst, sidetune
from sideagents.language.sidetuned_text import SideTunedText, side_tower, tower_of
from sideagents.language.states import Encoder, StatesTooLarge, cached_states, states_read
from sideagents.language.texts import Texts, tokenised

WORDS = ("the dog sleeps", "a man runs in the garden .", "who eats", "the red house is not in the garden")


@pytest.fixture
def texts(tiny: Path) -> Texts:
    return tokenised(load_tokenizer(str(tiny)), [(w,) for w in WORDS], 32, {"labels": torch.tensor([0, 1, 1, 0])})


def model_of(tiny: Path, kind: Any = "classify") -> Any:
    torch.manual_seed(1)
    return load_model(str(tiny), kind, 2)


EXACT = [name for name in MERGES.names() if MERGES.get(name).exact_ends]


@pytest.mark.parametrize("merge", EXACT)
@pytest.mark.parametrize("kind", ["classify", "answer"])
def test_alpha_at_its_ends_is_one_of_the_two(tiny: Path, texts: Texts, kind: str, merge: str) -> None:
    name = "logits" if kind == "classify" else "start_logits"
    inputs = texts.batch(torch.arange(4), targets=False)
    base = model_of(tiny, kind).eval()
    plain = base(**inputs)[name]
    model = sidetune(copy.deepcopy(base), alpha=0.5, merge=merge).eval()
    torch.testing.assert_close(model(**inputs)[name], plain)  # the copy is what the base is
    with torch.no_grad():
        for parameter in model.side.parameters():  # type: ignore[union-attr]
            parameter.mul_(1.5)
    blended = model(**inputs)[name]
    assert not torch.allclose(blended, plain)
    tower = copy.deepcopy(model.side)
    for alpha, expected in ((1.0, plain), (0.0, None)):
        one = SideTunedText(copy.deepcopy(base), copy.deepcopy(tower), alpha, merge).eval()
        found = one(**inputs)[name]
        if expected is None:
            alone = copy.deepcopy(base)
            wanted = dict(tower.named_parameters())  # type: ignore[union-attr]
            with torch.no_grad():
                for key, parameter in tower_of(alone).named_parameters():
                    if key in wanted:
                        parameter.copy_(wanted[key])
            expected = alone(**inputs)[name]
        assert torch.equal(found, expected)


@pytest.mark.parametrize("merge", [name for name in MERGES.names() if MERGES.get(name).modeless])
def test_every_merge_of_tokens_learns(tiny: Path, texts: Texts, merge: str) -> None:
    """States are merged as the merge does vectors, token by token; what pads a batch changes nothing."""
    model: Any = sidetune(model_of(tiny), merge=merge).eval()
    seen: list[Any] = []
    model.merge.register_forward_hook(lambda _, given, result: seen.append((*given[:2], result)))
    inputs = texts.batch(torch.arange(4))
    found = model(**inputs)
    tokens = inputs["input_ids"].numel()
    assert [tuple(part.shape) for part in seen[0]] == [(tokens, 16)] * 3
    if merge == "sum":
        assert torch.equal(seen[0][2], seen[0][0] + seen[0][1])
    alone = model(**texts.batch(torch.tensor([0]), targets=False)).logits
    torch.testing.assert_close(alone, found.logits[:1])
    found.loss.backward()
    assert all(p.grad is not None for p in model.merge.parameters())
    assert all(p.grad is None for p in model.model.bert.encoder.parameters())
    assert (model.alpha is None) == (merge not in EXACT)


def test_merges_that_cannot_be_are_one_line(tiny: Path) -> None:
    for merge in ("mlp_batchnorm", "mlp2_batchnorm"):
        with pytest.raises(SideAgentsError, match=f"merge '{merge}' has BatchNorm, which would count the padding"):
            sidetune(model_of(tiny), merge=merge)
    with pytest.raises(SideAgentsError, match=r"alpha=0\.5 has no effect on this merge; use merge 'alpha'"):
        sidetune(model_of(tiny), merge="sum", alpha=0.5)


def test_the_frozen_tower_stays_as_it_is(tiny: Path, texts: Texts) -> None:
    model: Any = sidetune(model_of(tiny)).train()
    assert not any(part.training for part in model.model.bert.encoder.modules())
    assert model.side.training
    assert model.model.dropout.training
    frozen = {name: p.clone() for name, p in model.model.bert.encoder.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(**texts.batch(torch.arange(4))).loss.backward()
        optimizer.step()
    assert all(torch.equal(p, frozen[name]) for name, p in model.model.bert.encoder.named_parameters())
    assert model.alpha.value() != 0.5
    assert model.model.bert.pooler.dense.weight.grad is not None


def test_narrow_and_short_sides(tiny: Path, texts: Texts) -> None:
    model = model_of(tiny)
    inputs = texts.batch(torch.arange(4), targets=False)
    short = side_tower(model, layers=[1])
    assert len(short.encoder.layer) == 1  # type: ignore[union-attr,arg-type]
    assert torch.equal(short.encoder.layer[0].output.dense.weight, model.bert.encoder.layer[1].output.dense.weight)  # type: ignore[index,union-attr]
    narrow: Any = side_tower(model, reduction=2)
    assert narrow.up.weight.shape == (16, 8)
    words, wide = narrow.tower.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight
    columns = [bool((wide == column[:, None]).all(0).any()) for column in words.T]
    assert all(columns)  # each is one of the base's
    assert narrow(**inputs).last_hidden_state.shape == (4, 16, 16)
    assert all(p.requires_grad for p in narrow.parameters())
    with pytest.raises(SideAgentsError, match="layers: give a list of numbers of layers from 0 to 1, ascending"):
        side_tower(model, layers=[2])
    with pytest.raises(SideAgentsError, match="reduction=3 does not divide"):
        side_tower(model, reduction=3)


def test_an_encoder_and_decoder_cannot_be_side_tuned() -> None:
    transformers = import_transformers()
    config = transformers.T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=20)
    with pytest.raises(SideAgentsError, match="needs a model of one tower, a T5ForConditionalGeneration has more"):
        sidetune(transformers.T5ForConditionalGeneration(config))


@pytest.mark.parametrize(
    ("method", "options", "numbers"),
    [
        ("lst", {"reduction": 2}, [0, 1, 2]),
        ("lst", {"reduction": 2, "keep_encoder": [1]}, [0, 2]),
        ("lst", {"reduction": 2, "keep_encoder": [0], "mix": "residual"}, [0, 1, 2]),
        ("features", {}, [2]),
        ("sidetune", {}, [2]),
        ("sidetune", {"merge": "film"}, [2]),
        ("lora", {}, None),
        ("full", {}, None),
    ],
)
def test_cached_states_stand_in_for_the_layers(
    tiny: Path,
    texts: Texts,
    tmp_path: Path,
    method: str,
    options: dict[str, Any],
    numbers: list[int] | None,
) -> None:
    model = METHODS.get(method)(model_of(tiny), **options).eval()
    assert states_read(model) == numbers
    if numbers is None:
        return
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    index = torch.tensor([3, 0, 2])
    inputs = texts.batch(index)
    expected = model(**inputs)
    encoder: Any = Encoder(model)  # type: ignore[arg-type]
    states = cached_states(encoder, texts, numbers, folder=tmp_path)
    torch.testing.assert_close(model(**inputs).logits, expected.logits)  # as long as nothing is replayed
    calls: list[int] = []
    encoder.parts[1].attention.register_forward_hook(lambda *_: calls.append(1))
    with encoder.replaying(states.batch(index, inputs["input_ids"].shape[1])):
        found = model(**inputs)
    assert calls == []
    torch.testing.assert_close(found.logits, expected.logits, atol=2e-3, rtol=2e-3)  # kept in half precision
    found.loss.backward()
    model(**inputs)
    assert calls == [1]


def test_states_are_computed_once(tiny: Path, texts: Texts, tmp_path: Path) -> None:
    model = lst(model_of(tiny), reduction=2)
    encoder = Encoder(model)  # type: ignore[arg-type]
    first = cached_states(encoder, texts, [0, 1], folder=tmp_path)
    assert first.values.shape == (int(texts.lengths().sum()), 2, 16)
    calls: list[int] = []
    encoder.parts[1].register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(cached_states(encoder, texts, [0, 1], folder=tmp_path).values, first.values)
    assert calls == []
    for other in ([0, 2], [1]):
        cached_states(encoder, texts, other, folder=tmp_path)
    cached_states(encoder, texts.of(torch.tensor([0])), [0, 1], folder=tmp_path)
    assert len(calls) == 3
    assert len(list(tmp_path.glob("*.states"))) == 4
    assert not list(tmp_path.glob("*.tmp"))
    batch = first.batch(torch.tensor([0]), 8)
    assert batch[0].shape == (1, 8, 16)
    assert batch[0][0, 5:].abs().sum() == 0  # [CLS] the dog sleeps [SEP], then nothing


def test_states_of_another_configuration_are_others(tiny: Path, texts: Texts, tmp_path: Path) -> None:
    found = []
    for activation in ("gelu", "relu"):
        torch.manual_seed(1)
        model = features(load_model(str(tiny), "classify", 2, {"hidden_act": activation}))
        found.append(cached_states(Encoder(model), texts, [2], folder=tmp_path).values.clone())  # type: ignore[arg-type]
    assert not torch.equal(*found)


def test_states_that_half_precision_cannot_hold_are_told(tiny: Path, texts: Texts, tmp_path: Path) -> None:
    model: Any = features(model_of(tiny))
    with torch.no_grad():
        model.model.bert.encoder.layer[1].output.LayerNorm.weight.fill_(1e6)
    with pytest.raises(StatesTooLarge, match="states of BertModel are too large for half precision"):
        cached_states(Encoder(model), texts, [2], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_features_are_the_base_with_a_head(tiny: Path, texts: Texts) -> None:
    model: Any = features(model_of(tiny))
    learned = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {name.split(".")[1] for name in learned} == {"bert", "classifier"}
    assert all(".pooler." in name for name in learned if ".bert." in name)
    model.train()
    inputs = texts.batch(torch.arange(4), targets=False)
    one, other = (model.model.bert(**inputs).last_hidden_state for _ in range(2))
    assert torch.equal(one, other)  # without dropout
