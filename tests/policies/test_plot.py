"""Learning curves: an average over seeds, runs of one experiment together, what is drawn."""

from __future__ import annotations

from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from sideagents.errors import SideAgentsError
from sideagents_policies.evaluate.plot import average, labels_of, plot_runs, read_curves

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:stable_baselines3.*")


def test_average_over_seeds() -> None:
    one = np.array([0.0, 10.0]), np.array([0.0, 1.0])
    other = np.array([0.0, 20.0]), np.array([1.0, 1.0])
    grid, mean, low, high = average([one, other], points=11)
    assert (grid[0], grid[-1]) == (0.0, 10.0)
    assert mean[0] == pytest.approx(0.5)
    assert mean[-1] == pytest.approx(1.0)
    assert low[0] <= mean[0] <= high[0]


def test_only_runs_of_one_experiment_are_averaged(tiny_run: Path, tmp_path: Path) -> None:
    text = (tiny_run / "config.yaml").read_text()
    for number, changed in enumerate(
        [text, text.replace("seed: 1", "seed: 2", 1), text.replace("gamma: 0.99", "gamma: 0.9")]
    ):
        (tmp_path / f"a_{number}").mkdir()
        (tmp_path / f"a_{number}" / "config.yaml").write_text(changed)
    assert labels_of([tmp_path / f"a_{number}" for number in range(3)]) == ["a", "a", "a ppo.gamma=0.9"]


def test_plot_draws_curves(tiny_run: Path, tmp_path: Path) -> None:
    picture = plot_runs([tiny_run], tmp_path / "curves.png")
    assert imageio.imread(picture).shape[0] > 200
    assert set(read_curves(tiny_run)) == {"rollout/success", "rollout/spl", "rollout/return", "train/alpha"}
    with pytest.raises(SideAgentsError):
        plot_runs([tmp_path], tmp_path / "none.png")


def test_a_curve_of_one_point_is_seen(tmp_path: Path) -> None:
    pictures = []
    for lines in (1, 2):
        run = tmp_path / f"run{lines}"
        run.mkdir()
        rows = "".join(f"{100 * n},{100 * n},{0.5 * n}\n" for n in range(1, lines + 1))
        (run / "progress.csv").write_text(f"step,frames,rollout/success\n{rows}")
        pictures.append(imageio.imread(plot_runs([run], tmp_path / f"{lines}.png"))[..., :3].astype(int))
    blue = [int(((p[..., 2] - p[..., 0]) > 60).sum()) for p in pictures]
    assert blue[0] > 40  # a dot, and the line of the legend
