"""Labelled frames: what is kept, how little of it, and that stacks come back as the environments showed them."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sideagents import ram as machine
from sideagents.errors import SideAgentsError
from sideagents_policies.demos.store import Frames, FrameStore
from sideagents_policies.views.stack import Stacking

CPU = torch.device("cpu")
SPACE = spaces.Dict(
    {
        "map": spaces.Box(0, 255, (5, 5, 3), np.uint8),
        "rgb": spaces.Box(0, 255, (2, 2, 3), np.uint8),
        "goal": spaces.Box(-1, 1, (3,), np.float32),
    }
)
NUMBERED = spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (3,), np.float32)})


def frames(packed, first=0, ages=None, gap=1):
    """Return frames labelled and valued by their numbers from `first` on."""
    numbers = first + np.arange(len(next(iter(packed.values()))))
    ages = numbers if ages is None else np.asarray(ages)
    return Frames(packed, numbers.astype(np.int8), numbers.astype(np.float32) / 2, ages, gap)


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_newest_frames_are_kept_with_every_value(tmp_path, on_disk):
    rng = np.random.default_rng(0)
    seen = {
        "map": rng.choice(np.array([128, 255], np.uint8), (7, 5, 5, 3)),
        "rgb": rng.integers(0, 256, (7, 2, 2, 3), dtype=np.uint8),
        "goal": rng.normal(size=(7, 3)).astype(np.float32),
    }
    folder = tmp_path / "frames" if on_disk else None
    store = FrameStore(SPACE, 4, folder=folder)
    for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
        store.add(frames(store.pack({key: values[part] for key, values in seen.items()}), part.start))
    assert len(store) == 4
    taken, labels, values = store.take(np.array([3, 0, 1, 2]), CPU)
    assert labels.tolist() == [6, 3, 4, 5]
    assert values.tolist() == [3.0, 1.5, 2.0, 2.5]
    for key, expected in seen.items():
        assert (taken[key].numpy() == expected[[6, 3, 4, 5]]).all(), key
    store.add(frames(store.pack(seen)))  # more than it holds at once
    assert store.take(np.arange(4), CPU)[1].tolist() == [3, 4, 5, 6]
    if folder is not None:
        assert {path.name for path in folder.iterdir()} == {"map.bin", "rgb.bin", "goal.bin"}
    store.remove_files()
    assert folder is None or not folder.exists()


def numbered(numbers):
    return {"x": np.array(numbers, np.float32)[:, None]}


@pytest.mark.parametrize(
    ("stride", "expected"),
    [
        (1, [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [0, 0, 5], [0, 5, 6]]),
        (2, [[0, 0, 1], [0, 0, 2], [0, 1, 3], [0, 2, 4], [0, 0, 5], [0, 0, 6]]),
    ],
)
def test_readings_are_kept_once_and_stacked_when_taken(stride, expected):
    store = FrameStore(NUMBERED, 6, {"x": Stacking(3, stride, axis=0)})
    store.add(frames(numbered([1, 2, 3, 4]), ages=[0, 1, 2, 3]))
    store.add(frames(numbered([5, 6]), ages=[0, 1]))
    assert store.take(np.arange(6), CPU)[0]["x"].tolist() == expected


def test_environments_that_are_collected_side_by_side_keep_their_own_past():
    stacking = {"x": Stacking(3, 1, axis=0)}
    store = FrameStore(NUMBERED, 6, stacking, gap=2)
    store.add(frames(numbered([7]), ages=[0]))  # of a demonstration
    for step in range(4):  # environments 1 and 2, the second of which starts anew at its third step
        seen = numbered([10 + step, 20 + step])
        store.add(frames(seen, ages=[step, step if step < 2 else step - 2], gap=2))
    # the oldest of the six frames kept still see what was before them
    assert store.take(np.arange(6), CPU)[0]["x"].tolist() == [
        [0, 10, 11], [0, 20, 21], [10, 11, 12], [0, 0, 22], [11, 12, 13], [0, 22, 23]
    ]  # fmt: skip


def test_the_margin_is_what_the_oldest_frames_look_back_on(tmp_path):
    """A resumed run reads rounds back from disk: as many frames as the window and its margin."""
    stacks = {"x": Stacking(4, 1, axis=0)}
    space = spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (4,), np.float32)})
    whole, again = (FrameStore(space, 8, stacks, gap=2) for _ in range(2))
    assert whole.margin == 6
    for number in range(9):  # rounds of two steps in two environments
        steps = [2 * number, 2 * number + 1]
        part = frames(numbered([10 * env + step for step in steps for env in (0, 1)]), ages=np.repeat(steps, 2), gap=2)
        whole.add(part)
        if number >= 5:  # the newest 16 frames: four rounds, at least 8 + 6
            again.add(part)
    assert torch.equal(whole.take(np.arange(8), CPU)[0]["x"], again.take(np.arange(8), CPU)[0]["x"])


def test_of_a_stacked_observation_only_the_newest_reading_is_packed():
    space = spaces.Dict({"rgb": spaces.Box(0, 255, (2, 2, 6), np.uint8)})
    store = FrameStore(space, 2, {"rgb": Stacking(2, 1, axis=2)})
    seen = np.arange(24, dtype=np.uint8).reshape(1, 2, 2, 6)
    assert (store.pack(store.newest({"rgb": seen}))["rgb"] == seen[..., 3:]).all()


def test_bytes_of_a_frame():
    assert FrameStore.frame_bytes(SPACE) == 10 + 12 + 12 + 9
    assert FrameStore.frame_bytes(SPACE, {"rgb": Stacking(3, 1, axis=2)}) == 10 + 4 + 12 + 9


def test_what_does_not_fit_is_refused_before_the_work_begins(tmp_path, monkeypatch):
    with pytest.raises(
        SideAgentsError, match=r"takes [\d.]+ GB, the machine has [\d.]+ GB of memory: clone.frames_in=disk"
    ):
        FrameStore(SPACE, 10**12)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: usage(100))
    with pytest.raises(SideAgentsError, match=r"frames: the frames to learn from takes 0.0 GB, 0.0 GB are free"):
        FrameStore(SPACE, 10, folder=tmp_path / "frames")
