"""What `scenes check` says of good, oversized, turned, open and empty buildings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from glb import Part, box, quad, write_glb
from mesh_shapes import shared_scene
from sideagents_envs.episodes.inspection import inspect_building, require_upright
from sideagents_envs.errors import SceneError
from sideagents_envs.scenes.scene import load_scene
from sideagents_envs.scenes.stage import SUFFIX
from sideagents_policies.cli.main import main
from small_agent import save_home


def home(path: Path, matrix: np.ndarray | None = None, ceiling: bool = True, scale: float = 1.0) -> Path:
    """Write a closed room of 6 x 6 m, scaled, or turned by a matrix."""
    parts = [
        quad([-3, 0, 3], [3, 0, 3], [3, 0, -3], [-3, 0, -3]),
        box([-3.1, 0, -3], [-3, 2.5, 3]),
        box([3, 0, -3], [3.1, 2.5, 3]),
        box([-3, 0, -3.1], [3, 2.5, -3]),
        box([-3, 0, 3], [3, 2.5, 3.1]),
        box([-3, 0, -0.05], [0.5, 2.5, 0.05]),
    ]
    if ceiling:
        parts.append(box([-3, 2.5, -3], [3, 2.6, 3]))
    turned = [
        Part((np.array(p.vertices) * scale) @ (np.eye(3) if matrix is None else matrix).T, p.faces) for p in parts
    ]
    return write_glb(path, turned)


def test_a_good_building(tmp_path):
    report = inspect_building(home(tmp_path / "home.glb"))
    assert report.usable
    assert report.warnings == []
    assert report.navigable_area_m2 == pytest.approx(5.8 * 5.8, abs=2.0)
    assert report.floor_heights_m == [0.0]
    assert report.longest_path_m > 2.0
    assert json.loads(report.as_json())["usable"] is True
    assert report.as_text().splitlines()[-1] == "usable"


def test_centimetres(tmp_path):
    report = inspect_building(home(tmp_path / "home.glb", scale=100.0))
    assert "the unit must be the metre" in report.problems[0]


def test_millimetre_model(tmp_path):
    assert "too small for an agent" in inspect_building(home(tmp_path / "home.glb", scale=0.01)).problems[0]


Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # y to z


def test_a_building_on_its_side_is_refused_with_the_axis_that_mends_it(tmp_path):
    path = home(tmp_path / "home.glb", matrix=Z_UP)
    report = inspect_building(path)
    assert not report.usable
    assert len(report.problems) == 1
    assert "it lies on its side" in report.refusal()
    assert "--up z" in report.refusal()
    with pytest.raises(SceneError, match=r"lies on its side: .*--up z of scenes check and episodes, scenes\.up=z"):
        require_upright(path, "auto")
    turned = inspect_building(path, up="z")
    assert turned.usable
    assert turned.file == str(path)
    assert turned.warnings == []
    assert require_upright(path, "z").navigable_area == pytest.approx(turned.navigable_area_m2, abs=0.01)
    assert inspect_building(path, up="y").usable  # who says it outright is believed
    assert "lies on its side" in inspect_building(path, up="y").warnings[0]


def test_a_stage_configuration_that_turns_a_building_over_is_told_too(tmp_path):
    path = home(tmp_path / "home.glb")
    (tmp_path / f"home{SUFFIX}").write_text('{"render_asset": "home.glb", "up": [0, 0, 1], "front": [0, 1, 0]}')
    assert "with Y up" in inspect_building(path).refusal()
    assert inspect_building(path, up="y").usable


@pytest.mark.parametrize("name", ["bookstore", "cafe", "pal_home", "small_house", "small_warehouse", "tb3_house"])
def test_buildings_of_others_stand_upright_and_are_found_out_on_their_side(name, tmp_path):
    scene = load_scene(shared_scene(f"{name}/{name}.glb"))
    faces = scene.faces
    upright = write_glb(tmp_path / "upright.glb", [Part(scene.vertices, faces)])
    assert require_upright(upright, "auto").navigable_area > 50
    path = write_glb(tmp_path / "turned.glb", [Part(scene.vertices @ Z_UP.T.astype(np.float32), faces)])
    with pytest.raises(SceneError, match="lies on its side"):
        require_upright(path, "auto")


def test_rooms_behind_shut_doors_are_counted(tmp_path):
    floor = quad([-6, 0, 6], [6, 0, 6], [6, 0, -6], [-6, 0, -6])
    walls = [box([x - 0.05, 0, -6], [x + 0.05, 2.5, -4]) for x in (-4, 4)]
    walls += [box([x, 0, -4.05], [x + 2, 2.5, -3.95]) for x in (-6, 4)]
    report = inspect_building(write_glb(tmp_path / "shut.glb", [floor, *walls]))
    assert report.islands == 1
    assert report.left_out_m2 == pytest.approx([3.3, 3.3], abs=0.5)
    assert f"{sum(report.left_out_m2):.1f} m2 in 2 piece(s) are left out" in " ".join(report.warnings)
    again = inspect_building(tmp_path / "shut.glb")  # from the cache
    assert again.left_out_m2 == report.left_out_m2


def test_what_cannot_be_used_is_told_once(tmp_path, capsys):
    path = home(tmp_path / "home.glb", scale=100.0)
    assert main(["scenes", "check", str(path)]) == 2
    out, err = capsys.readouterr()
    assert err.count("metre") == 1
    assert err.count("\n") == 1
    assert "metre" not in out
    assert "navigable" not in out  # nothing that was not measured
    assert main(["scenes", "episodes", str(path), "--out", str(tmp_path / "e.json.gz")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_episodes_in_a_building_on_its_side(tmp_path, capsys):
    path = home(tmp_path / "home.glb", matrix=Z_UP)
    words = ["scenes", "episodes", str(path), "--out", str(tmp_path / "e.json.gz"), "--count", "3"]
    assert main(words) == 2
    assert "--up z" in capsys.readouterr().err
    assert not (tmp_path / "e.json.gz").exists()
    assert main(["scenes", "render", str(path), "--out", str(tmp_path / "views")]) == 2
    assert not (tmp_path / "views").exists()
    assert main([*words, "--up", "z"]) == 0


def test_holes(tmp_path):
    save_home(tmp_path / "open.glb", 6.0)  # has no ceiling
    report = inspect_building(tmp_path / "open.glb")
    assert report.usable
    assert "walls or ceilings missing" in report.warnings[0]


def test_too_small_to_walk(tmp_path):
    path = write_glb(tmp_path / "shelf.glb", [quad([-0.9, 0, 0.9], [0.9, 0, 0.9], [0.9, 0, -0.9], [-0.9, 0, -0.9])])
    report = inspect_building(path)
    assert not report.usable
    assert "m2 are walkable" in report.problems[0]


def test_no_building(tmp_path):
    with pytest.raises(SceneError, match="no such file"):
        inspect_building(tmp_path / "home.glb")
