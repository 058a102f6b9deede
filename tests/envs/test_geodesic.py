import itertools
import math
import time

import numpy as np
import pytest

from mesh_shapes import RADIUS, box, floor, join, ramp, room, rotation, taut, turned, two_storeys, wall
from sideagents_envs.errors import EpisodeError
from sideagents_envs.walk.navmesh import NavMesh


def built(*parts) -> NavMesh:
    return NavMesh.from_mesh(*join(*parts))


def at(x: float, z: float, y: float = 0.0) -> np.ndarray:
    return np.array([x, y, z])


# Name, mesh, start, goal and the exact length: straight lines, and strings around discs of the agent's radius.
SHAPES = {
    "corridor": (room(0, 10, 0, 1), (0.5, 0.5), (9.5, 0.4), math.hypot(9.0, 0.1)),
    "around a box": (
        [*room(0, 6, 0, 4), box(2.03, 3.41, 0, 1, 1.2, 2.57)],
        (1, 2),
        (5.5, 2),
        taut((1, 2), (5.5, 2), (2.03, 2.57), (3.41, 2.57)),
    ),
    "through a door": (
        [*room(0, 8, 0, 6), wall(4, 0, 4, 4.1), wall(4, 5, 4, 6)],
        (2, 1),
        (6.5, 0.7),
        taut((2, 1), (6.5, 0.7), (4, 4.1)),
    ),
    "thick door": (
        [*room(0, 8, 0, 6), box(3.9, 4.13, 0, 2, 0, 4.1), box(3.9, 4.13, 0, 2, 5, 6)],
        (2, 1),
        (6.5, 0.7),
        taut((2, 1), (6.5, 0.7), (3.9, 4.1), (4.13, 4.1)),
    ),
    "L": ([*room(0, 8, 0, 8), box(2, 8, 0, 2, 2, 8)], (1, 7), (7, 1.2), taut((1, 7), (7, 1.2), (2, 2))),
    "U": (
        [*room(0, 8, 0, 8), box(2, 6, 0, 2, 2, 8)],
        (1, 7.5),
        (7, 7.2),
        taut((1, 7.5), (7, 7.2), (2, 2), (6, 2)),
    ),
    "around a short wall": (
        [*room(0, 4, 0, 4), wall(2, 0, 2, 2)],
        (1.7, 1),
        (2.3, 1),
        taut((1.7, 1), (2.3, 1), (2, 2)),
    ),
}


@pytest.mark.parametrize("degrees", [0.0, 12.0, 33.0, 45.0, 71.0])
@pytest.mark.parametrize("name", SHAPES)
def test_known_lengths(name: str, degrees: float) -> None:
    parts, start, goal, exact = SHAPES[name]
    navmesh = NavMesh.from_mesh(*turned(join(*parts), degrees))
    turn = rotation(degrees)
    a, b = turn @ at(*start), turn @ at(*goal)
    assert navmesh.geodesic(a, b) == pytest.approx(exact, rel=0.015)
    assert navmesh.geodesic(b, a) == pytest.approx(exact, rel=0.015)


def test_straight_lines_are_exact_in_every_direction() -> None:
    navmesh = built(*room(-4, 4, -4, 4))
    goal = at(0.013, -0.027)
    field = navmesh.distance_field(goal)
    points = navmesh.sample(np.random.default_rng(0), 500)
    assert field.values(points) == pytest.approx(np.linalg.norm(points - goal, axis=1), abs=1e-5)
    for near in (0.0, 0.001, 0.02, 0.1):
        assert field.value(goal + [near, 0, 0]) == pytest.approx(near, abs=1e-9)


def test_the_value_is_smooth_and_symmetric() -> None:
    """Walking d metres changes the distance by at most d: checked on pairs a centimetre apart, and both ways round."""
    navmesh = built(*room(0, 9, 0, 6), box(2, 3, 0, 1, 1, 4), wall(5, 0, 6, 4), box(7, 8, 0, 1, 2, 3))
    points = navmesh.sample(np.random.default_rng(0), 400)
    nearby, _ = navmesh.try_steps(points, points + np.random.default_rng(1).normal(size=points.shape) * [0.01, 0, 0.01])
    field = navmesh.distance_field(points[0])
    change = np.abs(field.values(points) - field.values(nearby))
    assert (change <= np.linalg.norm(points - nearby, axis=1) + 0.01).all()
    for p in points[1:20]:
        assert navmesh.geodesic(points[0], p) == pytest.approx(navmesh.geodesic(p, points[0]), rel=0.005, abs=0.005)
    assert field.values(points).tolist() == [field.value(p) for p in points]


def test_a_step_changes_the_value_by_no_more_than_its_length() -> None:
    """Also where corners come into sight: from there a node close by may be better than the next corner in view."""
    mesh = join(*room(0, 9, 0, 6), box(2, 3, 0, 1, 1, 4), wall(5, 0, 6, 4), box(7, 8, 0, 1, 2, 3))
    navmesh = NavMesh.from_mesh(*turned(mesh, 33.0))
    rng = np.random.default_rng(0)
    for goal in navmesh.sample(rng, 12):
        starts, yaw = navmesh.sample(rng, 20_000), rng.uniform(-math.pi, math.pi, 20_000)
        ends, _ = navmesh.try_steps(starts, starts + 0.25 * np.stack([np.sin(yaw), 0 * yaw, np.cos(yaw)], axis=1))
        field = navmesh.distance_field(goal)
        change = np.abs(field.values(starts) - field.values(ends))
        assert (change - np.linalg.norm(starts - ends, axis=1)).max() < 0.02


def test_the_path_has_the_length_of_the_value_and_can_be_walked() -> None:
    navmesh = built(*room(0, 8, 0, 8), box(2, 6, 0, 2, 2, 8))
    field = navmesh.distance_field(at(7, 7))
    path = field.path(at(1, 7))
    assert path[0] == pytest.approx(at(1, 7))
    assert path[-1] == pytest.approx(at(7, 7))
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).sum() == pytest.approx(field.value(at(1, 7)), abs=1e-3)
    for a, b in itertools.pairwise(path):
        reached, _ = navmesh.try_step(a, b)
        assert reached == pytest.approx(b, abs=0.02)
    assert len(path) <= 10
    assert field.path(at(2.2, 2.05)).shape[1] == 3


def test_no_way_is_infinite_and_has_no_path() -> None:
    navmesh = built(*room(0, 8, 0, 4), wall(4, 0, 4, 4))
    field = navmesh.distance_field(at(1, 2))
    assert field.value(at(7, 2)) == math.inf
    assert field.path(at(7, 2)).shape == (0, 3)
    assert field.value(at(20, 20)) == math.inf
    assert navmesh.geodesic(at(1, 2), at(7, 2)) == math.inf
    assert navmesh.geodesic(at(1, 2), at(20, 20)) == math.inf


def test_goals_off_the_floor() -> None:
    navmesh = built(*room(0, 8, 0, 4), box(3, 6, 0, 1, 0.4, 3.6))
    with pytest.raises(EpisodeError, match=r"goal \(4\.50, 0\.00, 2\.00\) is not within 1 m"):
        navmesh.distance_field(at(4.5, 2.0))
    moved = navmesh.distance_field(at(3.2, 2.0))
    assert moved.goal == pytest.approx(at(2.9, 2), abs=0.01)
    assert moved.value(at(1.9, 2)) == pytest.approx(1.0, abs=0.01)
    assert navmesh.distance_field(at(1, 2, 0.2)).goal[1] == pytest.approx(0.0)


def test_lengths_on_slopes_and_across_storeys() -> None:
    slope = built(ramp(0, 4, 0, 4, 0, 2))
    assert slope.geodesic(at(1, 2, 0.5), at(3, 2, 1.5)) == pytest.approx(math.hypot(2, 1), rel=1e-3)
    navmesh = NavMesh.from_mesh(*two_storeys())
    value = navmesh.geodesic(at(1, 2), at(1, 2, 3))
    # up the ramp, around the edge between ramp and bridge, and back above the start
    climb = math.hypot(6, 3)
    assert 5 + climb + 11 - 0.8 < value < 5 + climb + 11 + 0.8
    assert navmesh.geodesic(at(1, 2), at(5, 2)) == pytest.approx(4.0, abs=1e-3)


def test_ledges_are_walked_around() -> None:
    pit = built(floor(0, 3, 0, 6), floor(5, 8, 0, 6), floor(3, 5, 0, 2))
    exact = taut((1, 5), (7, 5), (3, 2), (5, 2))
    assert pit.geodesic(at(1, 5), at(7, 5)) == pytest.approx(exact, rel=0.015)


def test_a_field_is_made_in_milliseconds() -> None:
    rng = np.random.default_rng(0)
    blocks = [box(x, x + 0.6, 0, 1, z, z + 0.4) for x, z in rng.uniform(0.5, 11, (30, 2))]
    walls = [wall(4, 0, 4, 5), wall(4, 6, 4, 12), wall(8, 0, 8, 8), wall(8, 9, 8, 12), wall(0, 7, 3, 7)]
    navmesh = built(*room(0, 12, 0, 12), *walls, *blocks)
    goals = navmesh.sample(rng, 12)
    navmesh.distance_field(goals[0])
    times = []
    for goal in goals:
        begin = time.process_time()
        navmesh.distance_field(goal)
        times.append(time.process_time() - begin)
    assert min(times) < 0.05, "several times what an idle machine needs"


def test_nothing_comes_nearer_than_the_radius() -> None:
    navmesh = built(*room(0, 8, 0, 8), box(2, 6, 0, 2, 2, 8))
    path = navmesh.distance_field(at(7, 7)).path(at(1, 7))
    assert min(navmesh.clearance(p) for p in path) > RADIUS - 1e-3
