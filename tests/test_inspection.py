"""What `scenes check` says of good, oversized, turned, open and empty buildings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from glb import Part, box, quad, write_glb
from small_agent import save_home

from sideagents_envs.errors import SceneError
from sideagents_envs.inspection import inspect_building


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


def test_z_up(tmp_path):
    matrix = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # y to z
    report = inspect_building(home(tmp_path / "home.glb", matrix=matrix))
    told = " ".join(report.problems + report.warnings)
    assert "export with Y up" in told


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
