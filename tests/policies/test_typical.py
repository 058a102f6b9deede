"""The film of a typical success and, beside it, of a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest

from sideagents.errors import SideAgentsError
from sideagents_policies.agent.checks import default_config
from sideagents_policies.evaluate import typical
from sideagents_policies.evaluate.evaluation import play_run
from sideagents_policies.evaluate.panels import HEADER, PANEL
from sideagents_policies.evaluate.typical import beside, by_length, record_typical, told
from sideagents_policies.train.reinforcement import train


def rows(*steps: int, success: float = 1.0) -> list[dict[str, Any]]:
    return [{"number": i, "steps": count, "success": success} for i, count in enumerate(steps)]


def about(video: Path) -> tuple[tuple[int, int], int]:
    """Return width and height of a film, and how many pictures it has."""
    reader = imageio.get_reader(video)
    size, count = reader.get_meta_data()["source_size"], reader.count_frames()
    reader.close()
    return size, count


def test_the_median_comes_first() -> None:
    assert [row["steps"] for row in by_length(rows(10, 200, 60, 55, 500))] == [60, 55, 10, 200, 500]
    assert by_length([]) == []
    assert told(rows(10, 30) + rows(500, success=0.0)) == (
        "2 of 3 episodes reach the goal, the median of them in 20 steps"
    )
    assert told(rows(500, success=0.0)) == "0 of 1 episodes reach the goal"


def test_the_shorter_film_stays_at_its_end() -> None:
    short, long = ([np.full((2, 3, 3), step, np.uint8) for step in range(count)] for count in (1, 3))
    both = beside([short, long])
    assert [frame.shape for frame in both] == [(2, 6, 3)] * 3
    assert [(int(frame[0, 0, 0]), int(frame[0, 3, 0])) for frame in both] == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.filterwarnings("ignore::UserWarning:stable_baselines3.*")
def test_what_is_filmed_ended_as_it_was_judged(
    homes: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = train(default_config([*homes, f"runs={tmp_path}", "ppo.frames=32"]))
    played = play_run(run).rows
    assert not any(row["success"] for row in played)  # of an agent that has learnt nothing
    video = record_typical(run, played)
    assert video.parent == run / "videos"
    assert about(video) == ((2 * PANEL, 2 * HEADER + 2 * PANEL), played[0]["steps"])  # a failure alone

    # both kinds: one of the two is said to have reached its goal, and does so on film
    film_of = typical.film_of
    wanted = int(played[1]["number"])

    def reached(loaded: Any, chosen: Any, config: Any, episode: int, most: int) -> Any:
        pictures, ending = film_of(loaded, chosen, config, episode, most=5)
        return pictures, ending | {"is_success": episode == wanted}

    monkeypatch.setattr(typical, "film_of", reached)
    mixed = [row | {"success": float(row["number"] == wanted)} for row in played]
    both = record_typical(run, mixed, tmp_path / "both.mp4")
    assert about(both) == ((4 * PANEL, 2 * HEADER + 2 * PANEL), 5)  # long ones have fewer pictures
    wrong = [row | {"success": 1.0} for row in played[:1] if row["number"] != wanted]
    with pytest.raises(SideAgentsError, match="none of 1 episodes ended on film as it had in the evaluation"):
        record_typical(run, wrong)
