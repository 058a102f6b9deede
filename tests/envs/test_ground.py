"""What is written lies on the floor: exact heights where the walkable space knows one for a cell."""

from __future__ import annotations

import numpy as np
import pytest

from glb import box, quad, write_glb
from mesh_shapes import shared_scene
from sideagents_envs.buildings import make_building
from sideagents_envs.episodes.files import generate_episodes, place
from sideagents_envs.episodes.ground import OFF_M, Ground, on_ground
from sideagents_envs.scenes.scene import load_scene
from sideagents_envs.walk.navmesh import cached_navmesh


@pytest.fixture
def stepped(tmp_path):
    """A floor with a low platform whose edge runs through a cell, and a ceiling."""
    floor = quad([-3, 0, 3], [3, 0, 3], [3, 0, -3], [-3, 0, -3])
    ceiling = quad([-3, 2.5, 3], [3, 2.5, 3], [3, 2.5, -3], [-3, 2.5, -3])
    return write_glb(tmp_path / "stepped.glb", [floor, ceiling, box([0.012, 0, -3], [3, 0.15, 3])])


def test_heights_above_and_below_a_point(stepped):
    ground = Ground(load_scene(stepped))
    assert sorted(ground.heights(-1.0, 0.3)) == pytest.approx([0.0, 2.5])
    assert sorted(set(ground.heights(1.0, 0.3).round(6))) == pytest.approx([0.0, 0.15, 2.5])
    assert ground.heights(9.0, 0.0).size == 0


def test_points_are_put_on_the_surface_next_to_them(stepped):
    ground = Ground(load_scene(stepped))
    np.testing.assert_allclose(ground.settled(np.array([-0.01, 0.13, 1.0])), [-0.01, 0.0, 1.0])
    np.testing.assert_allclose(ground.settled(np.array([0.02, 0.1, 1.0])), [0.02, 0.15, 1.0])
    for stays in ([-1.0, 0.009, 1.0], [-1.0, 1.2, 1.0], [9.0, 0.0, 9.0]):  # near enough, too far, over nothing
        np.testing.assert_array_equal(ground.settled(np.array(stays)), stays)


def off(scene, episodes):
    """How far starts and goals are from the nearest surface right above or below them."""
    ground = Ground(scene)
    points = [point for episode in episodes for point in (episode.start_position, episode.goal)]
    return np.array([np.abs(ground.heights(x, z) - y).min() for x, y, z in points])


def test_episodes_at_a_step_are_written_on_the_floor(stepped):
    navmesh, scene = cached_navmesh(stepped), load_scene(stepped)
    drawn = generate_episodes(navmesh, stepped.name, 300, seed=0)
    assert off(scene, drawn).max() > 0.05
    written = on_ground(drawn, scene)
    assert off(scene, written).max() <= OFF_M
    for before, after in zip(drawn, written, strict=True):
        pose, goal = place(navmesh, after, "F")  # the walkable space takes them back to where they were drawn
        np.testing.assert_allclose(pose[:3], before.start_position)
        np.testing.assert_allclose(goal, before.goal)


@pytest.mark.parametrize("name", ["bookstore", "cafe", "pal_home", "small_house", "small_warehouse", "tb3_house"])
def test_buildings_of_others(name):
    path = shared_scene(f"{name}/{name}.glb")
    scene, navmesh = load_scene(path), cached_navmesh(path)
    drawn = generate_episodes(navmesh, path.name, 40, seed=7)
    written = on_ground(drawn, scene)
    if name == "small_warehouse":  # a goal at the edge of a pallet
        assert off(scene, drawn).max() > 0.1
    assert off(scene, written).max() <= OFF_M
    for episode in written:
        place(navmesh, episode, name)


def test_bundled_episodes_are_on_the_floor_as_they_are_drawn(tmp_path):
    make_building(5, tmp_path / "House.glb")
    scene = load_scene(tmp_path / "House.glb")
    drawn = generate_episodes(cached_navmesh(tmp_path / "House.glb"), "val/House.glb", 71, seed=5)
    assert off(scene, drawn).max() <= OFF_M
    written = on_ground(drawn, scene)
    assert [episode.to_json() for episode in written] == [episode.to_json() for episode in drawn]
