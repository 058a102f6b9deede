"""Merges by hand-worked numbers, sizes as the paper's code has them, exact ends."""

import pytest
import torch
from torch import nn

from sideagents import MERGES, SideAgentsError, make_merge
from sideagents.core.counting import weights_of

MAP, VECTOR = (8, 4, 4), (64,)


def codes(shape, seed=0):
    return torch.randn((2, 3, *shape), generator=torch.Generator().manual_seed(seed)).unbind(1)[:2]


@pytest.mark.parametrize("shape", [MAP, VECTOR])
@pytest.mark.parametrize("name", MERGES.names())
def test_every_merge_keeps_the_shape(name, shape):
    base, side = codes(shape)
    assert make_merge(name, shape)(base, side, torch.tensor(0.5)).shape == (2, *shape)


@pytest.mark.parametrize("name", MERGES.names())
def test_odd_channel_counts_work(name):
    base, side = codes((3, 2, 2))
    assert make_merge(name, (3, 2, 2))(base, side, torch.tensor(0.5)).shape == (2, 3, 2, 2)


@pytest.mark.parametrize(
    ("name", "weights_on_map", "weights_on_vector"),
    [
        ("alpha", 0, 0),
        ("sum", 0, 0),
        ("product", 0, 0),
        ("mlp", 145, 8448),
        ("mlp2", 290, 16896),
        ("film", 1680, 64 * 64 + 128 + 2 * (64 * 64 + 64)),
        ("concat", 16 * 8 + 8, 128 * 64 + 64),
    ],
)
def test_sizes(name, weights_on_map, weights_on_vector):
    assert weights_of(make_merge(name, MAP)) == weights_on_map
    assert weights_of(make_merge(name, VECTOR)) == weights_on_vector


def test_the_parameter_free_merges_by_hand():
    base, side = torch.tensor([[2.0, -1.0]]), torch.tensor([[4.0, 3.0]])
    assert make_merge("alpha", (2,))(base, side, torch.tensor(0.25)).tolist() == [[3.5, 2.0]]
    assert make_merge("sum", (2,))(base, side).tolist() == [[6.0, 2.0]]
    assert make_merge("product", (2,))(base, side).tolist() == [[8.0, -3.0]]


def test_film_is_conditioned_on_the_base():
    base, side = codes(MAP)
    merge = make_merge("film", MAP)
    torch.testing.assert_close(  # affine in the side, so the base alone decides gamma
        merge(base, 3 * side) - merge(base, side), 2 * (merge(base, side) - merge(base, 0 * side))
    )
    for head in (merge.gamma, merge.beta):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    torch.testing.assert_close(merge(base, side), base + side)
    nn.init.constant_(merge.gamma.bias, 1.0)
    nn.init.constant_(merge.beta.bias, 0.5)
    torch.testing.assert_close(merge(base, side), base + 2 * side + 0.5)


def test_mlp_adapts_the_base_and_adds_the_side():
    base, side = codes(MAP)
    merge = make_merge("mlp", MAP)
    torch.testing.assert_close(merge(base, side) - merge(base, torch.zeros_like(side)), side)
    torch.testing.assert_close(merge(base, side), merge.base_adapter(base) + side)
    assert merge.base_adapter[0].scale.item() == pytest.approx(0.9)


def test_concat_with_identity_weights_picks_the_base():
    base, side = codes(MAP)
    merge = make_merge("concat", MAP)
    nn.init.zeros_(merge.project.bias)
    merge.project.weight.data = torch.cat((torch.eye(8), torch.zeros(8, 8)), dim=1)[:, :, None, None]
    torch.testing.assert_close(merge(base, side), base)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [name for name in MERGES.names() if MERGES.get(name).exact_ends])
def test_ends_are_bitwise_whatever_the_other_code_holds(name, poison):
    base, side = codes(MAP)
    merge, bad = make_merge(name, MAP), torch.full_like(base, poison)
    assert torch.equal(merge(base, bad, torch.tensor(1.0)), base)
    assert torch.equal(merge(bad, side, torch.tensor(0.0)), side)


def test_only_the_alpha_merge_claims_exact_ends():
    assert [name for name in MERGES.names() if MERGES.get(name).exact_ends] == ["alpha"]


def test_wrong_merges_are_one_clear_line():
    with pytest.raises(SideAgentsError, match="unknown merge 'flim', did you mean 'film'"):
        make_merge("flim", MAP)
    with pytest.raises(SideAgentsError, match=r"\(C, h, w\) or \(C,\), got \(4, 4\)"):
        make_merge("sum", (4, 4))
    with pytest.raises(SideAgentsError, match="needs the weight of the base"):
        make_merge("alpha", VECTOR)(*codes(VECTOR))
