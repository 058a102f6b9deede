"""The egocentric map against a slow oracle that follows the original's steps, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sideagents_envs.sensors.occupancy import draw_map, draw_maps
from sideagents_envs.sensors.pointgoal import goal_readings

CELL = 22.0 / 84


def blank():
    return np.zeros((84, 84, 3), np.uint8)


def oracle(track, pose, goal):
    """Cells by truncation and clipping, 3 x 3 maximum over a padded image, then a half turn: step by step."""
    yaw = pose[3]
    heading = np.array([-math.sin(yaw), -math.cos(yaw)])
    leftwards = np.array([-math.cos(yaw), math.sin(yaw)])
    image = np.full((84, 84, 3), 128, np.uint8)
    for channel, points in ((0, track), (1, [goal[[0, 2]]])):
        for point in points:
            offset = np.asarray(point) - pose[[0, 2]]
            index = [int((offset @ axis + 11.0) / CELL) for axis in (heading, leftwards)]
            i, j = np.clip(index, 0, 83)
            image[i, j, channel] = 255
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    pooled = np.max([padded[i : i + 84, j : j + 84] for i in range(3) for j in range(3)], axis=0)
    return np.rot90(pooled, 2)


@pytest.mark.parametrize("seed", range(8))
def test_random_tracks_match_the_oracle(seed):
    rng = np.random.default_rng(seed)
    track = np.cumsum(rng.normal(0, 0.8, (200, 2)), axis=0)  # far enough to leave the 22 m square
    pose = np.array([*track[-1], 0.0, rng.uniform(-4, 4)])[[0, 2, 1, 3]] + [0.0313, 0, 0.0171, 0]
    goal = rng.uniform(-20, 20, 3)
    image = blank()
    draw_map(image, track, pose, goal)
    np.testing.assert_array_equal(image, oracle(track, pose, goal))


def test_agent_at_the_start_marks_the_centre():
    image = blank()
    draw_map(image, np.zeros((1, 2)), np.zeros(4), np.array([0.0, 0.0, -5.0]))
    visited = np.argwhere(image[..., 0] == 255)
    # 11 m / cell = 42, turned to 41, with its neighbours
    assert visited.min(axis=0).tolist() == [40, 40]
    assert visited.max(axis=0).tolist() == [42, 42]
    assert len(visited) == 9
    assert set(np.unique(image)) == {128, 255}
    assert (image[..., 2] == 128).all()


@pytest.mark.parametrize(
    ("goal", "side"), [((0, 0, -5), "up"), ((-5, 0, 0), "left"), ((5, 0, 0), "right"), ((0, 0, 5), "down")]
)
def test_ahead_is_up_and_left_is_left(goal, side):
    image = blank()
    draw_map(image, np.zeros((1, 2)), np.zeros(4), np.array(goal, float))
    row, column = np.argwhere(image[..., 1] == 255).mean(axis=0)
    expected = {"up": row < 30, "down": row > 53, "left": column < 30, "right": column > 53}
    assert [name for name, holds in expected.items() if holds] == [side]


def test_turning_left_moves_the_goal_right():
    image = blank()
    draw_map(image, np.zeros((1, 2)), np.array([0, 0, 0, math.pi / 2]), np.array([0.0, 0.0, -5.0]))
    _, column = np.argwhere(image[..., 1] == 255).mean(axis=0)
    assert column > 53


def test_far_goal_sticks_to_the_border_and_stays_thick():
    image = blank()
    draw_map(image, np.zeros((1, 2)), np.zeros(4), np.array([0.0, 0.0, -300.0]))
    cells = np.argwhere(image[..., 1] == 255)
    assert cells[:, 0].max() == 1
    assert cells[:, 0].min() == 0
    assert len(cells) == 6


@pytest.mark.parametrize("degrees", range(-180, 180, 10))
def test_straight_walk_leaves_a_straight_trace(degrees):
    """Rounding must not scatter a straight track to both sides of the border that it runs on."""
    yaw = math.radians(degrees)
    steps = np.arange(21)[:, None] * 0.25
    track = steps * np.array([-math.sin(yaw), -math.cos(yaw)])
    image = blank()
    draw_map(image, track, np.array([track[-1, 0], 0.0, track[-1, 1], yaw]), np.array([50.0, 0, 0]))
    columns = np.unique(np.argwhere(image[..., 0] == 255)[:, 1])
    assert columns.tolist() == [40, 41, 42]


def test_batch_draws_only_the_valid_part_of_each_track():
    rng = np.random.default_rng(0)
    tracks, poses, goals = rng.uniform(-9, 9, (3, 7, 2)), rng.uniform(-2, 2, (3, 4)), rng.uniform(-9, 9, (3, 3))
    lengths = np.array([1, 4, 7])
    images = np.zeros((3, 84, 84, 3), np.uint8)
    draw_maps(images, tracks, lengths, poses, goals)
    for n in range(3):
        image = blank()
        draw_map(image, tracks[n, : lengths[n]], poses[n], goals[n])
        np.testing.assert_array_equal(images[n], image)


def test_goal_readings():
    poses = np.array([[0, 0, 0, 0], [0, 0, 0, math.pi / 2], [1, 0, 1, 0], [2, 1, 3, 1.0]], float)
    goals = np.array([[0, 0, -2], [0, 0, -2], [0, 0, 1], [2, 5, 3]], float)
    expected = [[2, 1, 0], [2, 0, -1], [1, 0, 1], [0, 1, 0]]
    readings = goal_readings(poses, goals)
    assert readings.dtype == np.float32
    np.testing.assert_allclose(readings, expected, atol=1e-6)
