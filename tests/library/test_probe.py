"""The linear probe against problems whose best linear answer is known."""

from __future__ import annotations

import pytest
import torch

from sideagents.errors import SideAgentsError
from sideagents.train.probe import linear_probe


def test_separable_classes_are_found_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    features = torch.randn(300, 2, 4, generator=generator)
    features[:, 0, 1] = labels * 1000.0 + 5  # the scale of a feature does not matter
    features[:, 1, 2] = 7.0  # nor does a constant one
    assert linear_probe(features[:200], labels[:200], features[200:], labels[200:], 3) == 1.0


def test_noise_gives_chance_and_xor_is_not_linear() -> None:
    generator = torch.Generator().manual_seed(1)
    noise, coin = torch.randn(4000, 5, generator=generator), torch.randint(2, (4000,), generator=generator)
    assert linear_probe(noise[:2000], coin[:2000], noise[2000:], coin[2000:], 2) == pytest.approx(0.5, abs=0.05)
    xor = ((noise[:, 0] > 0) ^ (noise[:, 1] > 0)).long()
    assert linear_probe(noise[:2000], xor[:2000], noise[2000:], xor[2000:], 2) < 0.6
    product = torch.cat([noise, noise[:, :1] * noise[:, 1:2]], dim=1)
    assert linear_probe(product[:2000], xor[:2000], product[2000:], xor[2000:], 2) > 0.95


def test_two_gaussians_reach_the_best_possible_accuracy() -> None:
    """Means at -1 and 1, unit variance: no rule exceeds the normal distribution's Phi(1) = 0.8413."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(2, (40_000,), generator=generator)
    features = torch.randn(40_000, 1, generator=generator) + 2 * labels[:, None] - 1
    accuracy = linear_probe(features[:20_000], labels[:20_000], features[20_000:], labels[20_000:], 2)
    assert accuracy == pytest.approx(0.8413, abs=0.01)


def test_heavy_regularisation_leaves_the_most_frequent_class() -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(400, 30, generator=generator)
    labels = (features[:, 0] > 0.3).long()
    parts = (features[:200], labels[:200], features[200:], labels[200:], 2)
    assert linear_probe(*parts, l2=100.0) == pytest.approx(float((labels[200:] == 0).float().mean()))
    assert linear_probe(*parts) > 0.9
    assert linear_probe(*parts) == linear_probe(*parts)


def test_what_does_not_fit_is_refused() -> None:
    features, labels = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(SideAgentsError, match=r"labels must lie in 0\.\.1"):
        linear_probe(features, labels + 1, features, labels, 2)
    with pytest.raises(SideAgentsError, match="4 validation samples but 3 labels"):
        linear_probe(features, labels, features, labels[:3], 2)
    with pytest.raises(SideAgentsError, match="2 training features but 3 validation ones"):
        linear_probe(features, labels, torch.zeros(4, 3), labels, 2)
    with pytest.raises(SideAgentsError, match="training features are not finite"):
        linear_probe(features / 0, labels, features, labels, 2)
