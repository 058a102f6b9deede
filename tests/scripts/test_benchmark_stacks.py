from __future__ import annotations

from pathlib import Path

import pytest

from glb import box, quad, write_glb
from sideagents_envs.habitat import importing

if not importing.has_habitat_lab():
    pytest.skip("habitat-lab is not installed (the `habitat` extra)", allow_module_level=True)

from benchmarks import stacks as benchmark
from sideagents_envs.errors import EnvsError


def test_every_stack_plays_the_same_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = write_glb(
        tmp_path / "Room.glb", [quad((0, 0, 0), (6, 0, 0), (6, 0, -5), (0, 0, -5)), box((2, 0, -3), (3, 2, -2))]
    )
    monkeypatch.setattr(benchmark, "scenes_root", lambda config, split: [room])
    monkeypatch.setattr(benchmark, "has_habitat_sim", lambda: False)
    told: list[str] = []
    rows = benchmark.benchmark_stacks(sizes=[16], episodes=2, progress=told.append)
    assert [row["name"] for row in rows] == [
        "stack_steps_per_second_embedded_16_Room",
        "stack_steps_per_second_habitat_lab_16_Room",
    ]
    embedded, lab = rows
    assert embedded["success"] == lab["success"] == 1.0
    assert embedded["spl"] == pytest.approx(lab["spl"], abs=1e-6)
    assert embedded["steps_per_episode"] == lab["steps_per_episode"]
    assert embedded["triangles"] == 14
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert len(told) == 2
    with pytest.raises(EnvsError, match="at least 1"):
        benchmark.benchmark_stacks(episodes=0)
