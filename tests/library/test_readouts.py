"""Readouts: shapes, the paper's adapter, cost, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sideagents.core.counting import multiply_adds, weights_of
from sideagents.data.targets import TARGETS
from sideagents.errors import SideAgentsError
from sideagents.train.readouts import linear_readout, make_readout


@pytest.mark.parametrize("channels", sorted({max(1, target.channels) for target in TARGETS.values()}))
def test_maps_cost_at_most_ten_million_multiply_adds(channels: int) -> None:
    readout = make_readout((8, 8, 8), (channels, 64, 64), 8)
    assert readout(torch.randn(2, 8, 8, 8)).shape == (2, channels, 64, 64)
    assert multiply_adds(readout, (8, 8, 8)) <= 10_000_000


def test_the_adapter_has_the_published_number_of_weights() -> None:
    assert weights_of(make_readout((8, 8, 8), (1, 64, 64))[0]) == 1_168


def test_classes_of_vectors_and_of_maps() -> None:
    vector = make_readout((64,), (10,), 8)
    assert [type(part) for part in vector] == [nn.GroupNorm, nn.Linear]
    assert weights_of(vector) == 650
    assert [type(part) for part in make_readout((64,), (10,))] == [nn.Linear]
    assert make_readout((8, 8, 8), (14,))(torch.randn(2, 8, 8, 8)).shape == (2, 14)


def test_linear_readouts_norm_codes_first() -> None:
    code = torch.randn(3, 8) * torch.tensor([1.0] * 4 + [100.0] * 4) + 7
    readout = linear_readout((8,), 2, 2)
    assert [type(part) for part in readout] == [nn.GroupNorm, nn.Linear]
    parts = code.reshape(3, 2, 4)
    mean, variance = parts.mean(2, keepdim=True), parts.var(2, keepdim=True, unbiased=False)
    normed = ((parts - mean) / (variance + 1e-5).sqrt()).reshape(3, 8)
    torch.testing.assert_close(readout(code), readout[1](normed))
    assert weights_of(readout) == 8 * 2 + 2  # the norm has none
    assert isinstance(linear_readout((8,), 2), nn.Linear)
    assert linear_readout((8, 4, 4), 3, 2)(torch.randn(2, 8, 4, 4)).shape == (2, 3)
    assert isinstance(linear_readout((8,), None, 2), nn.Identity)


@pytest.mark.parametrize(
    ("code", "outputs", "groups", "message"),
    [
        ((64,), (3, 64, 64), 0, r"a code that is a vector gives no maps \(3, 64, 64\)"),
        ((8, 8, 8), (3, 32, 32), 0, "codes of 8x8 cells give maps of 64x64, not 32x32"),
        ((8, 8, 8), (3, 64, 64), 3, "norm_groups=3 does not divide the 8 numbers of a code"),
        ((64,), (10,), -8, "norm_groups=-8 does not divide"),
        ((8,), (10,), 8, "norm_groups=8 leaves one number of a vector in each group"),
        ((8, 8), (10,), 0, r"codes of shape \(8, 8\) have no readout here"),
    ],
)
def test_what_does_not_fit_is_refused(
    code: tuple[int, ...], outputs: tuple[int, ...], groups: int, message: str
) -> None:
    with pytest.raises(SideAgentsError, match=message):
        make_readout(code, outputs, groups)
