"""Pretraining: it learns, beats the mean, resumes to the same bytes, and leaves a base, a card and a picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rendered_images import put_images
from sideagents import train
from sideagents.bases import load_base, read_card
from sideagents.config.typed import load_config
from sideagents.data.taskonomy_folder import read_taskonomy
from sideagents.errors import ConfigError, SideAgentsError
from sideagents.jobs.pretrain import (
    MapModel,
    PretrainConfig,
    _constants,
    held_out_loss,
    pretrain,
)
from sideagents.run.checkpoint import load_checkpoint
from sideagents.run.folder import RunFolder
from sideagents.run.scalars import read_scalars
from sideagents.train.step import Stepper
from sideagents_policies.cli.main import main

SIZE = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six buildings with bright boxes at hand on a dark far wall: depth can be read off the brightness."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    for building in range(6):
        for view in range(12):
            depth = np.full((SIZE, SIZE), 4000, np.uint16)
            for _ in range(3):
                top, left, size = rng.integers(0, SIZE - 8, 3)
                depth[top : top + 8 + size // 2, left : left + 12] = rng.integers(300, 2000)
            depth[0, :2] = 65_535
            colour = 255 - 255 * np.log2(np.minimum(depth, 8000) / 64) / 7
            pixels = (colour[:, :, None] * rng.uniform(0.8, 1.0, 3) + rng.normal(0, 3, (SIZE, SIZE, 3))).clip(0, 255)
            for folder, picture in (("rgb", pixels.astype(np.uint8)), ("depth_zbuffer", depth)):
                path = root / folder / f"house{building}" / f"point_0_view_{view}_domain_{folder}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
    return root


def config(data: Path, folder: Path, **changes: Any) -> PretrainConfig:
    values: dict[str, Any] = {
        "task": "depth", "data": str(data), "runs": str(folder), "size": SIZE, "width": 8, "epochs": 3,
        "batch_size": 16, "learning_rate": 5e-3, "precision": "float32", "threads": 1, "pictures": 3,
    }  # fmt: skip
    return PretrainConfig(**(values | changes))


def test_a_base_is_learned_and_leaves_its_papers(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/x/bin/sideagents", "pretrain", "task=depth", f"data={Path.cwd()}/d"])
    out = tmp_path / "out"
    path = pretrain(config(data, tmp_path, epochs=12, out=str(out), precision="bfloat16"))
    card = json.loads((out / "depth.json").read_text())
    assert card["reduction_percent"] >= 30  # bfloat16 rounds differently from machine to machine
    assert 0 < card["held_out_loss"] < card["mean_image_loss"] < card["mean_value_loss"]
    assert card["data"]["images"] == 60
    assert card["held_out"]["buildings"] == ["house5"]
    assert card["held_out"]["images"] == 12
    assert card["command"] == "sideagents pretrain task=depth data=d"
    assert (card["seed"], card["epochs"]) == (1, 12)
    assert path == out / "depth.safetensors"
    base = load_base(str(path))
    assert base.fingerprint == read_card(path)["fingerprint"]
    assert base.out_shape == (8, 4, 4)
    assert card["multiply_adds"] > card["weights"] > 0
    with Image.open(out / "depth.png") as picture:
        assert picture.size == (104 + 3 * 100, 3 * 100)
    run = RunFolder.open(tmp_path / "pretrain-depth_1")
    assert (run.path / "depth.decoder.safetensors").is_file()
    losses = [float(row["eval/held_out_loss"]) for row in read_scalars(run.path / "progress.csv")]
    assert len(losses) == 12
    assert losses[-1] == pytest.approx(card["held_out_loss"], rel=1e-6)
    assert not [entry for entry in out.iterdir() if entry.name.startswith(".")]


def test_stop_and_resume_gives_the_same_bytes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pretrain(config(data, tmp_path / "a"))
    real = train.loop.save_checkpoint

    def stop_after_two(folder: Path, step: int, *args: Any, **options: Any) -> Path:
        path = real(folder, step, *args, **options)
        if step == 2:
            raise KeyboardInterrupt
        return path

    monkeypatch.setattr("sideagents.train.loop.save_checkpoint", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config(data, tmp_path / "b"))
    monkeypatch.undo()
    torch.manual_seed(12345)  # another process would not stand at this point of the stream
    resumed = pretrain(config(data, tmp_path / "b"), resume=True)
    assert resumed.read_bytes() == whole.read_bytes()
    rows = [read_scalars(path.parent / "progress.csv") for path in (whole, resumed)]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[1]] == ["1", "2", "3"]
    with pytest.raises(ConfigError, match=r"must be the same \(epochs was 3, now 9; seed was 1, now 2\)"):
        pretrain(config(data, tmp_path / "b", epochs=9, seed=2), resume=True)
    assert len((resumed.parent / "command.txt").read_text().splitlines()) == 2  # the refused one left no trace


def test_the_mean_map_and_its_loss_by_hand(data: Path, tmp_path: Path) -> None:
    images = read_taskonomy(data, "depth", size=SIZE)
    constants = _constants(images)
    mean = constants["mean_image"]
    _, target, weight = images.batch(torch.arange(len(images)))
    assert weight[:, :, 0, :2].max() == 0  # the hole: no image has a value there, the mean over all stands in
    seen = (target * weight).sum() / weight.sum()
    assert torch.allclose(mean[0, 0, 0, :2], seen)
    assert torch.allclose(mean[0, 0, 5, 5], target[:, 0, 5, 5].mean())
    expected = ((target - target.mean(0)) ** 2)[weight > 0].mean()
    settings = config(data, tmp_path)
    losses = held_out_loss(MapModel(images, settings), images, settings, constants)
    assert losses.mean_image == pytest.approx(float(expected), rel=1e-5)
    assert losses.mean_value > losses.mean_image


def test_noise_is_drawn_for_denoising_alone(data: Path, tmp_path: Path) -> None:
    settings = config(data, tmp_path, task="denoising", noise=0.5)
    images = read_taskonomy(data, "denoising", size=SIZE)
    grey = torch.full((64, 3, SIZE, SIZE), 0.5)
    noisy = MapModel(images, settings).corrupt(grey, torch.Generator().manual_seed(0))
    spread = noisy.std(dim=(1, 2, 3))
    assert 0 < spread.min() < 0.05
    assert 0.3 < spread.max() < 0.5
    assert noisy.min() == 0
    plain = MapModel(read_taskonomy(data, "autoencoding", size=SIZE), settings)
    assert torch.equal(plain.corrupt(grey, torch.Generator()), grey)


def test_held_out_buildings_are_another_folder_or_a_split(data: Path, tmp_path: Path) -> None:
    splits = tmp_path / "splits.csv"
    splits.write_text("id,train,val,test\nhouse1,1,0,0\nhouse2,0,1,0\nhouse3,1,0,0\nelsewhere,1,0,0\n")
    path = pretrain(config(data, tmp_path, epochs=1, splits=str(splits), images=10, task="autoencoding", name="auto"))
    card = read_card(path)
    assert path.name == "auto.safetensors"
    assert (card["data"]["buildings"], card["data"]["images"]) == (["house1", "house3"], 10)
    assert card["held_out"]["buildings"] == ["house2"]
    with pytest.raises(ConfigError, match="building 'house0' is among the training buildings too"):
        pretrain(config(data, tmp_path, held_out=str(data)))
    splits.write_text("id,train,val,test\nhouse1,1,0,0\n")
    with pytest.raises(ConfigError, match="1 training and 0 held-out buildings; give a folder with held-out"):
        pretrain(config(data, tmp_path, splits=str(splits)))
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_dir()] == ["pretrain-auto_1"]


def test_mistakes_are_one_line_before_anything_is_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(*words: str) -> str:
        assert main(["pretrain", *words, f"runs={tmp_path}"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    assert "the key 'task' is missing" in fault(f"data={data}")
    assert "did you mean 'curvature'?" in fault("task=curvatur", f"data={data}")
    assert "no such folder nowhere" in fault("task=depth", "data=nowhere")
    assert "has no folder normal" in fault("task=normals", f"data={data}")
    assert "did you mean 'epochs'?" in fault("task=depth", f"data={data}", "epoch=3")
    assert "size must be a multiple of 8" in fault("task=depth", f"data={data}", "size=65")
    assert not list(tmp_path.iterdir())


def test_the_command_reads_a_file_and_says_what_it_wrote(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "base.yaml"
    path.write_text(f"task: depth\ndata: {data}\nruns: {tmp_path}\nsize: {SIZE}\nwidth: 8\nthreads: 1\n")
    run = tmp_path / "pretrain-depth_1"
    assert main(["pretrain", str(path), "epochs=1", "--json", str(tmp_path / "result.json")]) == 0
    said = capsys.readouterr().out
    assert f"{run / 'depth.safetensors'}: held-out loss" in said
    assert said.endswith(f"wrote {run}\n")
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "file": str(run / "depth.safetensors"),
        **json.loads((run / "depth.json").read_text()),
    }
    recorded = load_config(PretrainConfig, run / "config.yaml")
    assert (recorded.epochs, recorded.base_name) == (1, "depth")
    assert main(["check", str(run / "config.yaml"), f"data={tmp_path / 'none'}"]) == 0
    assert f"# missing: no such folder {tmp_path / 'none'}" in capsys.readouterr().out


def test_a_loss_that_explodes_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SideAgentsError, match=r"pretraining depth: the loss became (nan|inf).*lower learning_rate"):
        pretrain(config(data, tmp_path, learning_rate=1e3, warmup=0.0, max_grad_norm=1e9, optimizer="sgd"))


@pytest.mark.parametrize("what", ["the loss", "a weight"])
def test_pretraining_that_diverges_is_one_line_and_keeps_the_epoch_before(
    what: str, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        f"{key}={value}" for key, value in config(data, tmp_path / "runs").model_dump(exclude_defaults=True).items()
    ]
    original, spoiled_at = Stepper.step, {"the loss": (4, "before"), "a weight": (7, "after")}[what]  # of 4 in an epoch

    def spoil(self: Any, done: int, when: str) -> None:
        if (done, when) == spoiled_at:
            self.trained.decoder.body[-2].bias.data.fill_(float("nan"))

    def steps(self: Any, *losses: Any) -> float:
        done = self.done
        spoil(self, done, "before")
        loss = original(self, *losses)
        spoil(self, done, "after")
        return loss

    monkeypatch.setattr(Stepper, "step", steps)
    assert main(["pretrain", *words]) == 2
    errors = capfd.readouterr().err  # progress is told there too
    line = errors.splitlines()[-1]
    assert errors.count("error: ") == 1
    kept = tmp_path / "runs" / "pretrain-depth_1" / "checkpoints" / "step_000000001"
    said = "the loss became nan (step 5); lower learning_rate" if what == "the loss" else "there is nan or infinity in"
    assert line.startswith("error: ")
    assert said in line
    assert line.endswith(f"; the last good checkpoint is {kept}")
    assert list(kept.parent.iterdir()) == [kept]
    assert not list(kept.parents[1].glob("*.safetensors"))
    assert all(torch.isfinite(tensor).all() for tensor in load_checkpoint(kept).tensors.values())
    monkeypatch.undo()
    assert main(["pretrain", *words, "--resume"]) == 0


def test_classes_of_pixels_are_learned_by_cross_entropy(tmp_path: Path) -> None:
    images = put_images(tmp_path / "images", 4, views=12, size=SIZE)
    changes: dict[str, Any] = {"task": "segmentation", "epochs": 60, "batch_size": 8}
    path = pretrain(config(images, tmp_path, **changes))
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["loss"] == "mean cross-entropy over pixels"
    assert card["held_out_loss"] < 0.9 * card["mean_image_loss"] < 0.9 * card["mean_value_loss"] < 0.9 * math.log(18)
    assert path.with_suffix(".png").is_file()
    with pytest.raises(ValueError, match="unknown task 'room'"):
        config(images, tmp_path, task="room")
