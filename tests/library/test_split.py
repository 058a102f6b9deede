"""Networks lose their classifier and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sideagents.adaptation.split import as_base, classifiers_of
from sideagents.bases import load_base
from sideagents.bases.timm_base import import_timm
from sideagents.errors import BaseError


class Net(nn.Module):
    """A body and a classifier of the given name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
        self.last = name
        several = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 10))
        setattr(self, name, several if name == "classifier" else nn.Linear(6, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return getattr(self, self.last)(self.body(images))


@pytest.mark.parametrize(
    ("name", "found", "width"),
    [
        ("fc", "fc", 6),
        ("head", "head", 6),
        ("classifier", "classifier.2", 6),
        ("output", "output", 6),
        ("projection", "", 10),
    ],
)
def test_the_classifier_is_found_by_its_usual_names(name, found, width):
    net = Net(name)
    assert classifiers_of(net) == ((found,) if found else ())
    images = torch.randn(2, 3, 8, 8)
    whole = net(images)
    base = as_base(net, (8, 8))
    assert base.out_shape == (width,)
    assert torch.allclose(net(images), whole, atol=1e-6)  # the network itself stays whole
    assert base.encoder.body[0].weight is net.body[0].weight  # and its weights are held once
    if found in ("fc", "head"):
        assert torch.allclose(net.get_submodule(found)(base(images)), whole, atol=1e-6)


def test_a_classifier_deep_inside_is_found():
    outer = nn.Sequential()
    outer.add_module("backbone", Net("fc"))
    assert classifiers_of(outer) == ("backbone.fc",)
    assert as_base(outer, (8, 8)).out_shape == (6,)


def test_a_layer_that_only_its_name_makes_the_last_is_asked_about():
    net = Net("fc")
    net.add_module("out", nn.Linear(10, 3))
    with pytest.raises(BaseError, match="Net has a layer 'fc', and 'out' after it: say which one tasks replace"):
        as_base(net, (8, 8))
    assert as_base(net, (8, 8), "").out_shape == (10,)
    assert as_base(net, (8, 8), "fc").out_shape == (6,)


def test_it_can_be_named_or_named_wrongly():
    assert as_base(Net("projection"), (8, 8), "projection").out_shape == (6,)
    with pytest.raises(BaseError, match=r"Net has no layer 'projektion' to replace, did you mean 'projection'\?"):
        as_base(Net("projection"), (8, 8), "projektion")
    base = load_base("random")
    assert as_base(base) is base
    assert as_base("random", (32, 32)).input_size == (32, 32)
    with pytest.raises(BaseError, match="its own size and no classifier"):
        as_base(base, (8, 8))


def test_what_the_network_reads_is_neither_scaled_nor_checked():
    base = as_base(Net("fc"), (8, 8))
    images = 100.0 * torch.randn(1, 3, 12, 12)
    assert torch.equal(base(images), base.encoder(images.contiguous(memory_format=torch.channels_last)))


def test_an_image_too_small_for_the_network_is_one_clear_error():
    with pytest.raises(BaseError, match="cannot encode 3-channel 2x2 images"):
        as_base(Net("fc"), (2, 2))


@pytest.mark.parametrize(("model", "width"), [("resnet18", 512), ("vit_tiny_patch16_224", 192), ("convnext_atto", 320)])
def test_timm_s_networks(model, width):
    try:
        timm = import_timm()
    except BaseError:
        pytest.skip("timm is not installed (the `vision` extra)")
    base = as_base(timm.create_model(model))
    assert base.out_shape == (width,)
    assert base.input_size == (224, 224)


def test_a_convolution_is_a_classifier_too():
    net = nn.Sequential()
    net.add_module("features", nn.Conv2d(3, 6, 3))
    net.add_module("classifier", nn.Conv2d(6, 4, 1))
    assert classifiers_of(net) == ("classifier",)
    assert as_base(net, (8, 8)).out_shape == (6, 6, 6)


def test_what_timm_calls_the_classifiers_is_taken():
    timm = pytest.importorskip("timm", reason="timm is not installed (the `vision` extra)")
    distilled = timm.create_model("deit_tiny_distilled_patch16_224")
    assert classifiers_of(distilled) == ("head", "head_dist")
    assert as_base(distilled).out_shape == (192,)
    assert as_base(timm.create_model("resnetv2_50", num_classes=7)).out_shape[0] == 2048


def test_what_is_no_network_is_refused():
    with pytest.raises(BaseError, match="adapt takes a network, a base, or a name for load_base, got int"):
        as_base(3)
    with pytest.raises(BaseError, match=r"input_size is \(height, width\) of the images, got 16"):
        as_base(Net("fc"), 16)
