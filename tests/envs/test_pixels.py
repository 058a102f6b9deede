"""Pixels of rendered targets against hand-worked values."""

from __future__ import annotations

import numpy as np
import pytest

from sideagents_envs.render.pixels import (
    ROOM_CLASSES,
    SEMANTIC_CLASSES,
    curvature_pixels,
    depth_pixels,
    edge_pixels,
    keypoints2d_pixels,
    keypoints3d_pixels,
    normal_pixels,
    occlusion_pixels,
    reshading_pixels,
    room_number,
    semantic_number,
)


def test_pixel_scales() -> None:
    curvature = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, -2.0], [1e9, -1e9]])
    assert curvature_pixels(curvature).tolist() == [[127, 127, 0], [170, 127, 0], [191, 63, 0], [255, 0, 0]]
    shares = (curvature_pixels(np.array([[4.0, -0.5]]))[0, :2].astype(float) - 127) / 128
    assert 2 * shares / (1 - np.abs(shares)) == pytest.approx([4.0, -0.5], rel=0.05)
    assert normal_pixels(np.array([0.0, 1.0, -1.0, 0.5])).tolist() == [127, 255, 0, 191]
    assert depth_pixels(np.array([0.0, 1.0, 2.5, 1000.0])).tolist() == [65535, 512, 1280, 65534]


def test_edges_are_the_gradient_of_the_smoothed_image() -> None:
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[:, :, 16:] = 255
    edges = edge_pixels(image).astype(float)[0] / 65535
    # A unit step under a Gaussian: central difference over the pixels 15 and 16 is the weight of two of them, / 2.
    weights = np.exp(-0.5 * np.arange(-4, 5) ** 2.0)
    weights /= weights.sum()
    assert edges[10, 15] == pytest.approx((weights[4] + weights[5]) / 2, abs=1e-3)
    assert edges[10, 2] == 0
    assert edge_pixels(np.full((1, 16, 16, 3), 77, np.uint8)).max() == 0


def test_shading_does_not_know_the_side_of_a_surface() -> None:
    assert reshading_pixels(np.array([-1.0, 0.5, 0.0, 1.1])).tolist() == [255, 128, 0, 255]


def plane(slope: float, size: int = 24) -> np.ndarray:
    """Depth of a wall that recedes to the right: 1 / depth is linear in the image."""
    columns = (np.arange(size) - size / 2) / (size / 2)
    return np.broadcast_to(1.0 / (0.5 - slope * columns), (1, size, size)).copy()


def test_depth_jumps_are_seen_and_steep_walls_are_none() -> None:
    assert occlusion_pixels(plane(0.4)).max() == 0
    step = np.full((1, 24, 24), 2.0)
    step[:, :, 12:] = 4.0
    edges = occlusion_pixels(step)[0] / 65535
    assert edges[5, 11] == pytest.approx(0.5, abs=1e-4)  # 2 x |1/2 - 1/4|
    assert edges[5, 12] == pytest.approx(1.0, abs=1e-4)  # 4 x |1/2 - 1/4|
    assert (np.delete(edges, (11, 12), axis=1) == 0).all()
    step[:, :, 12:] = 0.0  # nothing was hit there
    assert occlusion_pixels(step)[0, 5, 12] == 0


def test_corners_respond_and_straight_edges_do_not() -> None:
    image = np.zeros((1, 40, 40, 3), np.uint8)
    image[:, 20:, :20] = 255  # a corner at (20, 20), an edge along row 20 to the left
    response = keypoints2d_pixels(image)[0].astype(float) / 65535
    row, column = np.unravel_index(response.argmax(), response.shape)
    assert abs(row - 20) <= 2
    assert abs(column - 20) <= 2
    assert response[20, 4] < 0.01 * response.max()
    assert response[5, 30] == 0


def test_the_corner_of_a_room_responds_in_three_dimensions() -> None:
    """Floor, back wall and side wall meet in one point; two of them along lines."""
    normals = np.zeros((1, 40, 40, 3))
    normals[:, :20, :20, 2] = 1.0
    normals[:, :20, 20:, 0] = -1.0
    normals[:, 20:, :, 1] = 1.0
    response = keypoints3d_pixels(normals)[0].astype(float)
    row, column = np.unravel_index(response.argmax(), response.shape)
    assert abs(row - 20) <= 3
    assert abs(column - 20) <= 2
    assert response[20, 4] < 0.01 * response.max()  # along the foot of the wall
    assert keypoints3d_pixels(np.broadcast_to([0.0, 0.0, 1.0], (1, 8, 8, 3))).max() == 0


def test_classes_of_objects_and_rooms() -> None:
    assert len(SEMANTIC_CLASSES) == 18
    assert semantic_number("Sofa_2") == list(SEMANTIC_CLASSES).index("sofa")
    assert semantic_number("doorway") == semantic_number("door")
    assert semantic_number("spaceship") == 0
    words = [word for words in SEMANTIC_CLASSES.values() for word in words]
    assert len(words) == len(set(words))
    assert ROOM_CLASSES[room_number("kitchen_2")] == "kitchen"
    assert room_number("outside") == room_number("") == 0
