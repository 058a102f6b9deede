"""Procedural buildings: same bytes for the same seed, sound plans, closed rooms, labels, textures, splits."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from ended_processes import has_ended
from sideagents_envs.buildings import GENERATOR_VERSION, make_building
from sideagents_envs.buildings.arrange import furnish
from sideagents_envs.buildings.dice import Dice
from sideagents_envs.buildings.generator import building_nodes
from sideagents_envs.buildings.glb import png_bytes
from sideagents_envs.buildings.layout import Plan, Rect, make_plan
from sideagents_envs.buildings.lighting import Light, bake
from sideagents_envs.buildings.solids import Paint, box, placed, revolve, round_slab, sphere, torus
from sideagents_envs.buildings.textures import FLOORS, WALLS, hsv
from sideagents_envs.config import CameraConfig, NavMeshConfig, ScenesConfig
from sideagents_envs.episodes import bundled
from sideagents_envs.episodes.bundled import BUNDLED_SPLITS, dataset_name, scenes_root
from sideagents_envs.errors import EnvsError, SceneError
from sideagents_envs.render.rays import Renderer
from sideagents_envs.scenes.scene import load_scene
from sideagents_envs.versions import LISTS_VERSION
from sideagents_envs.walk.navmesh import NavMesh

PAINT = Paint("smooth")
SEEDS = range(60)


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return [make_plan(Dice(GENERATOR_VERSION, seed)) for seed in SEEDS]


@pytest.fixture(scope="module")
def glb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("buildings") / "Testhouse.glb"
    make_building(3, path)
    return path


def document(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    length = struct.unpack("<I", data[12:16])[0]
    assert struct.unpack("<4sII", data[:12]) == (b"glTF", 2, len(data))
    content: dict[str, Any] = json.loads(data[20 : 20 + length])
    return content


def test_the_raw_stream_and_the_bytes_are_fixed(glb: Path, tmp_path: Path) -> None:
    # The first words of PCG64 seeded with [1, 2] are part of numpy's promise; a change would rename every building.
    assert Dice(1, 2).word() == int(np.random.PCG64([1, 2]).random_raw())
    again = tmp_path / "Testhouse.glb"
    code = (
        "import sys, pathlib; from sideagents_envs.buildings import make_building as m; m(3, pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(again)], check=True, env={"PYTHONHASHSEED": "7"})
    assert again.read_bytes() == glb.read_bytes()
    # The same on every machine and numpy: another digest means another GENERATOR_VERSION (then put the new one here).
    digest = "a9a61dde10761c46414adf5c5007310f5ea6ba0491b967b05f0c52937abb8dd0"
    assert (GENERATOR_VERSION, hashlib.sha256(glb.read_bytes()).hexdigest()) == (1, digest)
    make_building(4, tmp_path / "other.glb")
    assert (tmp_path / "other.glb").read_bytes() != glb.read_bytes()


def test_dice_stay_in_range_and_reach_every_value() -> None:
    dice = Dice(0)
    assert {dice.integer(3, 6) for _ in range(200)} == {3, 4, 5, 6}
    assert {dice.integer(10, 25, 5) for _ in range(200)} == {10, 15, 20, 25}
    assert sorted(dice.shuffled(range(9))) == list(range(9))
    grain = dice.grain(40, 50, 4)
    assert grain.shape == (40, 50)
    assert np.bincount(grain.ravel(), minlength=4).min() > 400  # 500 expected, standard deviation 19


def test_plans_have_four_to_eight_rooms_that_tile_the_footprint(plans: list[Plan]) -> None:
    for plan in plans:
        assert 4 <= len(plan.rooms) <= 8
        assert all(1100 <= side <= 1300 for side in plan.footprint.size)
        assert sum(room.cell.area for room in plan.rooms) == plan.footprint.area
        assert not any(a.cell.overlaps(b.cell) for a in plan.rooms for b in plan.rooms if a.index < b.index)
        assert 12 <= plan.wall <= 15
    counts = [len(p.rooms) for p in plans]
    assert min(counts) == 4
    assert max(counts) == 8
    corridors = [any(r.kind == "corridor" for r in p.rooms) for p in plans]
    loops = [len(p.doors) >= len(p.rooms) for p in plans]
    assert 0.2 < np.mean(corridors) < 0.8
    assert np.mean(loops) > 0.6


def test_doors_connect_every_room_and_keep_their_size(plans: list[Plan]) -> None:
    for plan in plans:
        reached = {0}
        for _ in plan.rooms:
            reached |= {room for door in plan.doors if set(door.rooms) & reached for room in door.rooms}
        assert reached == set(range(len(plan.rooms)))
        for door in plan.doors:
            assert 90 <= door.high - door.low <= 110
            for number in door.rooms:  # the opening lies within the wall of both rooms
                inner = plan.rooms[number].inner
                low, high = (inner.x0, inner.x1) if door.axis == "x" else (inner.z0, inner.z1)
                assert low + 20 <= door.low < door.high <= high - 20


def gap(a: Rect, b: Rect) -> float:
    return math.hypot(*a.gaps(b))


def test_furniture_leaves_doors_free_and_no_narrow_gaps(plans: list[Plan]) -> None:
    for seed, plan in enumerate(plans[:20]):
        dice = Dice(99, seed)
        for room in plan.rooms:
            footprints = furnish(dice, plan, room).footprints
            for k, a in enumerate(footprints):
                assert all(gap(a, b) >= 65 for b in footprints[:k])
                inner = room.inner
                for distance in (a.x0 - inner.x0, inner.x1 - a.x1, a.z0 - inner.z0, inner.z1 - a.z1):
                    assert distance == 0 or distance >= 65
                for door in room.doors:
                    x = (door.low, door.high) if door.axis == "x" else (door.line - 80, door.line + 80)
                    z = (door.low, door.high) if door.axis == "z" else (door.line - 80, door.line + 80)
                    assert not a.overlaps(Rect(x[0], z[0], x[1], z[1]))


@pytest.mark.parametrize(
    "parts",
    [
        box(0, 0, 0, 1, 2, 3, PAINT, bottom=True),
        [sphere(0.5, (0, 0, 0), PAINT, 12, 8)],
        [torus(1.0, 0.3, (0, 0, 0), PAINT)],
        round_slab(1.0, 0.0, 1.0, PAINT, inner=0.5, bottom=True),
    ],
    ids=["box", "sphere", "torus", "round_slab"],
)
def test_solids_are_closed_and_wound_outwards(parts: list[Any]) -> None:
    points = np.concatenate([p.points for p in parts])
    starts = np.cumsum([0] + [len(p.points) for p in parts])
    faces = np.concatenate([p.faces + s for p, s in zip(parts, starts, strict=False)])
    mesh = trimesh.Trimesh(np.round(points, 6), faces)
    mesh.merge_vertices(merge_norm=True, merge_tex=True)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0
    for part in parts:  # stored normals agree with the winding
        corner = part.points[part.faces]
        flat = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        assert ((flat[:, None] * part.normals[part.faces]).sum(-1) > 0).all()


def test_sizes_of_round_solids_have_their_hand_worked_values() -> None:
    side = revolve([(0.5, 0.0), (0.5, 2.0)], PAINT, 16)
    assert np.allclose(np.hypot(side.points[:, 0], side.points[:, 2]), 0.5)
    assert np.allclose(side.normals, side.points * (2, 0, 2))
    ball = sphere(0.5, (1, 2, 3), PAINT, 12, 8)
    assert np.allclose(np.linalg.norm(ball.points - (1, 2, 3), axis=1), 0.5)
    lying = revolve([(0.5, 0.0), (0.5, 2.0)], PAINT, 16, axis="x")
    assert np.allclose(np.hypot(lying.points[:, 1], lying.points[:, 2]), 0.5)
    assert lying.points[:, 0].min() == 0.0
    assert lying.points[:, 0].max() == 2.0


def test_placing_turns_counter_clockwise_from_above() -> None:
    from sideagents_envs.buildings.solids import Item

    item = Item("thing", box(1.0, 0.0, 0.0, 2.0, 1.0, 0.5, PAINT))
    turned = placed(item, 1, 10.0, 20.0)  # +x becomes -z, +z becomes +x
    points = np.concatenate([p.points for p in turned.parts])
    assert np.allclose(points.min(axis=0), (10.0, 0.0, 18.0))
    assert np.allclose(points.max(axis=0), (10.5, 1.0, 19.0))


def test_light_falls_off_and_corners_are_darker() -> None:
    room = Rect(-300, -300, 300, 300)
    light = Light((0.2, 0.2, 0.2), (0.0, 0.0, 0.0), [(0.0, 2.0, 0.0, 0.6, (1.0, 0.5, 0.0))], room)
    floor = revolve([(2.9, 0.0), (1.5, 0.0), (0.0, 0.0)], Paint("smooth", (1.0, 1.0, 0.5)), 4)
    colors = bake([floor], light).reshape(5, 3, 3)[0].astype(int)
    assert colors[2, 0] > colors[1, 0] > colors[0, 0]
    assert colors[2, 0] > colors[2, 1]  # the lamp is red
    glowing = revolve([(1.0, 0.0), (0.0, 0.0)], Paint("smooth", (0.2, 0.4, 0.6), 1.0), 4)
    assert (bake([glowing], light) == (51, 102, 153)).all()


@pytest.mark.parametrize("draw", WALLS + FLOORS)
def test_textures_are_palette_images_that_differ_by_seed(draw: Any) -> None:
    colors = [hsv(20, 50, 80), hsv(200, 50, 60), hsv(90, 30, 50)]
    first, second = draw(Dice(1), colors), draw(Dice(2), colors)
    image = np.array(Image.open(io.BytesIO(png_bytes(first))).convert("RGB"))
    assert image.shape == (64, 64, 3)
    assert (image == first.rgb).all()
    assert (first.index != second.index).any()


def test_a_building_is_what_any_gltf_reader_expects(glb: Path) -> None:
    loaded = trimesh.load(glb)
    faces = sum(len(g.faces) for g in loaded.geometry.values())
    assert 5_000 <= faces <= 9_000
    assert 150_000 <= glb.stat().st_size <= 620_000
    low, high = loaded.bounds
    assert low[1] == 0.0
    assert 2.5 < high[1] < 2.8
    content = document(glb)
    assert content["extensionsUsed"] == ["KHR_materials_unlit"]
    assert all("material" in p for m in content["meshes"] for p in m["primitives"])
    for node in content["nodes"]:
        assert set(node["extras"]) == {"category", "instance", "room"}
    keys = [(n["extras"]["category"], n["extras"]["instance"]) for n in content["nodes"]]
    assert len(set(keys)) == len(keys)
    config = json.loads(glb.with_name("Testhouse.stage_config.json").read_text())
    assert config == {"render_asset": "Testhouse.glb", "up": [0, 1, 0], "front": [0, 0, -1]}


def test_buildings_are_furnished_with_boxes_and_curved_solids() -> None:
    for seed in range(8):
        nodes, _, plan = building_nodes(seed)
        categories = [n.extras["category"] for n in nodes]
        assert 5_000 <= sum(len(f) for n in nodes for f in n.faces.values()) <= 9_000
        assert len(nodes) > 60
        assert categories.count("doorway") == len(plan.doors)
        assert {"floor", "wall", "ceiling", "roof", "lamp"} <= set(categories)
        assert len(set(categories) & {"column", "vase", "plant", "barrel", "pouf", "stove", "bar", "console"}) >= 2
        assert {n.extras["room"] for n in nodes} == {r.name for r in plan.rooms} | {"outside"}


def test_rooms_let_no_light_in_and_the_floor_is_one_walkable_island(glb: Path) -> None:
    scene = load_scene(glb)
    navmesh = NavMesh.from_mesh(scene.vertices, scene.faces, NavMeshConfig())
    assert navmesh.navigable_area > 60.0
    assert max(navmesh.island_areas) > 0.98 * sum(navmesh.island_areas)
    points = navmesh.sample(np.random.default_rng(0), 48)
    assert np.abs(points[:, 1]).max() < 0.2
    poses = np.column_stack([points, np.linspace(0, 6, 48)])
    camera = CameraConfig(width=64, height=64, hfov_deg=100.0)
    shown = Renderer(camera, scene).render(poses, ("semantic", "depth", "rgb"))
    assert (shown["depth"] > 0).all()  # every ray ends on something
    seen = {scene.objects[i].category for i in np.unique(shown["semantic"])}
    assert not seen & {"facade", "roof"}  # nobody looks through a wall
    assert shown["rgb"].std() > 25


def test_rooms_of_a_building_can_be_told_apart() -> None:
    for seed in range(8):
        _, made, plan = building_nodes(seed)
        looks = np.array(
            [[made[f"{part}_{r.index}"].rgb.mean(axis=(0, 1)) for part in ("wall", "floor")] for r in plan.rooms]
        ).reshape(len(plan.rooms), 6)
        apart = np.linalg.norm(looks[:, None] - looks[None], axis=-1)[np.triu_indices(len(looks), 1)]
        assert apart.min() > 20  # of 255 per channel, walls and floor together
        assert np.median(apart) > 60


def test_bundled_names_are_distinct_and_seeds_fixed() -> None:
    assert {k: len(v) for k, v in BUNDLED_SPLITS.items()} == {"train": 72, "val": 14, "test": 14}
    names = [name for split in BUNDLED_SPLITS.values() for name in split]
    assert len({n.lower() for n in names}) == 100
    assert bundled.building_seed(BUNDLED_SPLITS["train"][0]) == 0
    assert bundled.building_seed(BUNDLED_SPLITS["test"][-1]) == 99
    with pytest.raises(SceneError, match="did you mean 'Amberbrook'"):
        bundled.building_seed("Amberbrok")


def test_missing_buildings_are_made_once_and_held_out_episodes_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from sideagents_envs.episodes.files import read_episodes

    monkeypatch.setenv("SIDEAGENTS_CACHE", str(tmp_path))
    monkeypatch.setattr(bundled, "EPISODES_PER_BUILDING", 3)
    monkeypatch.setattr(bundled, "BUNDLED_SPLITS", {k: v[:2] for k, v in BUNDLED_SPLITS.items()})
    root = bundled.ensure_bundled(("train", "val"))
    assert root == tmp_path / f"buildings-v{GENERATOR_VERSION}"
    assert "making buildings" in capfd.readouterr().err
    files = {p.relative_to(root).as_posix(): p.stat().st_mtime_ns for p in root.rglob("*.*") if p.is_file()}
    first, second = BUNDLED_SPLITS["val"][:2]
    versions = f"episodes-v{LISTS_VERSION}"
    assert {f"val/{first}.glb", f"val/{first}.stage_config.json", f"{versions}/val.json.gz"} <= set(files)
    assert bundled.episodes_file("val") == root / versions / "val.json.gz"
    episodes = read_episodes(root / versions / "val.json.gz")
    # the list visits its buildings in turn; each building's episodes are numbered on from those of the one before
    assert [e.episode_id for e in episodes] == list("031425")
    assert [e.scene_id for e in episodes] == [f"val/{first}.glb", f"val/{second}.glb"] * 3
    (root / "train" / f"{BUNDLED_SPLITS['train'][1]}.glb").unlink()
    bundled.ensure_bundled(("train", "val"), progress=False)
    assert capfd.readouterr().err == ""
    again = {p.relative_to(root).as_posix(): p.stat().st_mtime_ns for p in root.rglob("*.*") if p.is_file()}
    changed = {k for k in files if files[k] != again[k]}
    assert changed == {f"train/{BUNDLED_SPLITS['train'][1]}.{end}" for end in ("glb", "stage_config.json")}


PARENT = """
import sys, time
from sideagents_envs.episodes import bundled
with bundled._helper([("train", name) for name in bundled.BUNDLED_SPLITS["train"]]) as pid:
    print(pid, flush=True)
    time.sleep(60)
"""


def test_the_second_process_ends_when_the_first_is_killed(tmp_path: Path) -> None:
    environment = os.environ | {"SIDEAGENTS_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        helper = int(parent.stdout.readline())
        end = time.monotonic() + 30
        while not list(tmp_path.rglob("*.glb")) and time.monotonic() < end:
            time.sleep(0.05)
        assert not has_ended(helper)  # at work, and far from done
        parent.kill()
    end = time.monotonic() + 10
    while not has_ended(helper) and time.monotonic() < end:
        time.sleep(0.05)
    assert has_ended(helper)


def test_two_processes_make_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDEAGENTS_CACHE", str(tmp_path))
    monkeypatch.setattr(bundled, "BUNDLED_SPLITS", {"train": BUNDLED_SPLITS["train"][:9], "val": (), "test": ()})
    few = scenes_root(ScenesConfig(buildings=1), "train", progress=False)
    assert sorted(p.stem for p in few[0].parent.glob("*.glb")) == [BUNDLED_SPLITS["train"][0]]  # no more than is asked
    paths = scenes_root(ScenesConfig(), "train", progress=False)
    assert [p.stem for p in paths] == list(BUNDLED_SPLITS["train"][:9])
    made = sorted((tmp_path / f"buildings-v{GENERATOR_VERSION}" / "train").iterdir())
    assert len(made) == 18  # nothing temporary is left
    make_building(8, tmp_path / "alone.glb")
    last = tmp_path / f"buildings-v{GENERATOR_VERSION}" / "train" / f"{BUNDLED_SPLITS['train'][8]}.glb"
    # Only the name of the file differs between the two, and it does not stand in the file.
    assert last.read_bytes() == (tmp_path / "alone.glb").read_bytes()


def test_a_folder_of_buildings_and_its_errors(glb: Path, tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    for name in ("b.glb", "a.glb"):
        (tmp_path / "val" / name).write_bytes(glb.read_bytes())
    found = scenes_root(ScenesConfig(dataset=str(tmp_path)), "val")
    assert [p.name for p in found] == ["a.glb", "b.glb"]
    with pytest.raises(SceneError, match=r"train: no \.glb buildings"):
        scenes_root(ScenesConfig(dataset=str(tmp_path)), "train")
    with pytest.raises(EnvsError, match="no split 'vall', did you mean 'val'"):
        scenes_root(ScenesConfig(), "vall")


def test_results_name_their_buildings(tmp_path: Path) -> None:
    assert dataset_name(ScenesConfig()) == f"bundled-v{GENERATOR_VERSION}"
    assert dataset_name(ScenesConfig(dataset=f"{tmp_path}/houses/.")) == "houses"
