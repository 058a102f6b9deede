"""Ladder Side-Tuning: published counts, nothing kept of the backbone, generation, files, what cannot be."""

from __future__ import annotations

import copy
import gc
import json
import threading
import weakref
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from optional_packages import transformers_ready

if not transformers_ready():
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)

from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from ladders import IDS, INPUTS, LABELS, MASK, MODELS, SMALL, bert, ladder, llama, t5, vit
from sideagents.errors import CheckpointError, SideAgentsError
from sideagents.ladder import LadderModel


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("make", [bert, t5])
def test_recomputed_passes_are_of_their_own_ladder(make: Any, use_reentrant: bool) -> None:
    """Two sides on one backbone, each checkpointed as a whole: gradients are those without, in each of them."""
    backbone, inputs = make(), INPUTS[make]
    sides = []
    for seed in range(2):
        torch.manual_seed(seed)
        sides.append(LadderModel.from_backbone(backbone, 4).eval())
    anchor = torch.zeros((), requires_grad=True)  # use_reentrant=True asks for an input with a gradient

    def gradients(checkpointed: bool) -> list[Tensor]:
        total = torch.zeros(())
        for side in sides:
            side.zero_grad()

            def run(zero: Tensor, side: LadderModel = side) -> Tensor:
                return cast(Tensor, side(**inputs).loss) + zero

            loss = checkpoint(run, anchor, use_reentrant=use_reentrant) if checkpointed else run(anchor)
            total = total + cast(Tensor, loss)
        total.backward()
        return [p.grad.clone() for side in sides for p in side.trainable_parameters() if p.grad is not None]

    for found, expected in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("size", "kept", "trainable", "percent"),
    [
        ("base", None, 5_097_240, 2.29),
        ("base", [1, 2, 3, 5, 6, 7, 9, 10, 11], 3_878_712, 1.74),
        ("large", list(range(1, 24, 2)), 9_057_328, 1.23),
        ("3b", [23], 2_494_896, 0.0875),
    ],
)
def test_the_published_numbers_of_weights(size: str, kept: list[int] | None, trainable: int, percent: float) -> None:
    shapes = {
        "base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
        "large": {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
        "3b": {"d_model": 1024, "d_kv": 128, "d_ff": 16384, "num_layers": 24, "num_heads": 32},
    }
    with torch.device("meta"):
        backbone = T5ForConditionalGeneration(T5Config(**shapes[size], vocab_size=32128, decoder_start_token_id=0))
        row = LadderModel.from_backbone(backbone, 8, keep_encoder=kept, keep_decoder=kept).summary()
    assert row["trainable"] == trainable
    assert row["percent"] == pytest.approx(percent, abs=0.005)
    assert row["dropped"] == (0 if kept is None else 2 * (shapes[size]["num_layers"] - len(kept)))


@pytest.mark.parametrize("make", MODELS)
def test_the_side_learns_and_the_backbone_does_not(make: Any) -> None:
    model = ladder(make)
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = model.train()(**INPUTS[make]).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.trainable_parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())
    assert not any(part.training for part in model.backbone.modules())
    assert all(p.grad is None for p in model.backbone.parameters())


class _Frozen(TorchDispatchMode):
    """Remembers what is computed without gradient, and keeps it, so that no memory is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not torch.is_grad_enabled():
            self.made += [
                part for part in (found if isinstance(found, tuple) else (found,)) if isinstance(part, Tensor)
            ]
        return found


@pytest.mark.parametrize("make", MODELS)
def test_nothing_of_the_backbone_is_kept_but_what_the_ladder_reads(make: Any) -> None:
    model = ladder(make)
    wide = next(iter(model.twins.values())).wide
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: list[Tensor] = []
    with _Frozen() as frozen, torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model.train()(**INPUTS[make])
    places = {tensor.untyped_storage().data_ptr() for tensor in frozen.made} - own
    found = {t.untyped_storage().data_ptr(): t.shape for t in kept if t.untyped_storage().data_ptr() in places}
    rungs = sum(1 + len(twin.kept) for twin in model.twins.values())
    states = [shape for shape in found.values() if shape[-1] == wide]
    assert len(states) == rungs
    # no attention maps, no keys, no inner states; angles of the side's own rotary positions want no gradient either
    others = [tuple(shape) for shape in found.values() if shape[-1] != wide]
    assert others == ([(1, 1, 7, 4)] * 2 if make is llama else [])


@pytest.mark.parametrize("make", MODELS)
def test_gates_at_their_ends(make: Any) -> None:
    model = ladder(make).eval()
    inputs = {key: tensor for key, tensor in INPUTS[make].items() if key != "labels"}
    if make is t5:
        inputs["decoder_input_ids"] = LABELS
    for twin in model.twins.values():
        assert torch.equal(twin.gates(), torch.full((3,), 0.5))
        nn.init.constant_(twin.alpha, -20.0)  # the side alone
    with torch.no_grad():
        alone = model(**inputs).logits
        for twin in model.twins.values():
            for rung in twin.modules():
                if type(rung).__name__ == "Rung":
                    nn.init.normal_(rung.down.weight)  # what the backbone says in its layers
        assert torch.equal(model(**inputs).logits, alone)
        for twin in model.twins.values():
            nn.init.constant_(twin.alpha, 20.0)  # the backbone alone: what the side had before each layer is gone
            nn.init.normal_(twin.ladder.weight)
        open_gates = model(**inputs).logits
        assert not torch.equal(open_gates, alone)
        for twin in model.twins.values():
            nn.init.normal_(twin.ladder.weight)
        assert torch.equal(model(**inputs).logits, open_gates)


def test_the_orientation_of_the_code_is_the_mirror_of_the_paper_s() -> None:
    paper, code = ladder(bert), ladder(bert, orientation="code")
    with torch.no_grad():
        for twin, sign in ((paper.twins["encoder"], 1), (code.twins["encoder"], -1)):
            twin.alpha.copy_(sign * torch.tensor([0.05, -0.1, 0.2]))
    assert torch.allclose(paper.gates()["encoder"], code.gates()["encoder"])
    assert paper.gates()["encoder"][0].item() == pytest.approx(torch.sigmoid(torch.tensor(0.5)).item())


@pytest.mark.parametrize("make", MODELS)
def test_a_residual_side_starts_at_the_pretrained_output(make: Any) -> None:
    inputs = dict(INPUTS[make])
    expected = make().eval()(**inputs).logits
    assert torch.allclose(ladder(make, mix="residual")(**inputs).logits, expected, atol=1e-6)
    assert not torch.allclose(ladder(make)(**inputs).logits, expected, atol=1e-3)


@pytest.mark.parametrize("make", [t5, llama])
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_equals_the_forward_pass_without_a_cache(make: Any, beams: int) -> None:
    model = ladder(make)
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-2)
    for _ in range(20):  # else one token is the likeliest always
        model.train()(**INPUTS[make]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    inputs = {key: INPUTS[make][key] for key in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
    cached = model.generate(**inputs, **options)
    assert torch.equal(cached, model.generate(**inputs, **options, use_cache=False))
    assert len(cached[:, -6:].unique()) > 1
    if beams == 1 and make is t5:
        words = torch.zeros(3, 1, dtype=torch.long)
        with torch.no_grad():
            for _ in range(cached.shape[1] - 1):
                logits = model(**inputs, decoder_input_ids=words).logits[:, -1]
                words = torch.cat([words, logits.argmax(-1, keepdim=True)], dim=1)
        assert not (cached == 0)[:, 1:].any()  # none has ended
        assert torch.equal(words, cached)


def test_caches_that_are_cut_copied_and_forgotten() -> None:
    model = ladder(llama, mix="residual").eval()
    nn.init.normal_(model.up.weight, std=0.5)
    options = {"max_new_tokens": 8, "do_sample": False}
    greedy = model.generate(input_ids=IDS[:1], **options)
    assert torch.equal(model.generate(input_ids=IDS[:1], **options, prompt_lookup_num_tokens=3), greedy)
    with torch.no_grad():
        whole = model(IDS).logits[:, 4:]
        cache = model(IDS[:, :4], use_cache=True).past_key_values
        copied = copy.deepcopy(cache)
        for one in (cache, copied):
            torch.testing.assert_close(model(IDS[:, 4:], past_key_values=one).logits, whole)
            one.crop(-3)
            torch.testing.assert_close(model(IDS[:, 4:], past_key_values=one).logits, whole)
    gc.collect()
    gc.disable()
    try:
        reference = weakref.ref(cache)
        del cache, one
        assert reference() is None  # nothing but the caller holds it
    finally:
        gc.enable()


def test_two_sides_on_one_backbone_and_two_threads_do_not_meet() -> None:
    torch.manual_seed(0)
    backbone = BertModel(BertConfig(**SMALL))
    torch.manual_seed(1)
    first = LadderModel.from_backbone(backbone, 4).eval()
    second = LadderModel.from_backbone(backbone, 6, keep_encoder=[1]).eval()
    plain = backbone(IDS).last_hidden_state
    with torch.no_grad():
        expected = {side: side(IDS, attention_mask=MASK).last_hidden_state for side in (first, second)}
    assert not torch.equal(expected[first], expected[second])
    wrong = []

    def run(side: LadderModel) -> None:
        with torch.no_grad():
            for _ in range(10):
                if not torch.equal(side(IDS, attention_mask=MASK).last_hidden_state, expected[side]):
                    wrong.append(side)

    threads = [threading.Thread(target=run, args=(side,)) for side in (first, second, first)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert torch.equal(backbone(IDS).last_hidden_state, plain)  # without a ladder it is what it was
    first(IDS, attention_mask=MASK).last_hidden_state[..., 0].sum().backward()
    assert all(p.grad is None for p in second.parameters())


def test_two_sides_with_heads_on_one_classifier_learn_apart() -> None:
    backbone = bert()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    plain = backbone.eval()(**INPUTS[bert]).logits
    one, other = LadderModel.from_backbone(backbone, 4), LadderModel.from_backbone(backbone, 4)
    expected = other.eval()(**INPUTS[bert]).logits
    optimizer = torch.optim.SGD(one.trainable_parameters(), lr=1.0)
    start = one.eval()(**INPUTS[bert]).logits
    one.train()(**INPUTS[bert]).loss.backward()
    optimizer.step()
    assert not torch.equal(one.heads()["classifier"].weight, backbone.classifier.weight)
    assert not torch.equal(one.eval()(**INPUTS[bert]).logits, start)
    assert torch.equal(other(**INPUTS[bert]).logits, expected)
    assert torch.equal(backbone(**INPUTS[bert]).logits, plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_a_ladder_that_is_told_to_learn_leaves_its_backbone_frozen() -> None:
    model = ladder(bert)
    model.requires_grad_(False)
    assert not list(model.trainable_parameters())
    model.requires_grad_(True)
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert sum(p.numel() for p in model.trainable_parameters()) == ladder(bert).summary()["trainable"]


@pytest.mark.parametrize("make", MODELS)
def test_the_side_is_saved_alone_and_comes_back(make: Any, tmp_path: Path) -> None:
    model = ladder(make, keep_encoder=[0, 2] if make is not llama else None).eval()
    loss = model(**INPUTS[make]).loss
    model.save_pretrained(tmp_path)
    stored = (tmp_path / "side.safetensors").stat().st_size
    assert stored < 4 * sum(p.numel() for p in model.trainable_parameters()) + 10_000
    torch.manual_seed(5)
    again = LadderModel.from_pretrained(tmp_path, make()).eval()
    assert torch.equal(again(**INPUTS[make]).loss, loss)
    with pytest.raises(CheckpointError, match=r"was saved for backbone '.*' with fingerprint"):
        LadderModel.from_pretrained(tmp_path, make(seed=9))
    if make in (bert, vit):
        other = make()
        for part in other.modules():
            if hasattr(part, "config"):
                part.config.num_attention_heads = 2
        with pytest.raises(
            CheckpointError, match=r"was saved for \{'encoder': 4\} attention heads, not \{'encoder': 2\}"
        ):
            LadderModel.from_pretrained(tmp_path, other)
    about = json.loads((tmp_path / "ladder.json").read_text())
    for change in ({"format": 2}, {"kept": {"encoder": [9]}}, {"reduction": None}, {"reduction": 0}):
        (tmp_path / "ladder.json").write_text(json.dumps(about | change))
        with pytest.raises(CheckpointError, match=r"ladder\.json: is (no ladder of format 1|damaged)"):
            LadderModel.from_pretrained(tmp_path, make())
    copied = copy.deepcopy(model)
    assert torch.equal(copied(**INPUTS[make]).loss, loss)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (bert, {"keep_encoder": [0, 3]}, "keep_encoder: give a list of numbers of layers from 0 to 2, ascending"),
        (bert, {"keep_encoder": 2}, "ascending, at least one, got 2"),
        (bert, {"keep_encoder": [2, 1]}, "ascending, at least one, got"),
        (bert, {"keep_encoder": []}, "at least one"),
        (bert, {"keep_decoder": [0]}, "keep_decoder: a BertForSequenceClassification has no decoder, it has encoder"),
        (bert, {"reduction": 5}, "reduction=5 does not divide the backbone's hidden_size=48"),
        (bert, {"reduction": 8}, "reduction=8 leaves a width of 6, which 4 heads do not divide"),
        (bert, {"reduction": 0}, "reduction is a whole number, at least 1, got 0"),
        (bert, {"reduction": 4.0}, r"reduction is a whole number, at least 1, got 4\.0"),
        (bert, {"keep_encoder": [0, 1.5]}, r"ascending, at least one, got \[0, 1\.5\]"),
        (
            bert,
            {"visual": "a"},
            "visual, an image's features or 0 for no images, is a whole number, at least 0, got 'a'",
        ),
        (bert, {"dtype": "bfloat16"}, r"dtype is one of torch's, such as torch\.bfloat16, got 'bfloat16'"),
        (bert, {"mix": "resid"}, "unknown mix 'resid', did you mean 'residual'"),
        (bert, {"orientation": "papers"}, "unknown orientation 'papers', did you mean 'paper'"),
        (bert, {"init": "fischer"}, "unknown init 'fischer', did you mean 'fisher'"),
        (lambda: nn.Linear(2, 2), {}, "no ladder for a backbone of type 'Linear'"),
    ],
)
def test_what_cannot_be(make: Any, options: dict[str, Any], message: str) -> None:
    backbone = make()
    with pytest.raises(SideAgentsError, match=message):
        LadderModel.from_backbone(backbone, **({"reduction": 4} | options))
    assert all(p.requires_grad for p in backbone.parameters())  # it is left as it was


def test_numbers_of_numpy_are_numbers() -> None:
    model = LadderModel.from_backbone(bert(), np.int64(4), keep_encoder=np.array([0, 2]))
    assert (model.reduction, model.twins["encoder"].kept) == (4, (0, 2))


def test_what_is_no_backbone_and_no_folder(tmp_path: Path) -> None:
    model = ladder(bert)
    with pytest.raises(SideAgentsError, match=r"the backbone is a ladder already: give its own, ladder\.backbone"):
        LadderModel.from_backbone(model, 4)
    (tmp_path / "file").touch()
    with pytest.raises(SideAgentsError, match="is a file; a side is saved to a folder"):
        model.save_pretrained(tmp_path / "file")
    swapped: Any = (bert(), tmp_path)
    with pytest.raises(SideAgentsError, match="from_pretrained takes the folder first, then the model"):
        LadderModel.from_pretrained(*swapped)


def test_arguments_given_by_place_reach_the_side() -> None:
    torch.manual_seed(0)
    tower = LadderModel.from_backbone(BertModel(BertConfig(**SMALL)), 4).eval()
    with torch.no_grad():
        by_place = tower(IDS, MASK).last_hidden_state
        assert torch.equal(by_place, tower(input_ids=IDS, attention_mask=MASK).last_hidden_state)
        assert not torch.equal(by_place, tower(IDS).last_hidden_state)


def test_a_backbone_without_a_head_gives_its_states() -> None:
    torch.manual_seed(0)
    model = LadderModel.from_backbone(BertModel(BertConfig(**SMALL)), 4)
    assert not model.trains_head
    assert model(IDS).last_hidden_state.shape == (3, 7, 48)
    words = ladder(llama).eval()
    cache = words.backbone(IDS[:, :4], use_cache=True).past_key_values
    with pytest.raises(SideAgentsError, match="past_key_values were computed without this ladder"):
        words(IDS[:, 4:], past_key_values=cache)
    other = ladder(t5)
    encoded = other.backbone.encoder(IDS)
    with pytest.raises(SideAgentsError, match="encoder_outputs were computed without this ladder"):
        other(encoder_outputs=encoded, decoder_input_ids=LABELS)
