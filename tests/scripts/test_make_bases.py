"""How shipped bases are made: settings, and the states that the probe asks about."""

from __future__ import annotations

import torch

from make_bases import _features, states


def test_states_are_images_with_the_expert_s_next_action(homes: list[str]) -> None:
    images, actions, goals = states("train", 40, homes)
    assert images.shape == (40, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert set(actions.tolist()) <= {0, 1, 2}
    assert len(set(actions.tolist())) > 1
    assert torch.allclose(goals[:, 1] ** 2 + goals[:, 2] ** 2, torch.ones(40), atol=1e-5)


def test_features_hold_goal_code_and_product() -> None:
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    goals = torch.tensor([[1.0, 0.0, 1.0], [2.0, 0.0, -1.0], [3.0, 1.0, 0.0]])
    features = _features("pixels", images, goals)
    size = (features.shape[1] - 3) // 2
    code, product = features[:, 3 : 3 + size], features[:, 3 + size :]
    assert torch.equal(features[:, :3], goals)
    assert torch.equal(product[0], code[0])
    assert torch.equal(product[1], -code[1])
    assert not product[2].any()
