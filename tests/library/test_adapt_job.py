"""`sideagents adapt`: every method learns one data set, a stopped run goes on to the same bytes."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cifar_files import COLOURS, TEST, TRAIN
from decathlon_files import put_domain
from rendered_images import put_images
from run_files import weights
from sideagents.adaptation import ADAPTATIONS, adapt
from sideagents.adaptation.adapt_config import AdaptConfig
from sideagents.bases import load_base
from sideagents.data.decathlon import DOMAINS
from sideagents.errors import CheckpointError, ConfigError, SideAgentsError
from sideagents.jobs import adapt as run_module
from sideagents.jobs.adapt import adapt_run, read_data
from sideagents.run.scalars import read_scalars
from sideagents.train import loop
from sideagents.train.readouts import make_readout
from sideagents.train.supervised import totals
from sideagents_policies.cli.main import main
from sideagents_policies.jobs import read_job
from vision_jobs import adapt_config


@pytest.mark.parametrize(("method", "augment"), [*((m, "none") for m in ADAPTATIONS.names()), ("taps", "flip_crop")])
def test_a_stopped_run_goes_on_to_the_same_bytes_and_leaves_a_task(
    method: str,
    augment: str,
    cifar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if method in ("lora", "ia3") and find_spec("peft") is None:
        pytest.skip("PEFT is not installed (the `nlp` extra)")
    whole, result = adapt_run(adapt_config(cifar, tmp_path / "whole", method=method, penalty_warmup=1, augment=augment))
    assert result["method"] == method
    assert len(result["epochs"]) == 3
    assert result["epochs"][-1] == result["accuracy"] > 0.3
    assert result["images"] == COLOURS * TRAIN
    rows = read_scalars(whole / "progress.csv")
    assert [float(row["eval/accuracy"]) for row in rows] == pytest.approx(result["epochs"])

    config = adapt_config(cifar, tmp_path / "cut", method=method, penalty_warmup=1, augment=augment)
    original = loop.save_checkpoint

    def stop_after_the_first(*arguments: Any, **more: Any) -> None:
        original(*arguments, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", stop_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        adapt_run(config)
    monkeypatch.setattr(loop, "save_checkpoint", original)
    run, again = adapt_run(config, resume=True)
    assert weights(run) == weights(whole)
    assert again == result

    loaded = adapt(load_base("cifar:resnet20"), method)
    loaded.load_task(run / "task")
    _, test = read_data(config)
    loaded.eval()
    with torch.no_grad():
        found = loaded(test.images.float() / 255).argmax(1)
    assert float((found == test.labels).float().mean()) == pytest.approx(result["accuracy"])
    assert adapt_run(config, resume=True)[1] == result  # nothing is left to do


@pytest.mark.parametrize(("words", "groups"), [({}, [8]), ({"norm_groups": 4}, [4]), ({"norm_groups": 0}, [])])
def test_readouts_read_normed_codes(words: dict[str, int], groups: list[int], cifar: Path, tmp_path: Path) -> None:
    run, _ = adapt_run(adapt_config(cifar, tmp_path, epochs=1, **words))
    loaded = adapt(load_base("cifar:resnet20"), "features")
    readout = loaded.load_task(run / "task").readout
    assert [part.num_groups for part in readout.modules() if isinstance(part, nn.GroupNorm)] == groups
    with pytest.raises(ConfigError, match="norm_groups=5 does not divide the 64 numbers of a code"):
        adapt_config(cifar, tmp_path, norm_groups=5)


@pytest.mark.parametrize(("domain", "measure"), [("depth", "loss"), ("room", "accuracy"), ("segmentation", "accuracy")])
def test_a_target_of_rendered_images(domain: str, measure: str, tmp_path: Path) -> None:
    images = put_images(tmp_path / "images", 4)
    config = adapt_config(
        images, tmp_path, reader="taskonomy", domain=domain, size=64, base="curvature", method="sidetune",
        options={"side": "conv"}, images=12,
    )  # fmt: skip
    run, result = adapt_run(config)
    assert (result["measure"], result["images"]) == (measure, 12)
    assert len(result["epochs"]) == 3
    assert result["epochs"][-1] == result[measure]
    assert (result["accuracy"] is None) == (measure == "loss")
    loaded = adapt(load_base("curvature"), "sidetune", side="conv")
    _, test = read_data(config)
    loaded.load_task(run / "task", readout=make_readout(loaded.base.out_shape, test.outputs))
    loaded.eval()
    with torch.no_grad():
        found = test.evaluate(loaded(test.images.float() / 255), torch.arange(len(test)))
    assert found.mean_loss == pytest.approx(result["loss"])


def decathlon(root: Path, domain: str, *words: str) -> AdaptConfig:
    for split in ("train", "val"):
        put_domain(root / "data", domain, split)
    small = ["base=resnet26", "base_options={factor: 0.125, input_size: [64, 64]}", "epochs=1", "threads=1"]
    places = [f"data={root / 'data'}", f"runs={root}", f"domain={domain}", f"name={domain}"]
    config: AdaptConfig = read_job("adapt", "vision/decathlon", [*places, *small, *words])
    return config


def test_domains_of_the_decathlon_share_a_base_and_see_images_in_their_own_way(tmp_path: Path) -> None:
    shared = adapt(load_base("resnet26", factor=0.125, input_size=(64, 64)), "residual_adapters")
    for domain, decay, size in (("aircraft", 2e-3, 64), ("gtsrb", 1e-4, 72)):
        config = decathlon(tmp_path, domain)
        assert (config.weight_decay, config.augment) == (decay, "flip_crop" if size == 64 else "none")
        train, test = read_data(config)
        assert (train.images.shape[-1], test.images.shape[-1]) == (72, size)
        run, result = adapt_run(config)
        shared.load_task(run / "task", domain)
        assert shared.task(domain).base.input_size == (size, size)
        assert shared.task(domain).base.mean == pytest.approx(DOMAINS[domain].mean)
        found = totals(lambda images, _, domain=domain: shared.eval()(images, domain), test, config.precision)
        assert found.accuracy == result["accuracy"]
        with torch.no_grad():
            images = test.images.float() / 255
            assert torch.allclose(shared.export(domain)(images), shared(images, domain), atol=1e-5)
    assert shared.base.input_size == (64, 64)


def test_held_out_images_of_the_decathlon_are_cut_to_their_centre(tmp_path: Path) -> None:
    config = decathlon(tmp_path, "dtd").model_copy(update={"held_out": 1})
    with pytest.raises(SideAgentsError, match="class 'plane 1' has 1 images, too few to take 1 and leave 1"):
        read_data(config)
    table = [{"image_id": 10200000 + i, "category_id": 10000001} for i in (1, 2, 3)]
    put_domain(tmp_path / "data", "dtd", categories=[{"id": 10000001, "name": "a"}], annotations=table)
    train, test = read_data(config)
    assert (train.images.shape, test.images.shape) == ((2, 3, 72, 72), (1, 3, 64, 64))


def test_values_for_a_domain_give_way_to_the_command(tmp_path: Path) -> None:
    assert decathlon(tmp_path, "dtd", "weight_decay=0.5").weight_decay == 0.5
    assert decathlon(tmp_path, "dtd", "by_domain.dtd.weight_decay=0.5").weight_decay == 0.5
    own = decathlon(tmp_path, "dtd", "options.dropout=0.1", "by_domain.dtd.options={dropout: 0.5, kind: series}")
    assert (own.options, own.by_domain) == ({"dropout": 0.1, "kind": "series"}, {})
    for words, message in {
        "by_domain.dtdd.weight_decay=1.0": "reader decathlon has no domain 'dtdd', did you mean 'dtd'",
        "by_domain.dtd.weight_decai=1.0": "'weight_decai' is no key that can differ by domain, did you mean 'weight_de",
        "by_domain.dtd.weight_decay=-1": "by_domain.dtd.weight_decay: Input should be greater than or equal to 0, got",
    }.items():
        with pytest.raises(ConfigError, match=message):
            decathlon(tmp_path, "dtd", words)


@pytest.mark.parametrize(("augment", "parts"), [("none", [TRAIN, TEST]), ("flip", [TEST])])
def test_the_frozen_base_sees_an_image_once(
    augment: str,
    parts: list[int],
    cifar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    original = run_module.cached_codes
    monkeypatch.setattr(
        run_module, "cached_codes", lambda base, x, folder: seen.append(len(x)) or original(base, x, folder)
    )
    for method in ("sidetune", "features", "finetune"):
        seen.clear()
        assert adapt_run(adapt_config(cifar, tmp_path, method=method, augment=augment))[1]["accuracy"] > 0.3
        assert seen == ([] if method == "finetune" else [COLOURS * part for part in parts])


def test_a_network_trained_as_a_whole_becomes_a_base(cifar: Path, tmp_path: Path) -> None:
    run, result = adapt_run(adapt_config(cifar, tmp_path, method="scratch", save_base=True, classes=2))
    assert result["classes"] == 2
    base = load_base(str(run / "base.safetensors"))
    assert base.out_shape == (64,)
    assert base.mean == load_base("cifar:resnet20").mean
    second = adapt_config(cifar, tmp_path, base=str(run / "base.safetensors"), first_class=2, name="second")
    trained = adapt_run(second)[1]
    assert (trained["classes"], trained["base"]) == (2, sum(p.numel() for p in base.parameters()))


def test_which_images_are_taken(cifar: Path, tmp_path: Path) -> None:
    train, test = read_data(adapt_config(cifar, tmp_path, first_class=1, classes=2, per_class=5))
    assert (len(train), len(test)) == (10, 2 * TEST)
    assert train.classes == ("colour 1", "colour 2")
    train, test = read_data(adapt_config(cifar, tmp_path, held_out=4))
    assert (len(train), len(test)) == (COLOURS * (TRAIN - 4), COLOURS * 4)


def test_test_images_of_other_classes_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    for split, names in (("train", "abc"), ("test", "bc")):
        for name in names:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "data" / split / name / "1.png")
    with pytest.raises(SideAgentsError, match="training and test images are not of the same classes: 'a'"):
        adapt_run(adapt_config(tmp_path / "data", tmp_path, reader="folder"))
    assert not (tmp_path / "adapt_1").exists()


def test_the_base_reads_larger_images_when_told(cifar: Path, tmp_path: Path) -> None:
    config = adapt_config(cifar, tmp_path, base="resnet26", base_options={"input_size": [64, 64], "factor": 0.125})
    assert run_module.base_of(config).input_size == (64, 64)
    with pytest.raises(ConfigError, match="has no option 'sise'"):
        adapt_config(cifar, tmp_path, base_options={"sise": 3})


def test_a_run_in_bfloat16_computes_its_base_in_it(cifar: Path, tmp_path: Path) -> None:
    config = adapt_config(cifar, tmp_path, precision="bfloat16", method="sidetune")
    assert run_module.base_of(config).dtype == torch.bfloat16
    assert run_module.base_of(adapt_config(cifar, tmp_path)).dtype is None
    run, result = adapt_run(config)
    assert result["accuracy"] > 0.3
    with pytest.raises(CheckpointError, match="computes in bfloat16, this one computes in float32: load"):
        adapt(load_base("cifar:resnet20"), "sidetune", side="fcn4").load_task(run / "task")
    loaded = adapt(load_base("cifar:resnet20", dtype="bfloat16"), "sidetune", side="fcn4")
    loaded.load_task(run / "task")
    _, test = read_data(config)
    found = totals(lambda images, _: loaded.eval()(images), test, precision="bfloat16")
    assert found.accuracy == result["accuracy"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "tabs"}, "unknown method 'tabs', did you mean 'taps'"),
        ({"options": {"lam": 1.0}}, "method 'features' has no option 'lam'"),
        ({"method": "taps", "options": {"layers": "nothing"}}, "layers='nothing' matches none of"),
        ({"reader": "decathlon"}, "domain is needed by the readers decathlon and taskonomy"),
        ({"images": 5}, "images is for readers of Taskonomy's images and would be ignored here: leave it out"),
        ({"reader": "taskonomy", "domain": "depth", "held_out": 5}, "held_out is for readers of classes"),
        ({"reader": "taskonomy", "domain": "depth", "base": "curvature", "size": 32}, "give maps of 64x64, not 32x32"),
        ({"reader": "taskonomy", "domain": "depth", "augment": "flip_crop"}, "maps are not cropped with their images"),
        ({"reader": "taskonomy", "domain": "dept"}, "domain: unknown task 'dept', did you mean 'depth'"),
        ({"seen_as": "domain"}, "seen_as: domain is for the reader decathlon"),
        ({"reader": "decathlon", "domain": "aircaft"}, "unknown domain 'aircaft', did you mean 'aircraft'"),
        ({"save_base": True}, "method 'features' is not"),
        ({"save_base": True, "method": "finetune", "base": "pixels"}, "is of no architecture"),
        ({"base": "curvatur"}, "unknown base 'curvatur', did you mean 'curvature'"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(cifar: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapt_config(cifar, tmp_path, **changes)


def test_another_configuration_does_not_resume(cifar: Path, tmp_path: Path) -> None:
    adapt_run(adapt_config(cifar, tmp_path))
    with pytest.raises(ConfigError, match="epochs was 3, now 4"):
        adapt_run(adapt_config(cifar, tmp_path, epochs=4), resume=True)
    assert adapt_run(adapt_config(cifar, tmp_path, device="cpu"), resume=True)[0] == tmp_path / "adapt_1"


def test_a_device_that_is_not_here(cifar: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"data={cifar}", "base=cifar:resnet20", "base_weights=null", "device=cuda:99"]
    for verb, more in (("adapt vision/adapters_cifar", ()), ("lifelong lifelong/icifar", ("side_init=default",))):
        assert main([*verb.split(), *words, *more]) == 2
        assert capsys.readouterr().err.startswith("error: device: torch finds no cuda:99 here")


def test_the_command(cifar: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"data={cifar}", "base=cifar:resnet20", "method=features", "epochs=1", "first_class=0", "classes=0"]
    assert main(["check", "vision/adapters_cifar", *words]) == 0
    assert "kind: adapt" in capsys.readouterr().out
    assert main(["adapt", "vision/adapters_cifar", *words, "--json", "result.json"]) == 0
    assert json.loads((tmp_path / "result.json").read_text())["method"] == "features"
    assert "wrote runs/adapters_cifar_1" in capsys.readouterr().out


def test_the_command_on_maps(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    images = put_images(tmp_path / "images", 4)
    words = [f"data={images}", "held_out_data=null", "images=0", "held_out_images=0", "epochs=1", "domain=depth"]
    assert main(["adapt", "vision/transfer", *words, "--json", "result.json"]) == 0
    assert "sidetune: loss 0." in capsys.readouterr().out
    assert json.loads((tmp_path / "result.json").read_text())["accuracy"] is None
