import json
import math

import numpy as np
import pytest
import trimesh
from PIL import Image

from mesh_shapes import RADIUS, box, floor, join, quad, ramp, room, rotation, shared_scene, turned, two_storeys, wall
from sideagents_envs.config import NavMeshConfig
from sideagents_envs.errors import EnvsError, SceneError
from sideagents_envs.walk.navmesh import NavMesh, cached_navmesh


@pytest.fixture(scope="module")
def hall() -> NavMesh:
    """A room of 6 x 4 m with a table-high block in it."""
    return NavMesh.from_mesh(*join(*room(0, 6, 0, 4), box(2, 3, 0, 1, 1.5, 2.5)))


def walk(navmesh: NavMesh, start, end, sliding=True, stride=0.25):
    """Walk towards a point in strides as long as they bring the agent nearer; return where it ends."""
    here, end = np.array(start, float), np.array(end, float)
    for _ in range(400):
        way = (end - here) * [1, 0, 1]
        left = float(np.linalg.norm(way))
        if left < 1e-6:
            break
        there, _ = navmesh.try_step(here, here + way * min(1.0, stride / left), sliding)
        if np.linalg.norm((end - there)[[0, 2]]) > left - 1e-4:
            break
        here = there
    return here


def test_area_of_a_room_with_a_block(hall: NavMesh) -> None:
    exact = (6 - 2 * RADIUS) * (4 - 2 * RADIUS) - (1 + 4 * RADIUS + math.pi * RADIUS**2)
    assert hall.navigable_area == pytest.approx(exact, rel=5e-3)
    assert hall.island_areas == (hall.navigable_area,)
    assert hall.floor_heights == pytest.approx((0.0,), abs=1e-6)
    assert hall.bounds == pytest.approx(np.array([[0.1, 0, 0.1], [5.9, 0, 3.9]]), abs=0.06)


@pytest.mark.parametrize("degrees", [0.0, 17.0, 30.0, 45.0])
def test_walls_keep_their_place_at_any_angle(degrees: float) -> None:
    navmesh = NavMesh.from_mesh(*turned(join(*room(-3, 3, -2, 2)), degrees))
    assert navmesh.navigable_area == pytest.approx(5.8 * 3.8, rel=0.01)
    for local in ([2.5, 0, 1.2], [-1.0, 0, 1.5], [0, 0, -1.7], [-2.7, 0, 0.5]):
        exact = min(3 - abs(local[0]), 2 - abs(local[2]))
        assert navmesh.clearance(rotation(degrees) @ local) == pytest.approx(exact, abs=0.01)


def test_free_and_blocked_points(hall: NavMesh) -> None:
    assert hall.is_navigable((1, 0, 2))
    assert hall.is_navigable((1, 0.4, 2)), "within half a metre of the floor"
    assert not hall.is_navigable((1, 0.6, 2))
    assert not hall.is_navigable((2.5, 0, 2)), "inside the block"
    assert not hall.is_navigable((2.5, 1, 2)), "on top of the block"
    assert not hall.is_navigable((1.92, 0, 2)), "nearer than the radius"
    assert hall.is_navigable((1.88, 0, 2))
    assert not hall.is_navigable((-3, 0, 2))
    assert not hall.is_navigable((float("nan"), 0, 2))


@pytest.mark.parametrize("degrees", [5, 20, 45, 70, 85])
@pytest.mark.parametrize("tilt", [0.0, 30.0, 45.0])
def test_sliding_keeps_the_part_of_the_motion_along_the_wall(degrees: float, tilt: float) -> None:
    navmesh = NavMesh.from_mesh(*turned(join(*room(-3, 3, -2, 2)), tilt))
    turn = rotation(tilt)
    start = np.array([-1.0, 0, 2 - RADIUS - 0.001])
    angle = math.radians(degrees)
    way = 0.25 * np.array([math.cos(angle), 0, math.sin(angle)])
    end, collided = navmesh.try_step(turn @ start, turn @ (start + way))
    moved = turn.T @ end - start
    assert collided
    assert moved[0] == pytest.approx(0.25 * math.cos(angle), abs=0.006)
    assert moved[2] == pytest.approx(0.0, abs=0.006)
    stopped, collided = navmesh.try_step(turn @ start, turn @ (start + way), allow_sliding=False)
    assert collided
    assert np.linalg.norm(stopped - turn @ start) < 0.02 / math.sin(angle)


def test_free_motion_is_exact_and_reports_no_collision(hall: NavMesh) -> None:
    for sliding in (True, False):
        end, collided = hall.try_step((1, 0, 1), (1.2, 7.0, 0.9), sliding)
        assert end == pytest.approx((1.2, 0, 0.9), abs=1e-9)
        assert not collided
    still, collided = hall.try_step((1, 0, 1), (1, 0, 1))
    assert still == pytest.approx((1, 0, 1))
    assert not collided


def test_without_sliding_the_walk_ends_at_first_contact(hall: NavMesh) -> None:
    end, collided = hall.try_step((1.7, 0, 2), (2.2, 0, 2.1), allow_sliding=False)
    assert collided
    assert end == pytest.approx((1.9, 0, 2.04), abs=0.003)


def test_corners_hold_and_give_way(hall: NavMesh) -> None:
    inner, collided = hall.try_step((0.5, 0, 0.5), (-1.0, 0, -1.5))
    assert collided
    assert inner == pytest.approx((RADIUS, 0, RADIUS), abs=0.02)
    # along the block's side and past its end: straight on, no longer pushed
    past, _ = hall.try_step((2.9, 0, 1.4 - 0.001), (3.6, 0, 1.5))
    assert past[0] == pytest.approx(3.6, abs=0.02)


def test_a_start_off_the_floor_goes_nowhere(hall: NavMesh) -> None:
    end, collided = hall.try_step((9, 0, 9), (9.2, 0, 9))
    assert collided
    assert end == pytest.approx((9, 0, 9))


@pytest.mark.parametrize("angle", [0.0, 10.0, 45.0, 80.0])
def test_walls_of_no_thickness_are_never_crossed(angle: float) -> None:
    across = rotation(angle)
    ends = across @ np.array([[-4, 0, 0], [4, 0, 0]]).T
    navmesh = NavMesh.from_mesh(*join(floor(-3, 3, -3, 3), wall(ends[0, 0], ends[2, 0], ends[0, 1], ends[2, 1])))
    assert len(navmesh.island_areas) == 2
    points = navmesh.sample(np.random.default_rng(0), 1500)
    aims = points + np.random.default_rng(1).normal(size=points.shape) * 1.5
    reached, _ = navmesh.try_steps(points, aims)
    sides = np.sign((points @ across)[:, 2]), np.sign((reached @ across)[:, 2])
    assert (sides[0] == sides[1]).all()
    assert all(navmesh.is_navigable(p) for p in reached)


def test_batch_equals_single_steps(hall: NavMesh) -> None:
    points = hall.sample(np.random.default_rng(3), 50)
    aims = points + np.random.default_rng(4).normal(size=points.shape)
    many, hits = hall.try_steps(points, aims)
    for i in range(50):
        one, hit = hall.try_step(points[i], aims[i])
        assert (one == many[i]).all()
        assert hit == hits[i]


@pytest.mark.parametrize(("rise", "passes"), [(0.05, True), (0.15, True), (0.2, True), (0.3, False)])
def test_steps_up_to_the_climb(rise: float, passes: bool) -> None:
    navmesh = NavMesh.from_mesh(*join(floor(0, 3, 0, 3), box(3, 6, -1, rise, 0, 3)))
    end = walk(navmesh, (1, 0, 1.5), (5, 0, 1.5))
    assert (end[0] > 4.9) == passes
    assert end[1] == pytest.approx(rise if passes else 0.0, abs=1e-5)
    assert (len(navmesh.island_areas) == 1) == passes
    assert math.isfinite(navmesh.geodesic((1, 0, 1.5), (5, rise, 1.5))) == passes


@pytest.mark.parametrize(("slope", "passes"), [(20, True), (40, True), (50, False), (70, False)])
def test_slopes_up_to_45_degrees(slope: float, passes: bool) -> None:
    top = 2 * math.tan(math.radians(slope))
    navmesh = NavMesh.from_mesh(*join(floor(0, 3, 0, 3), ramp(3, 5, 0, 3, 0, top), floor(5, 9, 0, 3, top)))
    end = walk(navmesh, (1, 0, 1.5), (8, 0, 1.5))
    assert (end[0] > 7.9) == passes
    if passes:
        half_way, _ = navmesh.try_step(walk(navmesh, (1, 0, 1.5), (4, 0, 1.5)), (4, 0, 1.5))
        assert half_way[1] == pytest.approx(top / 2, abs=0.01)


def test_storeys_above_each_other() -> None:
    navmesh = NavMesh.from_mesh(*two_storeys())
    assert navmesh.floor_heights == pytest.approx((0, 3), abs=0.01)
    assert len(navmesh.island_areas) == 1
    assert navmesh.island((1, 0, 1)) == navmesh.island((1, 3, 1)) == 0
    assert not navmesh.is_navigable((1, 1.5, 1))
    here = np.array([3.0, 0, 1])
    for corner in ((12.8, 0, 1), (12.8, 0, 3), (1, 0, 3)):
        here = walk(navmesh, here, corner)
        assert here[[0, 2]] == pytest.approx((corner[0], corner[2]), abs=1e-3)
    assert here[1] == pytest.approx(3.0, abs=1e-5)
    fell, collided = navmesh.try_step((6, 3, 3), (6, 3, 1.0))
    assert fell[1] == pytest.approx(3.0), "no walking off a ledge"
    assert not collided or fell[2] > 0.1


def test_stairs_are_climbed() -> None:
    flight = [box(3 + 0.3 * i, 3.3 + 0.3 * i, -1, 0.18 * (i + 1), 0, 2) for i in range(10)]
    navmesh = NavMesh.from_mesh(*join(floor(0, 3, 0, 2), *flight, floor(6, 9, 0, 2, 1.8)))
    assert len(navmesh.island_areas) == 1
    end = walk(navmesh, (1, 0, 1), (8, 0, 1))
    assert end == pytest.approx((8, 1.8, 1), abs=1e-3)


def test_tables_shelves_and_roofs_are_no_floor() -> None:
    table = box(1, 4, 0.7, 0.75, 1, 3)
    high = box(6, 8, 1.7, 1.75, 1, 3)
    navmesh = NavMesh.from_mesh(
        *join(*room(0, 10, 0, 8), table, high, floor(0, 10, 0, 8, 2.5), floor(0, 10, 0, 8, 2.7))
    )
    assert navmesh.floor_heights == pytest.approx((0.0,), abs=1e-6)
    assert len(navmesh.island_areas) == 1
    assert not navmesh.is_navigable((2.5, 0.75, 2)), "on the table"
    assert not navmesh.is_navigable((2.5, 0, 2)), "under the table"
    assert navmesh.is_navigable((7, 0, 2)), "under the high shelf"
    assert not navmesh.is_navigable((5, 2.7, 4)), "on the roof"
    big_table = join(*room(0, 5, 0, 5), box(1, 4, 0.7, 0.75, 1, 4))
    assert NavMesh.from_mesh(*big_table).floor_heights == pytest.approx((0.0,), abs=1e-6)


def test_a_gap_narrower_than_the_agent_is_closed() -> None:
    for width, islands in ((0.17, 2), (0.26, 1)):
        half = width / 2
        parts = [*room(0, 6, 0, 4), wall(3, 0, 3, 2 - half), wall(3, 2 + half, 3, 4)]
        navmesh = NavMesh.from_mesh(*join(*parts))
        assert len(navmesh.island_areas) == islands
        assert math.isfinite(navmesh.geodesic((1, 0, 2), (5, 0, 2))) == (islands == 1)
        assert (walk(navmesh, (1, 0, 2.0), (5, 0, 2.0))[0] > 4.9) == (islands == 1)


def test_winding_does_not_matter() -> None:
    vertices, faces = join(*room(0, 6, 0, 4))
    flipped = NavMesh.from_mesh(vertices, faces[:, ::-1])
    assert flipped.navigable_area == NavMesh.from_mesh(vertices, faces).navigable_area


def test_samples_are_uniform_navigable_and_repeatable(hall: NavMesh) -> None:
    points = hall.sample(np.random.default_rng(5), 4000)
    assert points.shape == (4000, 3)
    assert all(hall.is_navigable(p) for p in points)
    assert (points == hall.sample(np.random.default_rng(5), 4000)).all()
    inside = ((points[:, 0] > 3.5) & (points[:, 0] < 5.5) & (points[:, 2] > 0.5) & (points[:, 2] < 3.5)).mean()
    assert inside == pytest.approx(6 / hall.navigable_area, abs=0.03)
    assert hall.sample(np.random.default_rng(5), 0).shape == (0, 3)


def test_snap_goes_to_the_nearest_free_point(hall: NavMesh) -> None:
    assert hall.snap((1, 0, 2)) == pytest.approx((1, 0, 2))
    assert hall.snap((1, 0.3, 2)) == pytest.approx((1, 0, 2))
    assert hall.snap((2.1, 0, 2)) == pytest.approx((1.9, 0, 2), abs=0.01)
    assert hall.snap((6.4, 0, 2)) == pytest.approx((5.9, 0, 2), abs=0.01)
    assert hall.is_navigable(hall.snap((6.4, 0, 2)))
    assert np.isnan(hall.snap((8, 0, 2))).all()
    assert np.isnan(hall.snap((float("nan"), 0, 2))).all()


def test_topdown_image(hall: NavMesh) -> None:
    image, (x0, z0) = hall.topdown(0.1, 0.0)
    assert image.sum() * 0.01 == pytest.approx(hall.navigable_area, rel=0.03)
    for x, z in ((1, 2), (2.5, 2), (5.5, 0.5)):
        assert image[int((z - z0) / 0.1), int((x - x0) / 0.1)] == hall.is_navigable((x, 0, z))
    assert not hall.topdown(0.1, 3.0)[0].any()


def test_making_is_deterministic_and_saving_keeps_all(hall: NavMesh, tmp_path) -> None:
    again = NavMesh.from_mesh(*join(*room(0, 6, 0, 4), box(2, 3, 0, 1, 1.5, 2.5)))
    hall.save(tmp_path / "a.npz")
    loaded = NavMesh.load(tmp_path / "a.npz")
    for other in (again, loaded):
        for mine, theirs in zip(hall.grid, other.grid, strict=True):
            assert np.array_equal(mine, theirs)
        assert other.config == hall.config
        assert (hall.sample(np.random.default_rng(0), 9) == other.sample(np.random.default_rng(0), 9)).all()
    assert loaded.island_areas == hall.island_areas
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_damaged_files_are_refused(tmp_path, hall: NavMesh) -> None:
    path = tmp_path / "bad.npz"
    for content in (b"", b"PK\x03\x04 nothing"):
        path.write_bytes(content)
        with pytest.raises(SceneError, match=r"bad\.npz: not a readable navmesh"):
            NavMesh.load(path)
    hall.save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SceneError, match="not a readable navmesh"):
        NavMesh.load(path)
    np.savez(path, meta=np.frombuffer(b'{"version": 0}', np.uint8))
    with pytest.raises(SceneError, match="version 0"):
        NavMesh.load(path)


def test_unusable_meshes_are_named() -> None:
    vertices, faces = join(*room(0, 6, 0, 4))
    with pytest.raises(SceneError, match="no triangles"):
        NavMesh.from_mesh(vertices, faces[:0])
    with pytest.raises(SceneError, match="non-finite"):
        NavMesh.from_mesh(np.where(vertices > 5, np.nan, vertices), faces)
    with pytest.raises(SceneError, match="out of range"):
        NavMesh.from_mesh(vertices[:-1], faces)
    with pytest.raises(SceneError, match="glTF is in metres"):
        NavMesh.from_mesh(vertices * 1000, faces)
    with pytest.raises(SceneError, match="no walkable floor"):
        NavMesh.from_mesh(*wall(0, 0, 3, 3))
    with pytest.raises(EnvsError, match=r"agent_radius_m \(0\.02\) must be at least cell_m"):
        NavMeshConfig(agent_radius_m=0.02)
    with pytest.raises(EnvsError, match=r"agent_height_m \(0\.3\) must exceed twice max_climb_m"):
        NavMeshConfig(agent_height_m=0.3)


def test_cache_is_used_and_mended(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SIDEAGENTS_CACHE", str(tmp_path / "cache"))
    vertices, faces = join(*room(0, 6, 0, 4))
    scene = tmp_path / "room.glb"
    trimesh.Trimesh(vertices, faces, process=False).export(scene)
    first = cached_navmesh(scene)
    (stored,) = (tmp_path / "cache").rglob("*.npz")
    assert cached_navmesh(scene).island_areas == first.island_areas
    stored.write_bytes(b"broken")
    assert cached_navmesh(scene).island_areas == first.island_areas
    wider = cached_navmesh(scene, NavMeshConfig(agent_radius_m=0.3))
    assert wider.navigable_area < first.navigable_area
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 2
    trimesh.Trimesh(*quad((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)), process=False).export(scene)
    with pytest.raises(SceneError, match=r"room\.glb: no walkable floor"):
        cached_navmesh(scene)


@pytest.mark.parametrize(("name", "area"), [("small_house", 126.6), ("small_warehouse", 184.3)])
def test_furnished_buildings_agree_with_their_reference_grids(name: str, area: float) -> None:
    mesh = trimesh.load(shared_scene(f"{name}/{name}.glb"), force="scene").to_geometry()
    navmesh = NavMesh.from_mesh(mesh.vertices, mesh.faces, NavMeshConfig(agent_radius_m=0.18))
    meta = json.loads(shared_scene(f"{name}/{name}_topdown.json").read_text())
    reference = np.asarray(Image.open(shared_scene(f"{name}/{name}_topdown.png"))) == 255
    assert navmesh.navigable_area == pytest.approx(area, rel=0.02)
    rows, columns = np.indices(reference.shape)
    x = meta["origin_x"] + (columns + 0.5) * meta["resolution"]
    z = meta["origin_z"] + (rows + 0.5) * meta["resolution"]
    mine = np.array([navmesh.is_navigable((a, 0.0, b)) for a, b in zip(x.ravel(), z.ravel(), strict=True)])
    both = mine & reference.ravel()
    assert both.sum() / (mine | reference.ravel()).sum() > 0.97


def test_surfaces_that_lie_upon_each_other_over_and_over_are_refused_at_once():
    vertices, faces = quad((0, 0, 0), (0, 0, 100), (100, 0, 100), (100, 0, 0))
    with pytest.raises(SceneError, match="covers 120,000,000 cells one above the other"):
        NavMesh.from_mesh(vertices, np.tile(faces, (30, 1)))
