import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from mesh_shapes import box, join, room, shared_scene, two_storeys, wall
from sideagents_envs.config import TaskConfig
from sideagents_envs.walk.expert import FORWARD, LEFT, RIGHT, STOP, expert_action
from sideagents_envs.walk.navmesh import NavMesh

TASK = TaskConfig()
EXPLICIT = TaskConfig(stop="explicit")


@dataclass
class Walk:
    """What came of one episode."""

    success: bool
    spl: float
    collisions: int
    actions: list[int]


@pytest.fixture(scope="module")
def flat() -> NavMesh:
    """Four rooms with narrow doors, blocks and a slanting wall."""
    walls = [wall(5, 0, 5, 2), wall(5, 2.9, 5, 6.5), wall(5, 7.2, 5, 9), wall(0, 4.5, 2, 4.5), wall(2.8, 4.5, 7, 4.5)]
    blocks = [box(1, 2, 0, 1, 1, 1.6), box(6.5, 8, 0, 1, 1, 3), box(7, 7.4, 0, 1, 5.5, 8), wall(1, 6, 3.5, 8)]
    return NavMesh.from_mesh(*join(*room(0, 10, 0, 9), *walls, *blocks))


def follow(navmesh: NavMesh, start, goal, yaw: float, task: TaskConfig = TASK) -> Walk:
    field = navmesh.distance_field(goal)
    shortest = field.value(start)
    place, length, collisions, actions = np.array(start, float), 0.0, 0, []
    turn = math.radians(task.turn_deg)
    for _ in range(task.max_steps):
        if task.stop == "auto" and field.value(place) <= task.success_distance_m:
            break
        action = expert_action(navmesh, field, (*place, yaw), task)
        actions.append(action)
        if action == STOP:
            break
        if action == FORWARD:
            ahead = place + task.forward_m * np.array([-math.sin(yaw), 0, -math.cos(yaw)])
            reached, collided = navmesh.try_step(place, ahead, task.allow_sliding)
            length += float(np.linalg.norm(reached - place))
            collisions += collided
            place = reached
        else:
            yaw += turn if action == LEFT else -turn
    stopped = task.stop == "auto" or actions[-1] == STOP
    success = stopped and field.value(place) <= task.success_distance_m
    return Walk(success, success * shortest / max(length, shortest, 1e-9), collisions, actions)


def episodes(navmesh: NavMesh, count: int, seed: int):
    rng = np.random.default_rng(seed)
    while count:
        start, goal = navmesh.sample(rng, 2)
        if 1.0 < navmesh.geodesic(start, goal) < math.inf:
            count -= 1
            yield start, goal, float(rng.uniform(-math.pi, math.pi))


def test_single_choices() -> None:
    navmesh = NavMesh.from_mesh(*join(*room(-4, 4, -4, 4)))
    field = navmesh.distance_field((0, 0, -3))
    assert expert_action(navmesh, field, (0, 0, 0, 0.0), TASK) == FORWARD
    assert expert_action(navmesh, field, (0, 0, 0, math.radians(-40)), TASK) == LEFT
    assert expert_action(navmesh, field, (0, 0, 0, math.radians(40)), TASK) == RIGHT
    assert expert_action(navmesh, field, (0, 0, 0, math.radians(360 + 40)), TASK) == RIGHT
    assert expert_action(navmesh, field, (0, 0, -2.9, 0.0), EXPLICIT) == STOP
    assert expert_action(navmesh, field, (0, 0, -2.9, 0.0), TASK) != STOP
    assert expert_action(navmesh, field, (0, 0, -2.75, 0.0), EXPLICIT) == FORWARD
    # The task asks for less than the success distance, so the expert does not stop at just that.
    exactly = replace(EXPLICIT, success_distance_m=field.value((0, 0, -2.75)))
    assert expert_action(navmesh, field, (0, 0, -2.75, 0.0), exactly) == FORWARD


def test_it_goes_around_and_not_straight_at_the_goal() -> None:
    navmesh = NavMesh.from_mesh(*join(*room(0, 8, 0, 8), wall(4, 0, 4, 6)))
    field = navmesh.distance_field((6, 0, 1))
    facing_the_goal = -math.pi / 2
    assert expert_action(navmesh, field, (3.5, 0, 1, facing_the_goal), TASK) == RIGHT
    assert expert_action(navmesh, field, (3.5, 0, 1, math.pi), TASK) == FORWARD


@pytest.mark.parametrize("task", [TASK, EXPLICIT, TaskConfig(allow_sliding=False), TaskConfig(turn_deg=30.0)], ids=str)
def test_it_always_arrives_on_nearly_the_shortest_way(flat: NavMesh, task: TaskConfig) -> None:
    walks = [follow(flat, *episode, task) for episode in episodes(flat, 40, 0)]
    assert all(w.success for w in walks)
    assert np.mean([w.spl for w in walks]) > (0.97 if task.turn_deg == 10 else 0.93)
    assert np.mean([w.collisions for w in walks]) <= (0.05 if task.turn_deg == 10 else 0.2)


def test_it_never_swings_between_two_headings(flat: NavMesh) -> None:
    for episode in episodes(flat, 20, 1):
        actions = follow(flat, *episode).actions
        assert not any({a, b} == {LEFT, RIGHT} for a, b in itertools.pairwise(actions))


def test_it_is_deterministic(flat: NavMesh) -> None:
    for episode in episodes(flat, 3, 2):
        assert follow(flat, *episode).actions == follow(flat, *episode).actions


def test_it_climbs_to_another_storey() -> None:
    navmesh = NavMesh.from_mesh(*two_storeys())
    walk = follow(navmesh, (1, 0, 2), (1, 3, 2), 0.0)
    assert walk.success
    assert walk.spl > 0.95


def test_no_way_gives_an_action_all_the_same() -> None:
    navmesh = NavMesh.from_mesh(*join(*room(0, 8, 0, 4), wall(4, 0, 4, 4)))
    field = navmesh.distance_field((1, 0, 2))
    assert expert_action(navmesh, field, (6, 0, 2, 0.0), TASK) in (FORWARD, LEFT, RIGHT)


def test_it_finds_its_way_in_a_furnished_house() -> None:
    import trimesh

    mesh = trimesh.load(shared_scene("small_house/small_house.glb"), force="scene").to_geometry()
    navmesh = NavMesh.from_mesh(mesh.vertices, mesh.faces)
    walks = [follow(navmesh, *episode) for episode in episodes(navmesh, 30, 0)]
    assert all(w.success for w in walks)
    assert np.mean([w.spl for w in walks]) > 0.97
