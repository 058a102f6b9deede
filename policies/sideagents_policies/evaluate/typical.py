"""A film of what an agent typically does: a success of median length, and an episode that failed beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sideagents.errors import SideAgentsError
from sideagents_policies.agent.runs import load_agent
from sideagents_policies.evaluate.enjoy import FRAMES_PER_SECOND, film_of, write_video
from sideagents_policies.evaluate.evaluation import Row, choose_episodes
from sideagents_policies.evaluate.panels import Image8, titled

_TRIES = 5  # batches of another size round otherwise: now and then an episode ends differently when it is filmed
_LONGEST = 150  # pictures of an episode; a longer one is played faster


def record_typical(run: Path, rows: Sequence[Row], out: Path | None = None) -> Path:
    """Film a run in a success of median length and, beside it, in a failure; return the path of the video.

    rows: of an evaluation of the run on the list that its configuration names. The titles say how many of the episodes
    succeed, and how each of the filmed ones ended. Raises `SideAgentsError` as `record` does.
    """
    loaded = load_agent(run)
    chosen, config = choose_episodes(loaded.config, None, 0, None, None)
    succeeded = by_length([row for row in rows if row["success"]])
    failed = by_length([row for row in rows if not row["success"]])
    share = f"{len(succeeded)} of {len(rows)} episodes"
    films = []
    for candidates, wanted in ((succeeded, True), (failed, False)):
        for row in candidates[:_TRIES]:
            frames, ending = film_of(loaded, chosen, config, int(row["number"]), most=_LONGEST)
            if bool(ending["is_success"]) == wanted:
                title = f"{share} reach the goal: a typical one" if wanted else f"one of the {len(failed)} that fail"
                films.append([titled(frame, f"{title}, {ending['steps']} steps") for frame in frames])
                break
    if not films:
        raise SideAgentsError(f"{run}: none of {len(rows)} episodes ended on film as it had in the evaluation")
    path = out or loaded.run.subfolder("videos") / f"{chosen.label}_typical.mp4"
    return write_video(path, beside(films), FRAMES_PER_SECOND)


def by_length(rows: Sequence[Row]) -> list[Row]:
    """Return rows in the order of how near their number of steps is to the median; ties as they come."""
    median = float(np.median([row["steps"] for row in rows])) if rows else 0.0
    return sorted(rows, key=lambda row: abs(row["steps"] - median))


def beside(films: Sequence[Sequence[Image8]]) -> list[Image8]:
    """Return films of equal height as one, next to each other; a shorter one stays at its last picture."""
    longest = max(map(len, films), default=0)
    return [np.concatenate([film[min(step, len(film) - 1)] for film in films], axis=1) for step in range(longest)]


def told(rows: Sequence[Row]) -> str:
    """Return a line on how many episodes succeed, for people."""
    steps = [row["steps"] for row in rows if row["success"]]
    text = f"{len(steps)} of {len(rows)} episodes reach the goal"
    return f"{text}, the median of them in {np.median(steps):.0f} steps" if steps else text
