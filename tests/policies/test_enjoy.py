"""Films of a run and of baselines: what is seen, files that refuse, GIFs that stay small."""

from __future__ import annotations

from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from PIL import Image, ImageSequence

from sideagents.errors import SideAgentsError
from sideagents_policies.agent.checks import default_config
from sideagents_policies.evaluate.enjoy import GIF_FRAMES, record, record_baseline, write_video

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:stable_baselines3.*")


def test_film(tiny_run: Path, tmp_path: Path) -> None:
    gif = record(tiny_run, episode=1, out=tmp_path / "agent.gif")
    frames = imageio.mimread(gif, memtest=False)
    assert 1 <= len(frames) <= 15
    assert frames[0].shape[:2] == (544, 512)
    movie = record(tiny_run, episode=1)
    assert movie.parent == tiny_run / "videos"
    reader = imageio.get_reader(movie)
    assert reader.get_meta_data()["source_size"] == (512, 544)
    assert reader.count_frames() == len(frames)
    reader.close()


def test_film_refuses(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(SideAgentsError, match="episodes 0 to 5"):
        record(tiny_run, episode=99)
    with pytest.raises(SideAgentsError, match=r"\.mp4 or a \.gif, a picture a \.png"):
        record(tiny_run, out=tmp_path / "agent.avi")


def test_film_of_a_baseline(
    homes: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = default_config([*homes, "task.max_steps=60", "model.base=taskonomy:curvature"])  # no base is loaded
    assert record_baseline("expert", config, episode=1) == Path("expert_val_0001.mp4")
    reader = imageio.get_reader("expert_val_0001.mp4")
    assert reader.get_meta_data()["fps"] == 12
    reader.close()
    picture = imageio.imread(record_baseline("straight", config, out=tmp_path / "straight.png"))
    assert picture[40:280, 10:250].std() > 10.0  # what the agent sees
    with pytest.raises(SideAgentsError, match="did you mean 'expert'"):
        record_baseline("exprt", config)


@pytest.mark.parametrize(("count", "fps", "kept"), [(1, 12, 1), (30, 12, 30), (470, 12, GIF_FRAMES), (40, 100, 20)])
def test_a_gif_has_few_frames_and_lasts_as_long(tmp_path: Path, count: int, fps: int, kept: int) -> None:
    frames = [np.zeros((16, 16, 3), np.uint8) for _ in range(count)]
    for i, frame in enumerate(frames):
        frame[i % 13] = 255
    with Image.open(write_video(tmp_path / "agent.gif", frames, fps)) as gif:
        durations = [frame.info.get("duration", 0) for frame in ImageSequence.Iterator(gif)]
    assert len(durations) == kept
    if kept > 1:
        assert sum(durations) == pytest.approx(1000 * count / fps, abs=10)
        assert min(durations) >= 20


def test_what_stands_still_in_a_gif_costs_nothing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    frames = [noise.copy() for _ in range(40)]
    for i, frame in enumerate(frames):
        frame[:8, :8] = 6 * i
    one, all_of_them = (write_video(tmp_path / f"{n}.gif", frames[:n]).stat().st_size for n in (1, 40))
    assert all_of_them < 2 * one
