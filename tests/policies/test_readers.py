"""Readers: vectors and images of any name go into the network; what cannot be read is told in a line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sideagents.errors import SideAgentsError
from sideagents_policies.agent.extractor import SideTunedExtractor
from sideagents_policies.agent.readers import READERS, VectorReader


def image(channels: int, size: int = 40, last: bool = True) -> spaces.Box:
    return spaces.Box(0, 255, (size, size, channels) if last else (channels, size, size), np.uint8)


def vector(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


def drawn(parts: dict[str, spaces.Box], seed: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for key, box in parts.items():
        shape = (2, *box.shape)
        found[key] = rng.integers(0, 256, shape, np.uint8) if box.dtype == np.uint8 else rng.normal(size=shape)
    return {key: torch.from_numpy(value) for key, value in found.items()}


@pytest.mark.parametrize(
    "parts",
    [
        {"imu": vector(6)},
        {"thermal": image(1)},
        {"night": image(4, last=False)},
        {"goal_image": image(3)},
        {"rgb": image(3, 64), "goal_image": image(3, 64), "wind": vector(2), "map": image(3)},
    ],
    ids=lambda parts: " ".join(parts),
)
def test_every_part_is_read(parts: dict[str, spaces.Box]) -> None:
    torch.manual_seed(0)
    extractor = SideTunedExtractor(spaces.Dict(parts), base="random", hidden=16)
    seen, other = drawn(parts, 0), drawn(parts, 1)
    found = extractor(seen)
    assert found.shape == (2, 16)
    for key in parts:
        assert (extractor(seen | {key: other[key]}) != found).any(), key
    found.sum().backward()
    unread = [name for name, p in extractor.named_parameters() if p.requires_grad and p.grad is None]
    assert unread == []


def test_a_vector_of_large_numbers_stays_small() -> None:
    reader = VectorReader("x", {"x": vector(3)})
    assert reader({"x": torch.tensor([[1e9, -1e9, 0.0]])}).abs().max() < 100


def test_blind_agents_do_without_images_of_any_name() -> None:
    parts = {"goal": vector(3), "thermal": image(1), "imu": vector(6)}
    extractor = SideTunedExtractor(spaces.Dict(parts), use_rgb=False, hidden=16)
    names = {name.split(".")[0] for name, _ in extractor.named_parameters()}
    assert names == {"goal_layer", "imu_reader", "head"}


@pytest.mark.parametrize(
    ("part", "line"),
    [
        (image(5), "must be a vector, or an image of 1 to 4 channels"),
        (spaces.Box(0, 1, (2, 2), np.float32), "must be a vector, or an image of 1 to 4 channels"),
        (image(1, size=20), "has 20 x 20 pixels, at least 36 x 36 are needed"),
        (spaces.Discrete(3), "must be an image"),
    ],
)
def test_what_cannot_be_read(part: Any, line: str) -> None:
    with pytest.raises(SideAgentsError, match=line) as caught:
        SideTunedExtractor(spaces.Dict({"goal": vector(3), "own": part}), use_rgb=True)
    assert "\n" not in str(caught.value)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(SideAgentsError, match="reader 'map' is registered already"):
        READERS.register("map", READERS.get("map"))
