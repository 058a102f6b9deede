"""Every kind of bad input to `adapt`, `relevance`, `lifelong`, and tasks in Python: one clear line with its remedy.

On the command line the exit code is 2, and nothing is written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from adapted_networks import adapted, network
from cifar_files import put_pickle
from decathlon_files import put_domain
from folder_contents import contents
from rendered_images import put_images
from sideagents.adaptation import Adapted, adapt
from sideagents.data.images import LabelledImages
from sideagents.errors import SideAgentsError
from sideagents_policies.cli.main import main

Words = Callable[[Path], list[str]]
SMALL = ["base=cifar:resnet20", "base_weights=null", "epochs=1", "batch_size=8", "threads=1", "cache=codes"]
SEQUENCE = ["base=cifar:resnet20", "base_weights=null", "side_init=default", "side_options={}", "tasks=2", "steps=2"]


def adapting(*words: str) -> Words:
    return lambda here: ["adapt", "vision/adapters_cifar", "data=cifar", "first_class=0", "classes=0", *SMALL, *words]


def sequence(*words: str) -> Words:
    return lambda here: ["lifelong", "lifelong/icifar", "data=cifar", *SEQUENCE, *words]


def ranking(*words: str) -> Words:
    return lambda here: ["relevance", "vision/relevance_cifar", "data=cifar", "classes=0", "per_class=0", *words]


def pictures(change: Callable[[Path], object], *words: str) -> Words:
    """Adapt to a folder of pictures of which something was changed."""

    def made(here: Path) -> list[str]:
        for split in ("train", "test"):
            for name in ("cat", "dog"):
                folder = here / "pictures" / split / name
                folder.mkdir(parents=True)
                Image.new("RGB", (32, 32), (200 if name == "cat" else 50,) * 3).save(folder / "1.png")
        change(here / "pictures")
        return adapting("data=pictures", "reader=folder", *words)(here)

    return made


def pickled(**table: Any) -> Words:
    """Adapt to CIFAR's files with another table of training images."""

    def made(here: Path) -> list[str]:
        put_pickle(here / "cifar" / "train", table)
        return adapting()(here)

    return made


def decathlon(change: Callable[[Path], object], *words: str) -> Words:
    def made(here: Path) -> list[str]:
        for split in ("train", "val"):
            put_domain(here / "decathlon", "dtd", split)
        change(here / "decathlon")
        return ["adapt", "vision/decathlon", "domain=dtd", *SMALL, *words]

    return made


def rendered(verb: str, *words: str) -> Words:
    def made(here: Path) -> list[str]:
        put_images(here / "images", 2)
        name = {"adapt": "vision/transfer", "lifelong": "lifelong/simtaskonomy"}[verb]
        return [verb, name, "data=images", "held_out_data=null", "images=0", "held_out_images=0", *words]

    return made


def with_weights(content: bytes | dict[str, torch.Tensor], *words: str, name: str = "w.safetensors") -> Words:
    def made(here: Path) -> list[str]:
        if isinstance(content, bytes):
            (here / name).write_bytes(content)
        else:
            save_file(content, here / name)
        return adapting(*words)(here)

    return made


def resumed(*words: str) -> Words:
    def made(here: Path) -> list[str]:
        assert main(adapting("method=features")(here)) == 0
        return [*adapting("method=features", *words)(here), "--resume"]

    return made


EMPTY = {"x": torch.zeros(1)}
STUDENT = "options={side: fcn4, side_init: w.safetensors}"
WIDE = {"fine_labels": [0, 9], "coarse_labels": [0, 0], "data": torch.zeros(2, 3072, dtype=torch.uint8).numpy()}
SHORT = {"fine_labels": [0, 1], "coarse_labels": [0, 0], "data": torch.zeros(2, 3000, dtype=torch.uint8).numpy()}

COMMANDS: dict[str, tuple[Words, str]] = {
    # what is read
    "no data": (adapting("data=nowhere"), "data: no such folder nowhere"),
    "no data of a sequence": (
        sequence("data=nowhere"),
        "data: no such folder nowhere (nor below SIDEAGENTS_DATA, which is not set); CIFAR-100: https://",
    ),
    "no data of a ranking": (ranking("data=nowhere"), "data: no such folder nowhere"),
    "not the reader's data": (adapting("data=."), "holds no CIFAR (needed: "),
    "not mosaics": (adapting("reader=mosaics"), "holds no mosaics (one of these must be there"),
    "no class folders": (adapting("reader=folder"), "cifar/train: is a file; images belong in cifar/train/CLASS/"),
    "label out of range": (pickled(**WIDE), "cifar/train: labels 0..9 do not fit 4 classes"),
    "images of another size": (pickled(**SHORT), "cifar/train: data must be an array of bytes (2, 3072), got (2, 30"),
    "no labels": (pickled(data=WIDE["data"]), "cifar/train: has no list of"),
    "broken picture": (
        pictures(lambda root: (root / "train/cat/1.png").write_bytes(b"\x89PNG no")),
        "1.png: cannot be read as an image",
    ),
    "class without a picture": (pictures(lambda root: (root / "train/cat/1.png").unlink()), "cat: the class has no"),
    "other classes in the test set": (
        pictures(lambda root: shutil.rmtree(root / "test/cat")), "training and test images are not of the same classes"
    ),
    "no annotations": (decathlon(lambda root: shutil.rmtree(root / "annotations")), "dtd_train.json: no such file"),
    "a Decathlon picture is gone": (
        decathlon(lambda root: (root / "data/dtd/val/000001.png").unlink()), "000001.png: no such file"
    ),
    "no Decathlon": (decathlon(shutil.rmtree), "data: no such folder decathlon"),
    "no such target among the images": (rendered("adapt", "domain=keypoints3d"), "images"),
    # which part of it
    "unknown domain": (decathlon(lambda root: None, "domain=dtdd"), "unknown domain 'dtdd', did you mean 'dtd'"),
    "unknown target": (rendered("adapt", "domain=dept"), "domain: unknown task 'dept', did you mean 'depth'"),
    "a domain of what has none": (adapting("domain=dtd"), "domain is needed by the readers decathlon and taskonomy"),
    "more classes than there are": (adapting("classes=9"), "classes 0..8 are not there: the data has 0..3"),
    "more images than there are": (adapting("per_class=99"), "class 'colour 0' has 24 images, too few to take 99"),
    "all images held out": (adapting("held_out=24"), "too few to take 24 and leave 1"),
    "maps of another size": (rendered("adapt", "size=32"), "give maps of 64x64, not 32x32"),
    "maps that are cropped": (rendered("adapt", "augment=flip_crop"), "maps are not cropped with their images; give"),
    "a key of another reader": (adapting("images=3"), "images is for readers of Taskonomy's images"),
    "classes that cannot be cut": (sequence("tasks=3"), "tasks=3: 4 classes cannot be cut into so many equal tasks"),
    "a task twice in the order": (sequence("order=[0, 0]"), "order must name tasks from 0 to 1, each at most once"),
    "a task that is not there": (sequence("order=[0, 2]"), "order must name tasks from 0 to 1"),
    "a target twice": (rendered("lifelong", "targets=[depth, depth]"), "targets must name each task once"),
    "an unknown target in a sequence": (
        rendered("lifelong", "targets=[dept]"), "targets: unknown task 'dept', did you mean 'depth'"
    ),
    # method and parts
    "unknown method": (adapting("method=tabs"), "unknown method 'tabs', did you mean 'taps'"),
    "unknown method of a sequence": (sequence("method=ewcc"), "unknown method 'ewcc', did you mean 'ewc'"),
    "unknown option": (adapting("options.dropuot=0.1"), "has no option 'dropuot', did you mean 'dropout'? (allowed: "),
    "option of another type": (adapting("options.dropout=much"), "option dropout must be a valid number, got 'much'"),
    "option out of range": (adapting("options.dropout=1.5"), "dropout is at least 0 and below 1, got 1.5"),
    "option out of its choices": (adapting("options.placement=first"), "option placement must be 'all', 'early'"),
    "a layer that is not there": (adapting("options.layers=layr1"), "layers='layr1' matches none of them"),
    "a layer that TAPS cannot find": (
        adapting("method=taps", "options.layers=layr1"), "taps: layers='layr1' matches none of 19 layers"
    ),
    "no expression": (adapting("options.layers='('"), "layers='(' is no regular expression"),
    "unknown side": (adapting("method=sidetune", "options.side=conf"), "unknown side 'conf', did you mean 'conv'"),
    "unknown merge": (sequence("merge=alfa"), "unknown merge 'alfa', did you mean 'alpha'"),
    "alpha out of range": (sequence("alpha=2.0"), "alpha lies in [0, 1], got 2.0"),
    "a side that does not fit": (
        adapting("method=sidetune", "options.side=fcn4", "base=curvature"), "side 'fcn4' must map 3-channel 64x64"
    ),
    "a readout that does not fit": (sequence("norm_groups=7"), "norm_groups=7 does not divide the 64 numbers of"),
    "Fisher information of maps": (rendered("lifelong", "method=ewc", "ewc.fisher=exact"), "give empirical or batched"),
    "views of nothing": (sequence("views=2"), "views are augmented copies of images with classes: give augment"),
    "one base to rank": (ranking("bases=[curvature]"), "bases: give two or more to rank, got ['curvature']"),
    "a ranking by another method": (ranking("method=taps"), "method must be sidetune, options.alpha learned"),
    "keep what was not trained": (adapting("method=features", "save_base=true"), "method 'features' is not"),
    # bases and weights
    "unknown base": (adapting("base=curvatur"), "unknown base 'curvatur', did you mean 'curvature'"),
    "unknown base to rank": (ranking("bases=[curvatur, random]"), "unknown base 'curvatur', did you mean 'curvature'"),
    "no such weights": (adapting("base_weights=no.safetensors"), "base_weights: no such file no.safetensors"),
    "no such base": (adapting("base=no.safetensors"), "base: no such file no.safetensors"),
    "weights of another network": (with_weights(EMPTY, "base_weights=w.safetensors"), "does not fit CifarResNet: "),
    "cut weights": (with_weights(b"\x00" * 20, "base_weights=w.safetensors"), "is no safetensors file (cut or damaged"),
    "a base without its card": (with_weights(EMPTY, "base=w.safetensors"), "has no card w.json beside it"),
    "no such student": (sequence("side_init=no.safetensors"), "side_init: no such file no.safetensors"),
    "a student of another side": (with_weights(EMPTY, "method=sidetune", STUDENT), "do not fit this side: "),
    "no teacher": (sequence("side_init=distilled", "distil.labels=1.0"), "labels above 0 and classifier belong"),
    "a teacher that is not there": (
        sequence("side_init=distilled", "distil.labels=1.0", "distil.classifier=no.safetensors"),
        "distil.classifier: no such file no.safetensors",
    ),
    # the command
    "a sequence by adapters": (lambda here: ["lifelong", "vision/adapters_cifar"], "of kind 'adapt', one of"),
    "adapters by a sequence": (lambda here: ["adapt", "lifelong/icifar"], "of kind 'lifelong', one of `kind: adapt`"),
    "an agent": (lambda here: ["lifelong", "pointnav/demo"], "one of `kind: lifelong` is needed here"),
    "no configuration": (lambda here: ["lifelong"], "lifelong needs a CONFIG"),
    "unknown configuration": (lambda here: ["adapt", "vision/adapters_cifa"], "did you mean 'vision/adapters_cifar'"),
    "unknown key": (adapting("epoch=3"), "unknown key 'epoch', did you mean 'epochs'"),
    "out of range": (adapting("epochs=0"), "epochs must be greater than or equal to 1, got 0"),
    "unknown device": (adapting("device=gpu"), "device must match pattern"),
    "nothing to resume": (lambda here: [*adapting()(here), "--resume"], "no run adapters_cifar_1, adapters_cifar_2"),
    "resume as another run": (resumed("seed=2"), "the configuration must be the same (seed was 1, now 2)"),
}  # fmt: skip


@pytest.fixture
def here(cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(cifar, tmp_path / "cifar", ignore=shutil.ignore_patterns("codes"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDEAGENTS_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_says_it_in_one_line_and_writes_nothing(
    case: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make, message = COMMANDS[case]
    words = make(here)
    before = contents(here)
    code = main(words)
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert len(error) == 1, error
    assert message in error[0]
    assert contents(here) == before


def saved(change: Callable[[dict[str, Any]], object] = lambda about: None) -> Callable[[Adapted, Path], object]:
    """Load a task whose description was changed."""

    def load(made: Adapted, here: Path) -> object:
        made.save_task("dogs", here)
        about = json.loads((here / "task.json").read_text())
        change(about)
        (here / "task.json").write_text(json.dumps(about))
        return made.load_task(here, "again")

    return load


def of_another_base(made: Adapted, here: Path) -> object:
    made.save_task("dogs", here)
    return adapt(network(seed=7), "taps", input_size=(16, 16)).load_task(here)


IMAGES = torch.zeros(2, 3, 16, 16)
PIXELS = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
CALLS: dict[str, tuple[Callable[[Adapted, Path], object], str]] = {
    "label above its classes": (
        lambda made, here: LabelledImages(PIXELS, torch.tensor([0, 3]), ("a", "b")),
        "labels must lie in 0..1 for 2 classes, got 0..3",
    ),
    "label below zero": (lambda made, here: LabelledImages(PIXELS, torch.tensor([0, -1]), ("a", "b")), "got -1..0"),
    "images of floats": (
        lambda made, here: LabelledImages(IMAGES, torch.tensor([0, 1]), ("a", "b")), "images must be uint8 (N, 3, H, W)"
    ),
    "a label too few": (lambda made, here: LabelledImages(PIXELS, torch.tensor([0]), ("a", "b")), "one for each image"),
    "images without channels": (lambda made, here: made(IMAGES[:, 0], "dogs"), "takes float32 images (B, 3, H"),
    "images of bytes": (lambda made, here: made(PIXELS, "dogs"), "takes float32 images (B, 3, H, W), got torch.uint8"),
    "images too small": (
        lambda made, here: sized().forward(torch.zeros(2, 3, 8, 8)), "of 16x16 images cannot read those of 8x8"
    ),
    "a task twice": (lambda made, here: made.add_task("dogs", classes=2), "there is a task 'dogs' already (tasks:"),
    "a task that is not there": (lambda made, here: made(IMAGES, "dog"), "there is no task 'dog', did you mean 'dogs'"),
    "no task": (lambda made, here: made(IMAGES), "which task? give task=NAME or call set_task (tasks: cats, dogs)"),
    "a task for another base": (of_another_base, "was saved for base 'ResNet26' with fingerprint"),
    "a task of another method": (saved(lambda about: about.update(method="features")), "is a task of method 'feat"),
    "a task of another size": (saved(lambda about: about.update(classes=9)), "has shape (4, 32), the network needs"),
    "a damaged description": (
        saved(lambda about: about.update(options=3)), "is damaged: options, images, norm_groups and classes"
    ),
    "no file": (lambda made, here: made.load_task(here / "gone"), "gone/task.json: no such file"),
    "a layer that is not there": (
        lambda made, here: made.add_task("new", layers="layr1"), "taps: layers='layr1' matches none of 25 layers"
    ),
    "a classifier that is not there": (
        lambda made, here: adapt(network(), classifier="fcc"), "has no layer 'fcc' to replace, did you mean 'fc'"
    ),
    "no network": (lambda made, here: adapt(3), "adapt takes a network, a base, or a name for load_base, got int"),
}  # fmt: skip


def sized() -> Adapted:
    made = adapt(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), "features", input_size=(16, 16), classifier="1")
    made.add_task("only", readout=nn.Linear(768, 2))
    return made


@pytest.mark.parametrize("case", CALLS)
def test_a_call_says_it_in_one_line_and_changes_nothing(case: str, tmp_path: Path) -> None:
    call, message = CALLS[case]
    made = adapted("taps").eval()
    with pytest.raises(SideAgentsError) as caught:
        call(made, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert made.tasks == ("cats", "dogs")
