"""The object that `adapt` makes: tasks by name, what goes wrong with them, and their files."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import sideagents
from adapted_networks import OPTIONS, adapted, network
from sideagents.adaptation import ADAPTATIONS, Adaptation, adapt
from sideagents.adaptation.plain import plain_network
from sideagents.bases import load_base
from sideagents.core.base import FrozenBase
from sideagents.core.trainable import shared_view
from sideagents.errors import CheckpointError, SideAgentsError

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_task_is_given_or_set_or_the_only_one():
    made = adapted("features").eval()
    assert made.tasks == ("cats", "dogs")
    with pytest.raises(SideAgentsError, match=r"which task\? give task=NAME or call set_task \(tasks: cats, dogs\)"):
        made(IMAGES)
    made.set_task("dogs")
    assert torch.equal(made(IMAGES), made(IMAGES, "dogs"))
    made.remove_task("dogs")
    assert torch.equal(made(IMAGES), made(IMAGES, "cats"))
    with pytest.raises(SideAgentsError, match=r"there is no task 'cat', did you mean 'cats'\? \(tasks: cats\)"):
        made(IMAGES, "cat")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cats", {"classes": 3}, "there is a task 'cats' already"),
        ("a.b", {}, "a task's name is letters, digits, - and _, got 'a.b'"),
        ("new", {"classes": 0}, "task 'new': give classes"),
        ("new", {"classes": "3"}, "task 'new': give classes .at least 1. or a readout, got classes='3'"),
        ("new", {"classes": 3.0}, "got classes=3.0"),
        (3, {}, "a task's name is letters, digits, - and _, got 3"),
        ("new", {"classes": 2, "readout": nn.Identity()}, "task 'new': give classes"),
        ("new", {"taw": 0.2}, r"method 'taps' has no option 'taw', did you mean 'tau'\? \(allowed: tau, start"),
        ("new", {"layers": "laier"}, "layers='laier' matches none of 25 layers"),
        ("new", {"layers": "("}, "is no regular expression"),
        ("new", {"start": 0.05}, "0 < tau <= start must hold"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_be_added_is_one_line(name, options, message):
    made = adapted("taps")
    with pytest.raises(SideAgentsError, match=message):
        made.add_task(name, **options)
    assert made.tasks == ("cats", "dogs")


def test_unknown_methods_and_options():
    with pytest.raises(SideAgentsError, match="unknown method 'tabs', did you mean 'taps'"):
        adapt(network(), "tabs", input_size=(16, 16))
    with pytest.raises(SideAgentsError, match=r"unknown method 3 \(known: "):
        adapt(network(), 3, input_size=(16, 16))
    with pytest.raises(SideAgentsError, match="method 'features' has no option 'side'"):
        adapt(network(), "features", input_size=(16, 16), side="conv")


def test_readouts_of_ones_own_and_none():
    made = adapt(network(), "features", input_size=(16, 16))
    made.add_task("code")
    made.add_task("own", readout=nn.Sequential(nn.Linear(32, 8), nn.ReLU()))
    made.eval()
    assert made(IMAGES, "code").shape == (2, 32)
    assert made(IMAGES, "own").shape == (2, 8)


@pytest.mark.parametrize("method", ["sidetune", "features", "finetune", "scratch", "taps", "residual_adapters"])
def test_blended_codes_are_normed_before_a_linear_readout(method, tmp_path):
    made = adapt("cifar:resnet20", method, **({"side": "fcn4"} if method == "sidetune" else {}))
    made.add_task("usual", classes=3)
    made.add_task("none", classes=3, norm_groups=0)
    made.add_task("four", classes=3, norm_groups=4)
    made.add_task("own", readout=nn.Linear(64, 3))
    made.add_task("code")
    groups = {name: [m.num_groups for m in made.task(name).readout.modules() if isinstance(m, nn.GroupNorm)]
              for name in made.tasks}  # fmt: skip
    usual = [8] if method in ("sidetune", "features") else []  # as the paper: 8 groups of 8
    assert groups == {"usual": usual, "none": [], "four": [4], "own": [], "code": []}
    images = torch.rand(4, 3, 32, 32)
    for name in ("usual", "none", "four"):
        made.save_task(name, tmp_path / name)
        again = adapt("cifar:resnet20", method)
        again.load_task(tmp_path / name)
        assert torch.equal(again.eval()(images), made.eval()(images, name))
    with pytest.raises(SideAgentsError, match="norm_groups=5 does not divide the 64 numbers of a code"):
        made.add_task("odd", classes=3, norm_groups=5)


def test_a_file_from_before_norms_is_read_without_one(tmp_path):
    made = adapt("cifar:resnet20", "features")
    made.add_task("a", classes=3, norm_groups=0)
    made.save_task("a", tmp_path)
    about = json.loads((tmp_path / "task.json").read_text())
    assert about.pop("norm_groups") == 0
    (tmp_path / "task.json").write_text(json.dumps(about))
    again = adapt("cifar:resnet20", "features")
    again.load_task(tmp_path)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again.eval()(images), made.eval()(images))


@pytest.mark.parametrize("method", ["sidetune", "features", "finetune", "taps", "residual_adapters"])
def test_a_task_reads_images_in_its_own_way(method, tmp_path):
    base = load_base("resnet26", factor=0.125, input_size=(16, 16))
    made = adapt(base, method, **OPTIONS.get(method, {}))
    made.add_task("plain", classes=2)
    made.add_task("own", classes=2, images={"mean": (0.1, 0.2, 0.3), "std": [0.2] * 3, "input_size": (24, 24)})
    made.task("own").load_state_dict(made.task("plain").state_dict())
    made.eval()
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = base.encoder((images - mean) / 0.2)
        code = made.task("own").net(images)
        if method != "sidetune":  # the others start as the base
            assert torch.allclose(code, expected, atol=1e-5)
        assert not torch.allclose(made.task("plain").net(images), code)
        made.save_task("own", tmp_path)
        other = adapt(load_base("resnet26", factor=0.125, input_size=(16, 16)), method)
        other.load_task(tmp_path)
        assert torch.equal(other.eval()(images), made(images, "own"))
        assert torch.equal(copy.deepcopy(made)(images, "own"), made(images, "own"))
        assert torch.allclose(made.export("own")(images), made(images, "own"), atol=1e-5)
    assert made.costs("own", 1)["active"] == made.costs("plain", 1)["active"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"means": (0.5,) * 3}, r"images has no key 'means', did you mean 'mean'\? \(known: mean, std, input_size\)"),
        ({"mean": 0.5}, "images: mean is a list of numbers, got 0.5"),
        ({"input_size": (32,)}, r"images: input_size is \(height, width\), got \(32,\)"),
        ({"input_size": (32.0, 32.0)}, "images: input_size is a list of numbers"),
        ({"std": (0.0,) * 3}, "std above 0"),
        ({"mean": (0.5,), "std": (0.5,)}, "1-channel"),
    ],
)
def test_images_that_cannot_be_read_are_one_line(images, message):
    made = adapt("resnet26", "features")
    with pytest.raises(SideAgentsError, match=message):
        made.add_task("a", images=images)
    with pytest.raises(SideAgentsError, match="takes its inputs as they are given: normalise and resize them first"):
        adapted("features").add_task("a", images={"std": (0.5,) * 3})


def test_files_that_do_not_belong_are_refused_and_nothing_is_added(tmp_path):
    made = adapted("taps")
    made.save_task("dogs", tmp_path / "dogs")
    about = json.loads((tmp_path / "dogs" / "task.json").read_text())
    assert about["method"] == "taps"
    assert about["fingerprint"] == made.base.fingerprint
    with pytest.raises(CheckpointError, match="is a task of method 'taps', this is 'features'"):
        adapt(network(), "features", input_size=(16, 16)).load_task(tmp_path / "dogs")
    (tmp_path / "dogs" / "task.json").write_text(json.dumps(about | {"classes": 5}))
    other = adapt(network(), "taps", input_size=(16, 16))
    with pytest.raises(CheckpointError, match=r"readout: 'weight' has shape \(4, 32\), the network needs \(5, 32\)"):
        other.load_task(tmp_path / "dogs")
    assert other.tasks == ()
    with pytest.raises(SideAgentsError, match="there is a task 'dogs' already"):
        made.load_task(tmp_path / "dogs")
    (tmp_path / "dogs" / "task.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is no task of format 1"):
        made.load_task(tmp_path / "dogs", "new")


def test_a_side_given_as_an_object_cannot_be_named_in_a_file(tmp_path):
    made = adapt(network(), "sidetune", input_size=(16, 16))
    made.add_task("a", classes=2, side=nn.Sequential(nn.Flatten(), nn.Linear(768, 32)))
    with pytest.raises(SideAgentsError, match="task 'a' was built from side given as objects"):
        made.save_task("a", tmp_path)
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(made.export("a")(images), made.eval()(images, "a"))


def test_a_file_that_names_code_is_loaded_only_when_it_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "strange_side.py").write_text(
        "from pathlib import Path\nfrom torch import nn\nPath('imported').touch()\n\n\n"
        "class Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(768, 32))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    made = adapt(network(), "sidetune", input_size=(16, 16))
    made.add_task("a", classes=2, side="conv")
    made.save_task("a", tmp_path / "a")
    about = json.loads((tmp_path / "a" / "task.json").read_text())
    about["options"]["side"] = "strange_side:Net"
    (tmp_path / "a" / "task.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="names code to import, side='strange_side:Net': if you trust it"):
        made.load_task(tmp_path / "a", "b")
    assert not (tmp_path / "imported").exists()
    with pytest.raises(CheckpointError, match=r"task\.safetensors"):  # another network's tensors
        made.load_task(tmp_path / "a", "b", trusted=True)
    assert made.tasks == ("a",)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": "3"},
        {"norm_groups": "8"},
        {"options": [1]},
        {"options": {"tau": "a"}},
        {"images": [1]},
        {"options": {"taw": 0.1}},
    ],
)
def test_damaged_files_are_one_line_and_add_nothing(tmp_path, change):
    made = adapted("taps")
    made.save_task("dogs", tmp_path)
    about = json.loads((tmp_path / "task.json").read_text())
    (tmp_path / "task.json").write_text(json.dumps(about | change))
    with pytest.raises(SideAgentsError):
        made.load_task(tmp_path, "again")
    assert made.tasks == ("cats", "dogs")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("taps", {"tau": "abc"}),
        ("taps", {"lam": -1.0}),
        ("taps", {"layers": 3}),
        ("residual_adapters", {"dropout": 3}),
        ("sidetune", {"side": 3}),
        ("sidetune", {"merge": 3}),
        ("sidetune", {"alpha": [1]}),
        ("sidetune", {"side_options": 3}),
    ],
)
def test_values_of_another_type_are_refused_with_the_option_s_name(method, options):
    with pytest.raises(SideAgentsError, match=next(iter(options))):
        adapt(network(), method, input_size=(16, 16), **options).add_task("a")


def test_a_task_that_is_loaded_computes_as_the_others_do(tmp_path):
    made = adapted("finetune").eval()
    with torch.no_grad():
        expected = made(IMAGES, "dogs")
        made.save_task("dogs", tmp_path)
        made.load_task(tmp_path, "again")
        assert torch.equal(made(IMAGES, "again"), expected)


class Biases(Adaptation):
    """Trains the biases of a view of the base and nothing else."""

    def build(self, base: FrozenBase) -> nn.Module:
        """Give each layer with a bias one of its own."""
        view = shared_view(base)
        for part in view.encoder.modules():
            if isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
                part.bias = nn.Parameter(part.bias.detach().clone())
        return view


def test_a_method_is_a_class_and_a_registration(monkeypatch):
    monkeypatch.setattr(ADAPTATIONS, "_targets", dict(ADAPTATIONS._targets))
    ADAPTATIONS.register("biases", Biases)
    base = FrozenBase(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "grid", (8, 8))
    made = adapt(base, "biases")
    made.add_task("a", classes=2)
    assert made.costs("a")["trainable"] == 4
    with pytest.raises(SideAgentsError, match="method 'biases' is registered already"):
        ADAPTATIONS.register("biases", Biases)


def test_the_function_is_the_packages_own():
    adapted = sideagents.adapt("cifar:resnet20", "taps", lam=0.5)
    assert isinstance(adapted, sideagents.Adapted)
    assert sideagents.adapt is adapt
    with pytest.raises(TypeError):
        sideagents.adapt()


def test_a_norm_that_learns_behind_frozen_layers() -> None:
    base = FrozenBase(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8)), "grid", (8, 8))
    view = shared_view(base)
    norm = view.encoder[1]
    norm.bias = nn.Parameter(norm.bias.detach().clone())
    images = torch.rand(2, 3, 8, 8)
    view(images).sum().backward()  # torch alone crashes here
    assert torch.equal(norm.bias.grad, torch.full((8,), 2.0 * 6 * 6))
    with torch.no_grad():
        assert torch.equal(view(images), base(images))
    plain = plain_network(view.encoder, base)
    assert not any(part._forward_pre_hooks for part in plain.modules())
