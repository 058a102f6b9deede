"""Alpha: values of the curricula by hand, names, ranges, state."""

import math

import pytest

from sideagents import SideAgentsError, make_alpha
from sideagents.core.alpha import LearnedAlpha


def test_learned_alpha_starts_at_raw_zero_and_a_half():
    alpha = make_alpha("learned")
    assert [name for name, _ in alpha.named_parameters()] == ["raw_alpha"]
    assert alpha.raw_alpha.item() == 0.0
    assert alpha.value() == 0.5
    alpha().backward()
    assert alpha.raw_alpha.grad.item() == 0.25  # sigmoid'(0)


def test_learned_alpha_starts_where_it_is_told():
    assert make_alpha("learned:0.8").raw_alpha.item() == pytest.approx(math.log(4.0))
    assert make_alpha("learned:0.8").value() == pytest.approx(0.8)


def test_a_saturated_sigmoid_is_exactly_one_and_about_zero():
    alpha = LearnedAlpha()
    alpha.raw_alpha.data.fill_(200.0)
    assert alpha.value() == 1.0
    alpha.raw_alpha.data.fill_(-200.0)
    assert alpha.value() == 0.0


@pytest.mark.parametrize("spec", ["fixed:0.3", 0.3])
def test_fixed_alpha_never_moves(spec):
    alpha = make_alpha(spec)
    alpha.set_progress(0.9, 100)
    assert alpha.value() == pytest.approx(0.3)
    assert not list(alpha.parameters())
    assert [name for name, _ in alpha.named_buffers()] == ["alpha"]


def test_integer_ends_are_fixed():
    assert make_alpha(1).value() == 1.0
    assert make_alpha(0).value() == 0.0


@pytest.mark.parametrize(
    ("spec", "steps"),
    [
        ("stagewise", [(0.0, 0, 1.0), (0.4999, 5, 1.0), (0.5, 5, 0.0), (1.0, 9, 0.0)]),
        ("stagewise:0.25", [(0.24, 1, 1.0), (0.25, 1, 0.0)]),
        ("linear", [(0.0, 0, 1.0), (0.25, 1, 0.75), (1.0, 4, 0.0), (1.5, 6, 0.0)]),
        ("linear:0.5", [(0.25, 1, 0.5), (0.5, 2, 0.0), (0.75, 3, 0.0)]),
        ("hyperbolic", [(0.0, 0, 1.0), (0.1, 1, 0.5), (0.2, 3, 0.25)]),
        ("hyperbolic:4", [(0.0, 0, 1.0), (0.5, 1, 0.8), (1.0, 12, 0.25)]),
    ],
)
def test_curricula_by_hand(spec, steps):
    alpha = make_alpha(spec)
    assert alpha.value() == 1.0
    for fraction, epochs, expected in steps:
        alpha.set_progress(fraction, epochs)
        assert alpha.value() == pytest.approx(expected)
    assert not list(alpha.parameters())


def test_a_curriculum_goes_into_the_checkpoint_and_comes_back():
    alpha, other = make_alpha("linear"), make_alpha("linear")
    alpha.set_progress(0.25)
    assert list(alpha.state_dict()) == ["alpha"]
    other.load_state_dict(alpha.state_dict())
    assert other.value() == 0.75


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lerned", "unknown alpha 'lerned', did you mean 'learned'"),
        ("fixed:much", "after the colon stands a number, as in fixed:0.5"),
        ("fixed:1.5", r"alpha lies in \[0, 1\], got 1.5"),
        (float("nan"), r"alpha lies in \[0, 1\], got nan"),
        ("learned:1", "use fixed:1"),
        ("stagewise:2", "fraction of training"),
        ("linear:0", "reaches 0 at a fraction"),
        ("hyperbolic:0", "needs k above 0"),
    ],
)
def test_wrong_alphas_are_one_clear_line(spec, message):
    with pytest.raises(SideAgentsError, match=message):
        make_alpha(spec)


@pytest.mark.parametrize("spec", ["stagewise:0.5", "linear", "hyperbolic:2"])
def test_a_curriculum_never_goes_back(spec: str) -> None:
    alpha = make_alpha(spec)
    alpha.set_progress(0.9, epochs=9)
    reached = alpha.value()
    alpha.set_progress(0.0, epochs=0)  # a second training that starts from the first one's networks
    assert alpha.value() == reached < 1.0
