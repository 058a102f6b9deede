"""Side networks: the paper's sizes, shapes for many grids, initialisations, clear refusals."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sideagents import CheckpointError, SideAgentsError, load_base, make_side, multiply_adds
from sideagents.core.counting import weights_of
from sideagents.core.init import LOW_ENERGY, initialise_side
from sideagents.core.side import FCN4, FCN5

CODE = (8, 8, 8)


class OwnSide(nn.Module):
    """A user's own side, named by its dotted path."""

    def __init__(self, out_shape, width=4):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.last = nn.Conv2d(width, out_shape[0], 3, padding=1)

    def forward(self, images):
        return self.last(torch.relu(nn.functional.adaptive_avg_pool2d(self.first(images), (8, 8))))


class DoublesItself(OwnSide):
    def forward(self, images):
        code = super().forward(images)
        return code / code.std() if code.std() > 0 else code


def images(n=2, size=64):
    return torch.rand((n, 3, size, size), generator=torch.Generator().manual_seed(0))


def test_sizes_of_the_papers_sides():
    assert weights_of(FCN5()) == 921_376
    assert weights_of(FCN4()) == 25_904
    assert FCN5()(images(1, 256)).shape == (1, 8, 16, 16)
    assert FCN4()(images(3, 32)).shape == (3, 64)


def test_conv_is_small_enough_to_be_trained_on_a_cpu():
    side = make_side("conv", CODE)
    assert 4_000_000 <= multiply_adds(side, (3, 64, 64)) <= 8_000_000
    stem = 32 * 3 * 64 * 256 + 64 * 32 * 9 * 64
    assert multiply_adds(side, (3, 64, 64)) == stem + (64 * 64 + 64 * 8 + 64 * 8) * 9 * 64


@pytest.mark.parametrize(
    ("out_shape", "size"),
    [
        ((8, 8, 8), (64, 64)),
        ((8, 8, 8), (84, 84)),
        ((8, 8, 8), (128, 128)),
        ((8, 16, 16), (256, 256)),
        ((8, 16, 16), (64, 64)),
        ((8, 8, 8), (8, 8)),
        ((8, 8, 8), (17, 20)),
        ((8, 6, 8), (48, 64)),
        ((512, 7, 7), (224, 224)),
        ((3, 8, 8), (64, 64)),
        ((64,), (32, 32)),
        ((64,), (4, 4)),
    ],
)
def test_conv_fits_any_grid(out_shape, size):
    side = make_side("conv", out_shape, input_size=size)
    assert side(torch.rand(2, 3, *size)).shape == (2, *out_shape)


def test_conv_takes_images_of_another_size_than_it_was_made_for():
    assert make_side("conv", CODE)(images(2, 80)).shape == (2, *CODE)


@pytest.mark.parametrize("name", ["conv", "copy"])
def test_side_codes_do_not_depend_on_the_mode(name):
    side = make_side(name, CODE, base=load_base("random"))
    assert torch.equal(side.train()(images()), side.eval()(images()))


def test_copy_starts_as_the_base_and_is_trained():
    base = load_base("random")
    side = make_side("copy", CODE, base=base)
    assert torch.equal(side(images()).detach(), base(images()))
    assert weights_of(side, trainable_only=True) == weights_of(base) == 210_896


def test_copy_of_a_base_without_weights_is_refused():
    with pytest.raises(SideAgentsError, match="base 'pixels' has no weights"):
        make_side("copy", (3, 8, 8), base=load_base("pixels"))


def test_a_dotted_path_names_any_module():
    side = make_side(f"{__name__}:OwnSide", CODE, options={"width": 6})
    assert isinstance(side, OwnSide)
    assert side.first.out_channels == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cnov", "unknown side 'cnov', did you mean 'conv'"),
        ("fcn5", r"side 'fcn5' must map 3-channel 64x64 images to codes of shape \(8, 8, 8\), but gives \(8, 4, 4\)"),
        ("fcn4", r"but gives \(64,\)"),
        ("copy", "side 'copy' cannot be built from .* argument: 'base'"),
        ("torch.nn:Flatten", r"but gives \(12288,\)"),
        ("torch.nn:Linear", "missing 2 required positional arguments"),
        ("torch.nn:Conv3", "torch.nn has no 'Conv3', did you mean"),
        ("os:abort", "is not a torch.nn.Module class"),
        ("no_such_module:Net", "cannot import 'no_such_module'"),
    ],
)
def test_wrong_sides_are_one_clear_line(name, message):
    with pytest.raises(SideAgentsError, match=message) as caught:
        make_side(name, CODE)
    assert "\n" not in str(caught.value)


def test_a_side_that_cannot_read_the_images_says_so():
    with pytest.raises(SideAgentsError, match="but fails on them"):
        make_side(f"{__name__}:OwnSide", CODE, in_channels=4)
    with pytest.raises(SideAgentsError, match="cannot make a code of 16x16 cells"):
        make_side("conv", (8, 16, 16), input_size=(8, 8))


@pytest.mark.parametrize("name", ["conv", "copy", f"{__name__}:OwnSide"])
def test_low_energy_adds_about_nothing_and_still_learns(name):
    torch.manual_seed(0)
    base = load_base("random")
    side = make_side(name, CODE, base=base)
    before = side(images()).square().mean().sqrt()
    initialise_side(side, "low_energy", base, (64, 64))
    code = side(images())
    assert code.square().mean().sqrt() <= 1.1 * LOW_ENERGY * before
    code.square().sum().backward()
    assert any(float(p.grad.abs().sum()) > 0 for p in side.parameters())


@pytest.mark.parametrize(("side", "size"), [(FCN5(), (256, 256)), (FCN4(), (32, 32))])
def test_low_energy_of_the_papers_sides(side, size):
    x = torch.rand(2, 3, *size)
    before = side(x).square().mean().sqrt()
    initialise_side(side, "low_energy", load_base("random"), size)
    assert side(x).square().mean().sqrt() <= 1.1 * LOW_ENERGY * before


def test_low_energy_refuses_a_side_it_cannot_scale():
    side = make_side(f"{__name__}:DoublesItself", CODE)
    with pytest.raises(SideAgentsError, match="output_layers"):
        initialise_side(side, "low_energy", load_base("random"), (64, 64))


def test_copy_initialisation_needs_the_same_architecture():
    base = load_base("random", seed=1)
    side = make_side("copy", CODE, base=load_base("random", seed=2))
    assert not torch.equal(side(images()).detach(), base(images()))
    initialise_side(side, "copy", base, (64, 64))
    assert torch.equal(side(images()).detach(), base(images()))
    with pytest.raises(SideAgentsError, match="use side 'copy'"):
        initialise_side(make_side("conv", CODE), "copy", base, (64, 64))


def test_distilled_initialisation_reads_a_student_file(tmp_path):
    base, student, side = load_base("random"), make_side("conv", CODE), make_side("conv", CODE)
    save_file(student.state_dict(), tmp_path / "student.safetensors")
    initialise_side(side, str(tmp_path / "student.safetensors"), base, (64, 64))
    assert torch.equal(side(images()), student(images()))
    with pytest.raises(CheckpointError, match="do not fit this side"):
        initialise_side(FCN4(), str(tmp_path / "student.safetensors"), base, (64, 64))
    with pytest.raises(CheckpointError, match="no such file"):
        initialise_side(side, str(tmp_path / "absent.safetensors"), base, (64, 64))
    (tmp_path / "cut.safetensors").write_bytes(b"not a weights file")
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        initialise_side(side, str(tmp_path / "cut.safetensors"), base, (64, 64))


def test_unknown_initialisation_is_refused():
    with pytest.raises(SideAgentsError, match="unknown side initialisation 'xavier'"):
        initialise_side(make_side("conv", CODE), "xavier", load_base("random"), (64, 64))


def test_multiply_adds_by_hand():
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, groups=2),
        nn.BatchNorm2d(6),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 64, 5),
    ).train()
    before = net[1].running_mean.clone()
    # conv: 6 x 16 outputs of 1 x 9 inputs; transposed: 6 x 16 inputs meet 4 x 2 x 2 weights; linear 256 x 5
    assert multiply_adds(net, (2, 4, 4)) == 6 * 16 * 9 + 6 * 16 * 16 + 256 * 5
    assert net[1].training
    assert torch.equal(net[1].running_mean, before)
