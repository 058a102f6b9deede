"""Law 1: a frozen base stays what it was, whatever is done to the network that contains it."""

import copy
import hashlib
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sideagents import BaseError, FrozenBase, trainable_copy
from sideagents.core.pixels import fit_images


class Perception(nn.Module):
    """An encoder with everything that train() and optimizers like to change."""

    def __init__(self, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        return self.drop(torch.relu(self.norm(self.conv(images))))


class Agent(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        return self.head(self.base(images).mean(dim=(2, 3)))


@pytest.fixture
def base():
    torch.manual_seed(0)
    return FrozenBase(Perception(), "perception", (16, 16))


def images(n=4, size=16, channels=3, seed=0):
    return torch.randint(
        0, 256, (n, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def bytes_of(base):
    return [t.detach().clone() for t in (*base.parameters(), *base.buffers())]


def test_nothing_has_a_gradient(base):
    agent = Agent(base)
    agent.requires_grad_(True)
    base.requires_grad_(True)
    agent(images()).sum().backward()
    assert len(list(base.parameters())) == 4
    assert all(not p.requires_grad and p.grad is None for p in base.parameters())
    assert not base(images().float().div(255).requires_grad_()).requires_grad


def test_train_never_leaves_eval_mode(base):
    agent = Agent(base).train()
    assert agent.training
    assert not base.training
    assert not any(module.training for module in base.encoder.modules())
    assert torch.equal(base(images()), base(images()))  # dropout would differ


def test_buffers_and_weights_are_byte_identical_after_training(base):
    agent, before, mark = Agent(base), bytes_of(base), base.fingerprint
    assert any("running_mean" in name for name, _ in base.named_buffers())
    optimizer = torch.optim.AdamW(agent.parameters(), lr=0.1, weight_decay=0.5)
    for seed in range(3):
        agent.train()
        loss = agent(images(seed=seed)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, bytes_of(base), strict=True))
    assert base.fingerprint == mark


def test_not_in_the_optimizer(base):
    own = {id(p) for p in base.parameters()}
    assert own
    assert not own & {id(p) for p in Agent(base).parameters()}


def test_initialisers_that_walk_the_modules_do_not_reach_it(base):
    before = bytes_of(base)
    Agent(base).apply(lambda m: nn.init.zeros_(m.weight) if hasattr(m, "weight") else None)
    assert all(torch.equal(a, b) for a, b in zip(before, bytes_of(base), strict=True))


def test_not_in_the_checkpoint_and_not_asked_for(base):
    agent = Agent(base)
    state = agent.state_dict()
    assert set(state) == {"head.weight", "head.bias"}
    pointers = {t.data_ptr() for t in bytes_of(base)} | {p.data_ptr() for p in base.parameters()}
    assert not pointers & {t.data_ptr() for t in state.values()}
    agent.load_state_dict(state, strict=True)


def test_found_among_the_modules_of_the_parent(base):
    assert [m for m in Agent(base).modules() if isinstance(m, FrozenBase)] == [base]


def test_deepcopy_and_pickle(base):
    agent = Agent(base)
    for copied in (copy.deepcopy(agent), pickle.loads(pickle.dumps(agent))):
        assert copied.base.fingerprint == base.fingerprint
        assert copied.base.encoder is not base.encoder
        assert torch.equal(copied(images()), agent(images()))
        copied.train()
        assert not copied.base.encoder.training


def test_the_dtype_of_the_parent_does_not_change_it(base):
    agent, mark, code = Agent(base), base.fingerprint, base(images())
    agent.double()
    assert agent.head.weight.dtype == torch.float64
    assert base.fingerprint == mark
    assert torch.equal(base(images()), code)


def test_moves_with_the_device_of_the_parent(base):
    Agent(base).to("meta")
    assert {p.device.type for p in base.parameters()} == {"meta"}


def test_autocast_of_the_caller_does_not_change_the_code(base):
    code = base(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(base(images()), code)


def test_bfloat16_is_an_option_and_gives_float32_codes(base):
    low = FrozenBase(base.encoder, "low", (16, 16), dtype=torch.bfloat16)
    code = low(images())
    assert code.dtype == torch.float32
    assert not torch.equal(code, base(images()))
    torch.testing.assert_close(code, base(images()), atol=0.03, rtol=0.03)
    assert low.fingerprint == base.fingerprint


def test_normalisation_by_hand():
    base = FrozenBase(nn.Identity(), "identity", (1, 2), mean=(0.25, 0.5), std=(0.5, 0.25))
    code = base(torch.tensor([[[[0.25, 0.75]], [[0.5, 0.0]]]]))
    assert code.tolist() == [[[[0.0, 1.0]], [[0.0, -2.0]]]]
    assert base.out_shape == (2, 1, 2)
    assert base.channels == 2


def test_uint8_and_float_images_agree_bitwise(base):
    assert torch.equal(base(images()), base(images().float() / 255))


def test_hwc_images_of_an_environment(base):
    expected = base(images())
    hwc = images().permute(0, 2, 3, 1)
    assert torch.equal(base.encode_hwc(hwc), expected)
    assert torch.equal(base.encode_hwc(np.ascontiguousarray(hwc.numpy())), expected)
    with pytest.raises(BaseError, match=r"encode_hwc takes uint8 \(B, H, W, 3\), got torch.float32"):
        base.encode_hwc(hwc.float())


def test_other_sizes_are_resized_bilinearly(base):
    large = images(size=40)
    resized = fit_images(large.float() / 255, (16, 16))
    assert torch.equal(base(large), base(resized))
    assert resized.shape == (4, 3, 16, 16)
    # A 2x2 image made twice as wide: bilinear samples at -0.25, 0.25, 0.75, 1.25 of a row, clamped at the border.
    assert fit_images(torch.tensor([[[[0.0, 1.0]]]]), (1, 4)).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]
    with pytest.raises(BaseError, match="takes 16x16 images"):
        FrozenBase(base.encoder, "strict", (16, 16), resize=False)(large)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            torch.zeros(2, 4, 16, 16),
            r"base 'perception' takes images of 3 channels as \(B, 3, H, W\), got \(2, 4, 16, 16\)",
        ),
        (torch.zeros(3, 16, 16), r"got \(3, 16, 16\)"),
        (torch.zeros(2, 16, 16, 3), "use encode_hwc"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.int64), r"uint8 images or floats in \[0, 1\], got torch.int64"),
        (torch.full((2, 3, 16, 16), float("nan")), "got values from nan to nan"),
        (torch.full((2, 3, 16, 16), float("inf")), "got values from inf to inf"),
        (torch.full((2, 3, 16, 16), 255.0), "got values from 255 to 255"),
        (torch.full((2, 3, 16, 16), -1.0), "got values from -1 to -1"),
    ],
)
def test_wrong_images_are_one_clear_line(base, bad, message):
    with pytest.raises(BaseError, match=message) as caught:
        base(bad)
    assert "\n" not in str(caught.value)


def test_one_nan_pixel_is_found(base):
    bad = torch.zeros(2, 3, 16, 16)
    bad[1, 2, 3, 4] = float("nan")
    with pytest.raises(BaseError, match="nan"):
        base(bad)


def test_an_encoder_that_cannot_read_the_images_is_refused():
    with pytest.raises(BaseError, match="base 'five' cannot encode 3-channel 16x16 images"):
        FrozenBase(Perception(channels=5), "five", (16, 16))
    with pytest.raises(BaseError, match="one number per channel"):
        FrozenBase(nn.Identity(), "std", mean=(0.5,), std=(0.0,))


def test_fingerprint_by_hand():
    encoder = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(encoder.weight, 2.0)
    base = FrozenBase(encoder, "one", (2, 2), mean=(0.5,), std=(0.25,))
    number = lambda x: np.float32(x).tobytes()  # noqa: E731
    text = b"input (2, 2) code (1, 2, 2)\n"
    text += b"encoder.weight torch.float32 (1, 1, 1, 1)\n" + number(2.0)
    text += b"mean torch.float32 (1, 1, 1, 1)\n" + number(0.5)
    text += b"std torch.float32 (1, 1, 1, 1)\n" + number(0.25)
    assert base.fingerprint == hashlib.sha256(text).hexdigest()


def test_fingerprint_tells_one_weight_apart(base):
    other = copy.deepcopy(base)
    with torch.no_grad():
        next(other.parameters())[0, 0, 0, 0] += 1e-6
    assert other.fingerprint != base.fingerprint
    assert FrozenBase(copy.deepcopy(base.encoder), "renamed", (16, 16)).fingerprint == base.fingerprint


def test_trainable_copy_learns_and_leaves_the_base_alone(base):
    learner, mark = trainable_copy(base), base.fingerprint
    assert all(p.is_contiguous() for p in learner.parameters())  # or safetensors would refuse them
    with torch.no_grad():
        torch.testing.assert_close(learner.eval()(images()), base(images()), atol=0, rtol=0)
    learner.train()
    assert learner.encoder.drop.training
    assert not learner.encoder.norm.training  # its statistics are kept, so both modes agree
    statistics = learner.encoder.norm.running_mean.clone()
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    learner(images()).sum().backward()
    optimizer.step()
    assert torch.equal(learner.encoder.norm.running_mean, statistics)
    assert not torch.equal(learner.encoder.conv.weight, base.encoder.conv.weight)
    assert base.fingerprint == mark
    assert {name for name, _ in learner.named_parameters()} == {
        f"encoder.{n}" for n, _ in base.encoder.named_parameters()
    }


def test_random_copy_keeps_nothing_learned(base):
    torch.manual_seed(1)
    fresh = trainable_copy(base, random=True)
    assert fresh.encoder.norm.training
    for (name, new), (_, old) in zip(fresh.encoder.named_parameters(), base.encoder.named_parameters(), strict=True):
        if "norm" not in name:
            assert not torch.isclose(new, old).any(), name
