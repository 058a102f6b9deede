"""SideTuned: exact ends, cached codes, optimizer groups, what goes into a checkpoint."""

import math

import pytest
import torch
from torch import nn

from byte_images import images
from sideagents import SideAgentsError, SideTuned, load_base, trainable_copy


class Poison(nn.Module):
    """A side that answers NaN, or fails when it is run at all."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.runs = 0

    def forward(self, images):
        self.runs += 1
        return self.value.expand(len(images), 8, 8, 8)


@pytest.fixture
def base():
    return load_base("random")


def saturate(model, raw):
    model.alpha.raw_alpha.data.fill_(raw)
    return model


def test_half_and_half_by_hand(base):
    model = SideTuned(base, Poison(3.0))
    torch.testing.assert_close(model(images()), 0.5 * base(images()) + 1.5, atol=1e-6, rtol=0)
    assert model.alpha_value() == 0.5
    assert model.out_shape == (8, 8, 8)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_alpha_one_is_the_base_bitwise_and_the_side_is_not_run(base, poison):
    for model in (SideTuned(base, Poison(poison), alpha=1), saturate(SideTuned(base, Poison(poison)), 200.0)):
        runs = model.side.runs
        assert torch.equal(model(images()), base(images()))
        assert model.side.runs == runs
        assert model.alpha_value() == 1.0


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_alpha_zero_is_the_side_bitwise_and_the_base_is_not_run(base, poison):
    runs = []
    base.register_forward_hook(lambda *_: runs.append(1))
    for model in (SideTuned(base, "conv", alpha=0), saturate(SideTuned(base, "conv"), -200.0)):
        bad_code = torch.full((2, 8, 8, 8), poison)
        assert torch.equal(model(images(), bad_code), model.side(images().float() / 255))
        assert torch.equal(model(images()), model.side(images().float() / 255))
    assert not runs


def test_cached_base_codes_are_the_same_as_images_alone(base):
    model = SideTuned(base)
    assert torch.equal(model(images(), base(images())), model(images()))


def test_the_base_runs_once_per_image_and_never_with_a_cached_code(base):
    model, runs, code = SideTuned(base), [], base(images())
    base.register_forward_hook(lambda *_: runs.append(1))
    model(images())
    assert len(runs) == 1
    model(images(), code)
    assert len(runs) == 1


def test_images_of_another_size_reach_base_and_side_at_theirs(base):
    sizes = []
    model = SideTuned(base, "conv", input_size=(32, 32))
    model.side.register_forward_hook(lambda _, inputs, __: sizes.append(tuple(inputs[0].shape)))
    assert model(images(size=84)).shape == (2, 8, 8, 8)
    assert sizes == [(2, 3, 32, 32)]


def test_gradients_reach_side_and_alpha_only(base):
    model = SideTuned(base)
    model(images()).square().sum().backward()
    assert model.alpha.raw_alpha.grad.abs() > 0
    assert all(p.grad is not None for p in model.side.parameters())
    assert all(p.grad is None for p in base.parameters())


def test_alpha_gradient_by_hand(base):
    model = SideTuned(base, Poison(3.0))
    model(images()).sum().backward()
    expected = 0.25 * (base(images()) - 3.0).sum()  # d/d raw of sigmoid(raw) (B - S) at raw 0
    torch.testing.assert_close(model.alpha.raw_alpha.grad, expected)


def test_parameter_groups_keep_alpha_apart(base):
    model = SideTuned(base, merge="alpha")
    weights, alpha = model.parameter_groups(1e-3, alpha_lr=1e-2, weight_decay=0.1)
    assert (weights["name"], weights["lr"], weights["weight_decay"]) == ("weights", 1e-3, 0.1)
    assert (alpha["name"], alpha["lr"], alpha["weight_decay"]) == ("alpha", 1e-2, 0.0)
    assert alpha["params"] == [model.alpha.raw_alpha]
    ids = [id(p) for group in (weights, alpha) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.trainable_parameters())
    assert model.parameter_groups(1e-3)[1]["lr"] == 1e-3
    torch.optim.AdamW(model.parameter_groups(1e-3))


def test_groups_without_alpha_or_without_anything(base):
    assert [g["name"] for g in SideTuned(base, merge="film").parameter_groups(1e-3)] == ["weights"]
    assert SideTuned(base, None).parameter_groups(1e-3) == []


def test_alpha_is_a_parameter_whose_name_says_so(base):
    names = [name for name, _ in SideTuned(base).named_parameters()]
    assert [name for name in names if "alpha" in name] == ["alpha.raw_alpha"]


def test_the_checkpoint_holds_trained_tensors_only(base):
    model = SideTuned(base, merge="film")
    state = model.state_dict()
    assert {name.split(".")[0] for name in state} == {"side", "merge"}
    other = SideTuned(load_base("random"), merge="film")
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(images()), model(images()))


def test_summary_counts(base):
    model = SideTuned(base)
    assert model.summary() == {
        "base": {"trainable": 0, "frozen": 210_896},
        "side": {"trainable": 71_008, "frozen": 0},
        "merge": {"trainable": 0, "frozen": 0},
        "alpha": {"trainable": 1, "frozen": 0},
        "total": {"trainable": 71_009, "frozen": 210_896},
    }
    assert model.table().splitlines()[-1].split() == ["total", "71,009", "210,896"]


def test_a_merge_without_alpha_has_none(base):
    model = SideTuned(base, merge="sum")
    assert model.alpha is None
    assert math.isnan(model.alpha_value())
    model.set_progress(0.5, 3)
    torch.testing.assert_close(model(images()), base(images()) + model.side(images().float() / 255))
    with pytest.raises(SideAgentsError, match="alpha='linear' has no effect on this merge"):
        SideTuned(base, merge="sum", alpha="linear")


def test_curriculum_drives_the_blend(base):
    model = SideTuned(base, Poison(3.0), alpha="linear")
    model.set_progress(0.75)
    torch.testing.assert_close(model(images()), 0.25 * base(images()) + 2.25, atol=1e-6, rtol=0)


def test_codes_stay_float32_under_autocast(base):
    for merge in ("alpha", "mlp", "film"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert SideTuned(base, merge=merge)(images()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert SideTuned(base, alpha=0)(images()).dtype == torch.float32


def test_misuse_is_one_clear_line(base):
    model = SideTuned(base)
    cases = [
        (lambda: model(), "needs images, or the base's codes"),
        (lambda: model(None, base(images())), "the side network needs images"),
        (lambda: model(images(), torch.zeros(2, 8, 4, 4)), r"base_code must be \(B, 8, 8, 8\), got \(2, 8, 4, 4\)"),
        (lambda: model(images()[:, :2], base(images())), "the side network takes images of 3 channels"),
        (lambda: SideTuned(trainable_copy(base))(images(), base(images())), "trains its base"),
        (lambda: SideTuned(base, nn.Flatten()), "side 'Flatten' must map"),
        (lambda: SideTuned(base, "conv", "blend"), "unknown merge 'blend'"),
    ]
    for call, message in cases:
        with pytest.raises(SideAgentsError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
