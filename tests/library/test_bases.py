"""Loading bases: files and cards, controls, published weights, the user's own networks, refusals."""

import hashlib
import json
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import sideagents.bases.loading as loading
from byte_images import images
from sideagents import (
    BaseError,
    FrozenBase,
    SideAgentsError,
    list_bases,
    load_base,
    multiply_adds,
    register_base,
    save_base,
)
from sideagents.bases.encoder import MidLevelDecoder, MidLevelEncoder
from sideagents.bases.saved import read_card
from sideagents.bases.taskonomy_base import TASKS, TaskonomyEncoder
from sideagents.core.counting import weights_of


class OwnEncoder(nn.Module):
    """A user's own network, named by its dotted path."""

    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 8, stride=8)

    def forward(self, images):
        return self.conv(images)


@pytest.fixture
def saved(tmp_path):
    base = FrozenBase(MidLevelEncoder(), "mine", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    return base, save_base(tmp_path / "mine.safetensors", base, "midlevel", {}, {"loss": 0.25, "seed": 3})


def test_the_shipped_architecture_is_within_its_limits(tmp_path):
    encoder = MidLevelEncoder()
    assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, 8, 8, 8)
    assert encoder(torch.rand(1, 3, 96, 128)).shape == (1, 8, 12, 16)
    assert multiply_adds(encoder, (3, 64, 64)) <= 20_000_000
    save_file(encoder.state_dict(), tmp_path / "size.safetensors")
    assert (tmp_path / "size.safetensors").stat().st_size <= 4_000_000
    torch.testing.assert_close(encoder(torch.rand(2, 3, 64, 64)).square().mean(), torch.tensor(1.0), atol=1e-3, rtol=0)


def test_every_code_cell_sees_the_whole_image():
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    body = MidLevelEncoder().body[:-1]  # without the last norm, which mixes all cells
    for module in body.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda x: x
    body(x)[0, 0, 4, 4].backward()
    rows = x.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    assert (int(rows.min()), int(rows.max())) == (0, 63)


def test_the_decoder_brings_codes_back_to_images():
    decoder = MidLevelDecoder(2)
    assert decoder(torch.rand(3, 8, 8, 8)).shape == (3, 2, 64, 64)
    assert multiply_adds(decoder, (8, 8, 8)) <= 40_000_000


def test_saved_bases_come_back_bit_for_bit(saved):
    base, path = saved
    loaded = load_base(str(path))
    assert loaded.name == "mine"
    assert loaded.fingerprint == base.fingerprint
    assert torch.equal(loaded(images()), base(images()))
    card = read_card(path)
    assert (card["loss"], card["seed"], card["fingerprint"]) == (0.25, 3, base.fingerprint)
    assert sorted(p.name for p in path.parent.iterdir()) == ["mine.json", "mine.safetensors"]


def test_a_shipped_name_reads_weights_and_card_of_the_package(saved, monkeypatch):
    base, path = saved
    for suffix in (".safetensors", ".json"):
        path.with_suffix(suffix).rename(path.parent / f"depth{suffix}")
    monkeypatch.setattr(loading, "WEIGHTS_FOLDER", path.parent)
    loaded = load_base("depth")
    assert loaded.name == "depth"
    assert torch.equal(loaded(images()), base(images()))
    rows = {row["name"]: row for row in list_bases()}
    assert rows["depth"]["available"] is True
    assert rows["depth"]["card"]["loss"] == 0.25
    assert rows["edges"]["available"] is False
    with pytest.raises(BaseError, match=r"base 'edges': its weights .* are not there; `make bases`"):
        load_base("edges")
    assert torch.equal(load_base("edges", weights=path.parent / "depth.safetensors")(images()), base(images()))


@pytest.mark.parametrize("name", loading.SHIPPED)
def test_shipped_weights(name):
    path = loading.WEIGHTS_FOLDER / f"{name}.safetensors"
    base = load_base(name)
    card = read_card(path)
    assert card["fingerprint"] == base.fingerprint
    assert card["reduction_percent"] >= 40  # below predicting the mean image, on buildings never trained on
    assert not set(card["data"]["buildings"]) & set(card["held_out"]["buildings"])
    assert path.with_suffix(".png").is_file()
    assert path.stat().st_size <= 4_000_000
    assert (base.name, base.input_size, base.out_shape) == (name, (64, 64), (8, 8, 8))
    assert multiply_adds(base.encoder, (3, 64, 64)) <= 20_000_000


def test_options_change_size_and_precision_but_not_the_weights(saved):
    base, path = saved
    assert load_base(str(path), input_size=(128, 128)).out_shape == (8, 16, 16)
    low = load_base(str(path), dtype="bfloat16")
    torch.testing.assert_close(low(images()), base(images()), atol=0.1, rtol=0.1)
    assert low.fingerprint == base.fingerprint
    with pytest.raises(BaseError, match="takes 64x64 images"):
        load_base(str(path), resize=False)(images(size=32))


def test_random_is_the_same_for_the_same_seed_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = load_base("random", seed=1), load_base("random", seed=1), load_base("random", seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_pixels_are_the_image_averaged_over_cells():
    base = load_base("pixels")
    assert base.out_shape == (3, 8, 8)
    assert not list(base.parameters())
    picture = torch.zeros(1, 3, 64, 64)
    picture[0, 0, :8, :4] = 1.0  # half of the first cell
    code = base(picture)
    assert code[0, 0, 0, 0].item() == 0.0
    assert code[0, 0, 0, 1].item() == code[0, 1, 0, 0].item() == -1.0
    assert load_base("pixels", grid=(4, 2)).out_shape == (3, 4, 2)


def test_a_dotted_path_is_any_network(tmp_path):
    save_file(OwnEncoder(width=5).state_dict(), tmp_path / "own.safetensors")
    name = f"{__name__}:OwnEncoder"
    base = load_base(name, tmp_path / "own.safetensors", width=5, mean=(0, 0, 0), std=(1, 1, 1), input_size=(32, 32))
    assert base.out_shape == (5, 4, 4)
    own = OwnEncoder(width=5)
    own.load_state_dict({name: tensor for name, tensor in base.encoder.state_dict().items()})
    torch.testing.assert_close(base(images(size=32)), own(images(size=32).float() / 255))


def own_base(*, weights=None, width=4, dtype=None):
    """Make a base of a user's own, to be named in one line."""
    encoder = OwnEncoder(width)
    if weights is not None:
        encoder.load_state_dict(load_file(weights))
    return FrozenBase(encoder, "own", (32, 32), dtype=dtype)


def family_base(model, *, resize=True):
    return FrozenBase(OwnEncoder(int(model)), f"wide:{model}", (32, 32), resize=resize)


def test_a_base_gets_a_name_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(loading.BASES, "_targets", dict(loading.BASES._targets))
    register_base("own", own_base)
    register_base("lazy", f"{__name__}:own_base", kind="control", needs="luck", ready=lambda name, weights: False)
    register_base("wide", family_base, models=("2", "3"))
    save_file(OwnEncoder(5).state_dict(), tmp_path / "own.safetensors")
    assert load_base("own").out_shape == load_base("lazy").out_shape == (4, 4, 4)
    assert load_base("own", tmp_path / "own.safetensors", width=5, dtype="bfloat16").out_shape == (5, 4, 4)
    assert load_base("wide:3").out_shape == (3, 4, 4)
    rows = {row["name"]: row for row in list_bases()}
    assert rows["own"] == {"name": "own", "kind": "own", "available": True}
    assert rows["lazy"] == {"name": "lazy", "kind": "control", "available": False, "needs": "luck"}
    assert {"wide:2", "wide:3"} < set(rows)
    assert not loading.names_code("own")
    assert not loading.names_code("wide:7")
    assert loading.names_code("wider:Net")
    cases = [
        (lambda: register_base("own", own_base), "base 'own' is registered already"),
        (lambda: load_base("owm"), "unknown base 'owm', did you mean 'own'"),
        (lambda: load_base("wide"), "unknown base 'wide', did you mean 'wide:"),
        (lambda: load_base("own", widht=5), "has no option 'widht', did you mean 'width'"),
        (lambda: load_base("wide:3", weights="x.pth"), "has no weights to load"),
        (lambda: load_base("wide:3", model="2"), "has no option 'model'"),
    ]
    for wrong, message in cases:
        with pytest.raises(SideAgentsError, match=message):
            wrong()


def test_published_encoder_is_the_published_architecture():
    encoder = TaskonomyEncoder().eval()
    assert len(TASKS) == 25
    assert weights_of(encoder) == 23_655_504
    state = encoder.state_dict()
    assert len(state) == 324
    assert state["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert state["layer3.5.conv2.weight"].shape == (256, 256, 3, 3)
    assert state["compress_bn.running_var"].shape == (8,)
    with torch.no_grad():
        code = encoder(torch.rand(1, 3, 256, 256) * 2 - 1)
        assert code.shape == (1, 8, 16, 16)
        assert encoder(torch.zeros(1, 3, 64, 64)).shape == (1, 8, 4, 4)
    # Down-sampling sits in the last block of stages 1 and 2.
    strided = [name for name, m in encoder.named_modules() if getattr(m, "stride", None) == (2, 2)]
    assert strided == ["conv1", "layer1.2.conv2", "layer2.3.conv2"]


def test_published_weights_load_from_a_local_file(tmp_path):
    torch.manual_seed(0)
    encoder = TaskonomyEncoder()
    state = {name: t for name, t in encoder.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save({"state_dict": state}, tmp_path / "curvature_encoder.pth")
    base = load_base("taskonomy:curvature", weights=tmp_path / "curvature_encoder.pth", input_size=(64, 64))
    assert (base.name, base.out_shape, base.mean) == ("taskonomy:curvature", (8, 4, 4), (0.5, 0.5, 0.5))
    with torch.no_grad():
        expected = encoder.eval()(images().float() / 255 * 2 - 1)
    torch.testing.assert_close(base(images()), expected, atol=1e-4, rtol=1e-4)
    means = base(images()).mean(dim=(2, 3))
    torch.testing.assert_close(means, torch.zeros(2, 8), atol=1e-5, rtol=0)
    raw = load_base("taskonomy:curvature", tmp_path / "curvature_encoder.pth", input_size=(64, 64), normalise=False)
    assert raw(images()).min() >= 0
    assert raw.fingerprint != base.fingerprint  # other codes from the same weights
    usual = FrozenBase(encoder, "same", (64, 64))
    assert usual.fingerprint == base.fingerprint


class Creates:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_published_weights_are_found_in_a_folder_and_held_against_their_names(tmp_path):
    state = {"state_dict": TaskonomyEncoder().state_dict()}
    torch.save(state, tmp_path / "file.pth")
    digest = hashlib.sha256((tmp_path / "file.pth").read_bytes()).hexdigest()
    (tmp_path / "file.pth").rename(tmp_path / f"curvature_encoder-{digest}.pth")
    base = load_base("taskonomy:curvature", weights=tmp_path, input_size=(64, 64))
    assert base.out_shape == (8, 4, 4)
    assert loading.kind_of("taskonomy:curvature").ready("taskonomy:curvature", tmp_path)
    assert not loading.kind_of("taskonomy:curvature").ready("taskonomy:denoising", tmp_path)
    with pytest.raises(BaseError, match=r"no denoising_encoder\*\.pth in the folder"):
        load_base("taskonomy:denoising", weights=tmp_path)
    with pytest.raises(BaseError, match="is the encoder of 'curvature', not of 'denoising'"):
        load_base("taskonomy:denoising", weights=tmp_path / f"curvature_encoder-{digest}.pth")
    (tmp_path / "normal_encoder-0123456789abcdef.pth").write_bytes(b"cut off")
    with pytest.raises(BaseError, match="is damaged, its SHA-256 begins with"):
        load_base("taskonomy:normal", weights=tmp_path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    hostile = {"state_dict": {"conv1.weight": Creates(str(tmp_path / "owned"))}}
    (tmp_path / "hostile.pth").write_bytes(pickle.dumps(hostile))
    torch.save(hostile, tmp_path / "zipped.pth")
    for file in ("hostile.pth", "zipped.pth"):
        with pytest.raises(BaseError, match=file):
            load_base("taskonomy:curvature", weights=tmp_path / file)
    assert not (tmp_path / "owned").exists()


def test_wrong_files_are_one_clear_line(saved, tmp_path):
    path = saved[1]
    card = json.loads(path.with_suffix(".json").read_text())

    def variant(name, card=card, weights=None):
        (tmp_path / f"{name}.safetensors").write_bytes(weights or path.read_bytes())
        (tmp_path / f"{name}.json").write_text(json.dumps(card))
        return str(tmp_path / f"{name}.safetensors")

    save_file({"other": torch.zeros(1)}, tmp_path / "tensors.safetensors")
    changed = load_file(path) | {"body.5.weight": torch.zeros(8, 128, 3, 3)}
    save_file(changed, tmp_path / "changed.safetensors")
    cases = [
        (str(tmp_path / "absent.safetensors"), "absent.safetensors: no such file"),
        (str(tmp_path / "tensors.safetensors"), "has no card tensors.json beside it"),
        (variant("cut", weights=path.read_bytes()[:1000]), "cut.safetensors: is no safetensors file .cut or damaged"),
        (variant("bare", card={"name": "bare"}), "lacks architecture, options, input_size, mean, std, fingerprint"),
        (variant("list", card=[1]), "lacks name"),
        (variant("arch", card=card | {"architecture": "midlevl"}), "unknown base architecture 'midlevl', did you mean"),
        (variant("opts", card=card | {"options": {"depth": 3}}), "does not describe a base"),
        (variant("size", card=card | {"input_size": 64}), "does not describe a base"),
        (variant("mean", card=card | {"mean": [0.5]}), "one number per channel"),
        (variant("wide", card=card | {"options": {"width": 16}}), "does not fit MidLevelEncoder: .* of another shape"),
        (
            variant("other", weights=(tmp_path / "tensors.safetensors").read_bytes()),
            "missing .*; 1 unknown such as 'other'",
        ),
        (
            variant("swapped", weights=(tmp_path / "changed.safetensors").read_bytes()),
            "not the file its card describes",
        ),
    ]
    for name, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            load_base(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("curvatur", {}, "unknown base 'curvatur', did you mean 'curvature'.*weights=FILE"),
        ("", {}, "unknown base ''"),
        ("random", {"sed": 1}, "has no option 'sed', did you mean 'seed'"),
        ("random", {"weights": "x.pth"}, "has no weights to load"),
        ("random", {"dtype": "bf16"}, "unknown dtype 'bf16'"),
        ("a.safetensors", {"weights": "b.pth"}, "is a weights file itself"),
        ("taskonomy:curvature", {}, "needs weights=FILE"),
        ("taskonomy:normals", {"weights": "x"}, "unknown base 'taskonomy:normals', did you mean 'normal'"),
        ("taskonomy:normal", {"weights": "x.pth"}, "x.pth: no such file"),
        ("os:abort", {}, "is not a torch.nn.Module class"),
        ("torch.nn:Conv2d", {}, "cannot be built from"),
        (f"{__name__}:OwnEncoder", {"depth": 1}, "cannot be built from"),
        (f"{__name__}:OwnEncoder", {"input_size": (4, 4)}, "cannot encode 3-channel 4x4 images"),
    ],
)
def test_wrong_names_are_one_clear_line(name, options, message):
    with pytest.raises(BaseError, match=message) as caught:
        load_base(name, **options)
    assert "\n" not in str(caught.value)


def test_import_is_light():
    heavy = "timm torchvision transformers peft gymnasium stable_baselines3 sideagents_envs sideagents_policies"
    code = (
        "import sys, sideagents; sideagents.load_base('random'); print([m for m in sys.argv[1:] if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code, *heavy.split()], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
