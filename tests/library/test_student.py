"""A side that a configuration wants distilled: what teaches it, its file, and runs that start from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sideagents.adaptation import adapt
from sideagents.bases import load_base
from sideagents.bases.encoder import MidLevelDecoder
from sideagents.config.typed import config_hash
from sideagents.core.side import make_side
from sideagents.errors import CheckpointError
from sideagents.jobs import lifelong as lifelong_module
from sideagents.jobs.adapt import adapt_run
from sideagents.jobs.lifelong import lifelong
from sideagents.storage.tensors import load_tensors, save_tensors
from sideagents.train import student as student_module
from sideagents.train.distil import code_error
from sideagents.train.student import StudentConfig, distil_side, load_classifier, load_decoder, missing_teachers
from vision_jobs import adapt_config, lifelong_config

IMAGES = torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
QUICK = {"epochs": 2, "batch_size": 8, "precision": "float32"}


def test_teachers_are_read_from_their_files(tmp_path: Path) -> None:
    decoder = MidLevelDecoder(3, 8, 16)
    save_tensors(tmp_path / "decoder.safetensors", decoder.state_dict())
    codes = torch.rand(2, 8, 4, 4)
    assert torch.equal(load_decoder(tmp_path / "decoder.safetensors", (8, 4, 4))(codes), decoder(codes))
    linear = nn.Linear(8, 5)
    save_tensors(tmp_path / "task.safetensors", {"readout.2.weight": linear.weight, "readout.2.bias": linear.bias})
    found = load_classifier(tmp_path / "task.safetensors", (8, 4, 4))
    assert torch.allclose(found(codes), linear(codes.mean(dim=(2, 3))), atol=1e-6)
    assert load_classifier(tmp_path / "task.safetensors", (8,))(torch.rand(2, 8)).shape == (2, 5)
    with pytest.raises(CheckpointError, match=r"is no decoder of codes \(16, 4, 4\)"):
        load_decoder(tmp_path / "decoder.safetensors", (16, 4, 4))
    with pytest.raises(CheckpointError, match="is no decoder of codes"):
        load_decoder(tmp_path / "task.safetensors", (8, 4, 4))
    with pytest.raises(CheckpointError, match=r"needs one weight \(classes, 16\) and one bias"):
        load_classifier(tmp_path / "task.safetensors", (16,))
    config = StudentConfig(perceptual=1.0, decoder=str(tmp_path / "gone.safetensors"))
    assert list(missing_teachers(config)) == [f"distil.decoder: no such file {tmp_path / 'gone.safetensors'}"]


@pytest.mark.parametrize("keys", [{"labels": 1.0}, {"classifier": "a"}, {"perceptual": 1.0}, {"decoder": "a"}])
def test_a_teacher_and_its_weight_belong_together(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="belong together: give both, or neither"):
        StudentConfig.model_validate(keys)


def test_all_teachers_at_once_and_a_file_that_is_there_is_read(tmp_path: Path, capsys: Any) -> None:
    base = load_base("curvature")
    save_tensors(tmp_path / "decoder.safetensors", MidLevelDecoder(2, 8, 16).state_dict())
    save_tensors(tmp_path / "linear.safetensors", nn.Linear(8, 4).state_dict())
    config = StudentConfig.model_validate(
        QUICK
        | {"labels": 1.0, "temperature": 2.0, "classifier": str(tmp_path / "linear.safetensors")}
        | {"perceptual": 1.0, "decoder": str(tmp_path / "decoder.safetensors")}
    )
    side = make_side("conv", base.out_shape, base=base)
    before = code_error(base, side, IMAGES)[0]
    distil_side(base, side, IMAGES, IMAGES[:8], config, tmp_path / "student.safetensors")
    assert code_error(base, side, IMAGES)[0] < before
    assert "% of the variance of the base's code" in capsys.readouterr().out
    again = make_side("conv", base.out_shape, base=base)
    distil_side(base, again, IMAGES[:0], IMAGES[:0], config, tmp_path / "student.safetensors")  # nothing is trained
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in side.state_dict().items())


def test_adapt_starts_from_a_distilled_side(cifar: Path, tmp_path: Path) -> None:
    options = {"side": "fcn4", "side_init": "distilled"}
    config = adapt_config(cifar, tmp_path, method="sidetune", options=options, distil=QUICK, epochs=1)
    run, result = adapt_run(config)
    assert result["accuracy"] > 0.2
    student = load_tensors(run / "student.safetensors")
    plain = {"side": "fcn4"}
    other = adapt_run(adapt_config(cifar, tmp_path, method="sidetune", options=plain, name="other", epochs=1))
    assert json.loads((run / "task" / "task.json").read_text())["options"]["side_init"] == "default"
    loaded = adapt(load_base("cifar:resnet20"), "sidetune")
    trained = loaded.load_task(run / "task").net.side.state_dict()
    assert student.keys() == trained.keys()
    assert other[1]["loss"] != result["loss"]
    plain["side_init"] = str(run / "student.safetensors")
    again = adapt_run(adapt_config(cifar, tmp_path, method="sidetune", options=plain, name="again", epochs=1))
    assert again[1]["loss"] == pytest.approx(result["loss"], rel=1e-3)


def test_lifelong_distils_one_student_for_all_tasks_and_resumes_from_it(
    cifar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = lifelong_config(cifar, tmp_path, side_init="distilled", distil=QUICK)
    made: list[Path] = []
    original = student_module.distil
    monkeypatch.setattr(student_module, "distil", lambda *a, **k: made.append(a[5]) or original(*a, **k))
    run, result = lifelong(config)
    assert made == [run / "student.safetensors"]
    assert result["mean_accuracy"] > 0.4
    assert lifelong(config, resume=True)[1]["per_task"] == result["per_task"]
    assert len(made) == 1
    assert lifelong_module.checked(config).side_init == "distilled"  # the run's configuration names no file
    assert config_hash(config) != config_hash(lifelong_config(cifar, tmp_path, side_init="distilled"))
    assert config_hash(lifelong_config(cifar, tmp_path)) == config_hash(lifelong_config(cifar, tmp_path, distil={}))
