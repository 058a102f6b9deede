from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import benchmark
from benchmarks import render
from benchmarks.against import compared
from glb import box, quad, write_glb
from sideagents_envs.errors import EnvsError, SceneError
from sideagents_envs.render.packets import packet_library

needs_packets = pytest.mark.skipif(packet_library() is None, reason="no packets of eight rays on this machine")


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A room that stands for the bundled building."""
    parts = [quad((0, 0, 0), (6, 0, 0), (6, 0, -5), (0, 0, -5)), box((0, 0, -5), (6, 3, 0))]
    path = write_glb(tmp_path / f"{render.BUNDLED}.glb", parts)
    monkeypatch.setattr(render, "scenes_root", lambda config, split: [path])
    return path


@needs_packets
def test_every_way_is_measured_in_every_building(room: Path) -> None:
    other = write_glb(
        room.with_name("hall.glb"), [box((0, 0, 0), (9, 4, 9)), quad((0, 0, 0), (0, 0, 9), (9, 0, 9), (9, 0, 0))]
    )
    told: list[str] = []
    rows = render.benchmark_render([other], sizes=[8, 16], images=2, repeats=3, progress=told.append)
    ways = ("rays_alone", "render_rgb", "render_rgb_depth", "single_rays_rgb")
    names = [f"{way}_images_per_second_{size}" for size in (8, 16) for way in ways]
    assert [row["name"] for row in rows] == names * 2
    assert [row["scene"] for row in rows] == [render.BUNDLED] * 8 + ["hall"] * 8
    assert all(row["value"] > 0 for row in rows)
    assert all(row["ratio"] == 1 for row in rows if row["name"].startswith("rays_alone"))
    assert len(told) == 4


def test_what_cannot_be_measured_is_said(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvsError, match="at least 1"):
        render.benchmark_render(sizes=[])
    with pytest.raises(EnvsError, match="at least 1"):
        render.benchmark_render(repeats=0)
    monkeypatch.setattr("sideagents_envs.render.rays.packet_library", lambda: None)
    with pytest.raises(EnvsError, match="no packets of eight rays"):
        render.benchmark_render(sizes=[8])
    monkeypatch.setattr(render, "scenes_root", lambda config, split: [])
    with pytest.raises(SceneError, match="no bundled building"):
        render.benchmark_render(sizes=[8])


def rate(name: str, ratio: float | None, unit: str = "images/s", **more: Any) -> dict[str, Any]:
    return {"name": name, "unit": unit, "value": 1.0, **({} if ratio is None else {"ratio": ratio}), **more}


@pytest.mark.parametrize(
    ("unit", "now", "slower"),
    [("images/s", 0.71, True), ("images/s", 0.73, False), ("images/s", 2.0, False)]
    + [("ms", 0.89, True), ("ms", 0.87, False), ("ms", 0.1, False)],
)
def test_a_ratio_may_be_a_tenth_worse(unit: str, now: float, slower: bool) -> None:
    before = [rate("a", 0.8, unit), rate("gone", 1.0), rate("b", None)]
    rows = [rate("a", now, unit), rate("new", 1.0), rate("b", None)]
    assert list(compared(rows, before)) == [("a", now, 0.8, slower)]


def test_rows_are_known_by_their_scene() -> None:
    before = [rate("a", 0.8, scene="hut"), rate("a", 0.4, scene="hall")]
    assert list(compared([rate("a", 0.45, scene="hall")], before)) == [("a hall", 0.45, 0.4, False)]


def test_the_command_fails_where_something_has_become_slower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, now = tmp_path / "before.json", tmp_path / "now.json"
    rows = [rate("a", 0.8), rate("b", 0.5)]
    monkeypatch.setattr(render, "benchmark_render", lambda *given, **options: rows)
    before.write_text(json.dumps([rate("a", 0.8), rate("b", 0.9)]))

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["benchmark.py", "render", *words])
        return benchmark.main()

    assert run("--against", str(before), "--json", str(now)) == 1
    said = capsys.readouterr().err
    assert "as good: a 0.800, before 0.800" in said
    assert "WORSE: b 0.500, before 0.900" in said
    assert json.loads(now.read_text()) == rows
    assert run("--against", str(now)) == 0
    assert run() == 0
    for content in ("[]", "{", "3", '["a"]', json.dumps([rate("other", 1.0)])):
        before.write_text(content)
        assert run("--against", str(before)) == 2, content
        assert "error: --against" in capsys.readouterr().err
    assert run("--against", str(tmp_path / "absent.json")) == 2
