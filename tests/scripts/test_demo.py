"""The demonstration at a tiny scale: clone, train, evaluate, film and plot in one go."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from demo import demo
from sideagents.errors import SideAgentsError


@pytest.mark.filterwarnings("ignore::UserWarning:stable_baselines3.*")
def test_demo(homes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    dagger = ("clone.dagger_frames=64", "clone.dagger_round_frames=64")
    assert demo("pointnav/demo", (*homes, *dagger, f"runs={runs}")) == 0
    shown = capsys.readouterr().out
    for agent in ("imitating ", "trained ", "expert", "straight", "forward", "random"):
        times = 1 if agent.endswith(" ") else 2  # after imitation, and at the end
        assert shown.count(f"\n| {agent}") == times
    assert len(re.findall(r"^[0-3] of 3 episodes reach the goal", shown, re.MULTILINE)) == 2
    for kind, count in (("video", 2), ("plot", 1)):
        lines = [line for line in shown.splitlines() if line.startswith(f"{kind}:")]
        assert len(lines) == count
        for line in lines:
            assert Path(line.split(":", 1)[1].strip()).stat().st_size > 1000


def test_one_of_many_processes_is_no_place_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SideAgentsError, match="run it without torchrun"):
        demo()
