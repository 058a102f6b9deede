"""timm models as bases, and torchvision's import repaired where its compiled half does not load."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from sideagents import BaseError, load_base
from sideagents.bases import timm_base

needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed (extra: vision)")

REPAIR = """
import sys, torch
{before}
from sideagents.bases.timm_base import import_timm
assert "timm" not in sys.modules and "torchvision" not in sys.modules
timm = import_timm()
import torchvision
print(timm.is_model("resnet18"), torchvision.transforms.Resize.__name__, hasattr(torch.ops.torchvision, "nms"))
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@needs_timm
@pytest.mark.parametrize("loads", ["as installed", "never"])
def test_timm_imports_whatever_state_torchvision_is_in(loads):
    refuse = "torch.ops.load_library = lambda path: (_ for _ in ()).throw(OSError(path))"
    assert run(REPAIR.format(before=refuse if loads == "never" else "")) == "True Resize True"


def test_without_timm_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(BaseError, match=r"pip install 'sideagents\[vision\]'"):
        load_base("timm:resnet18")


def test_other_errors_of_torchvision_are_not_swallowed(monkeypatch):
    def fail(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(timm_base.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="something else"):
        timm_base.import_torchvision()


def images(size=64):
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@needs_timm
def test_resnet18_with_timms_own_normalisation_and_size():
    base = load_base("timm:resnet18")
    assert (base.name, base.input_size, base.out_shape) == ("timm:resnet18", (224, 224), (512, 7, 7))
    assert base.mean == pytest.approx((0.485, 0.456, 0.406))
    assert base.std == pytest.approx((0.229, 0.224, 0.225))
    assert not base.encoder.training


@needs_timm
@pytest.mark.parametrize(
    ("stage", "shape"), [(0, (64, 32, 32)), (2, (128, 8, 8)), (-2, (256, 4, 4)), (-1, (512, 2, 2))]
)
def test_a_stage_is_chosen(stage, shape):
    assert load_base("timm:resnet18", stage=stage, input_size=(64, 64)).out_shape == shape


@needs_timm
def test_weights_of_the_whole_model_give_the_features_of_the_whole_model(tmp_path):
    timm = timm_base.import_timm()
    torch.manual_seed(3)
    whole = timm.create_model("resnet18", pretrained=False).eval()
    torch.save(whole.state_dict(), tmp_path / "resnet18.pth")
    base = load_base("timm:resnet18", tmp_path / "resnet18.pth", input_size=(64, 64))
    x = (images().float() / 255 - torch.tensor(base.mean).view(3, 1, 1)) / torch.tensor(base.std).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(base(images()), whole.forward_features(x), atol=1e-4, rtol=1e-4)


@needs_timm
@pytest.mark.parametrize(("model", "shape"), [("convnext_atto", (320, 2, 2)), ("vit_tiny_patch16_224", (192, 14, 14))])
def test_renamed_feature_halves_are_filled_from_the_whole_model(tmp_path, model, shape):
    timm = timm_base.import_timm()
    torch.manual_seed(4)
    torch.save(timm.create_model(model, pretrained=False).state_dict(), tmp_path / "whole.pth")
    size = {} if "224" in model else {"input_size": (64, 64)}
    first = load_base(f"timm:{model}", tmp_path / "whole.pth", seed=1, **size)
    second = load_base(f"timm:{model}", tmp_path / "whole.pth", seed=2, **size)
    assert first.out_shape == shape
    assert first.fingerprint == second.fingerprint  # nothing random is left
    assert first.fingerprint != load_base(f"timm:{model}", seed=1, **size).fingerprint


@needs_timm
def test_channels_last_models_are_turned_round():
    assert load_base("timm:swin_tiny_patch4_window7_224", stage=0).out_shape == (96, 56, 56)


@needs_timm
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:resnet81", {}, "unknown timm model 'resnet81', did you mean 'resnet18'"),
        ("timm:", {}, "unknown timm model ''"),
        ("timm:resnet18", {"stage": 5}, "has stages 0 to 4, or -1 for the last, got stage=5"),
        ("timm:resnet18", {"stages": 5}, "has no option 'stages', did you mean 'stage'"),
        ("timm:resnet18", {"weights": "absent.pth"}, "absent.pth: no such file"),
        ("timm:vit_tiny_patch16_224", {"input_size": (64, 64)}, "cannot encode 3-channel 64x64 images"),
    ],
)
def test_wrong_requests_are_one_clear_line(name, options, message):
    with pytest.raises(BaseError, match=message) as caught:
        load_base(name, **options)
    assert "\n" not in str(caught.value)


@needs_timm
def test_weights_of_another_model_are_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "other.pth")
    with pytest.raises(BaseError, match=r"other.pth does not fit StageFeatures|does not fit"):
        load_base("timm:resnet18", tmp_path / "other.pth")
