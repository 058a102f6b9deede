"""The benchmark of training: its rows fit together, its bases have the sizes they claim, its counter counts."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch

from benchmarks.bases import BASES, benchmark_base
from benchmarks.timing import PARTS, Trainer, scatter, timed
from benchmarks.train import QUICK, benchmark_config, benchmark_train, counted
from sideagents.errors import SideAgentsError
from sideagents.machine.precision import resolved
from sideagents_policies.views.environments import build_venv
from sideagents_policies.views.stack import StackKeys

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"


def test_rows_fit_together(scenes):
    lines = []
    threads = torch.get_num_threads()
    listed = benchmark_train(["bundled", "resnet18"], quick=True, scenes=scenes, progress=lines.append)
    assert torch.get_num_threads() == threads
    rows = {row["name"]: row for row in listed}
    assert len(rows) == len(listed) == 2 * (5 + len(PARTS) + 1) + 1 == len(lines)
    assert all(isinstance(row["unit"], str) for row in listed)
    value = {name: row["value"] for name, row in rows.items()}
    for base in ("bundled", "resnet18"):
        once, inside, limit = (value[f"ppo_{way}_fps_{base}"] for way in ("encode_once", "base_inside", "limit"))
        assert min(once, inside, limit) > 0
        assert value[f"ppo_fraction_of_limit_{base}"] == pytest.approx(once / limit)
        assert value[f"ppo_speedup_{base}"] == pytest.approx(once / inside)
        parts = {part: value[f"ppo_milliseconds_{part}_{base}"] for part in PARTS}
        assert min(parts.values()) > 0
        assert 1000 / limit == pytest.approx(sum(parts.values()))
        assert value[f"ppo_milliseconds_rest_{base}"] == pytest.approx(1000 / once - 1000 / limit)
        about = rows[f"ppo_encode_once_fps_{base}"]
        assert (about["n_envs"], about["n_steps"], about["batch_size"], about["repeats"]) == (4, 8, 16, 1)
        assert (about["epochs"], about["threads"], about["precision"]) == (10, 1, resolved("auto"))
    forwards = rows["base_forwards_per_env_step"]
    assert forwards["value"] == 1.0
    assert forwards["env_steps"] == 2 * 4 * 8
    assert 1.0 <= forwards["images_per_env_step"] < 1.5  # no epoch has run the base again
    assert json.loads(json.dumps(listed)) == listed


def test_workers_are_timed_one_against_two(scenes):
    rows = {row["name"]: row for row in benchmark_train(["workers"], quick=True, scenes=scenes, progress=str)}
    one, two = rows["ppo_workers_1_fps"]["value"], rows["ppo_workers_2_fps"]["value"]
    assert min(one, two) > 0
    assert rows["ppo_workers_speedup"]["value"] == pytest.approx(two / one)


def test_with_the_base_inside_the_counter_sees_every_epoch(scenes):
    config = benchmark_config(QUICK, scenes)
    base = benchmark_base("bundled")
    venv = StackKeys(build_venv(config, perceive=False, images=True), {"goal": 4})
    with closing(Trainer(config, venv, base)) as trainer:
        trainer.warm_up()
        with counted(base) as seen:
            trainer.update()
        frames = QUICK.n_envs * QUICK.n_steps
        assert trainer.frames == frames
        # acting and ten epochs, the value after the last step, time limits
        assert (1 + 10) * frames + QUICK.n_envs <= sum(seen) <= (1 + 10) * frames + 3 * QUICK.n_envs
        with counted(base) as after:
            pass
        assert after == []


def test_scattered_environments_are_at_different_places_in_their_episodes(scenes):
    config = benchmark_config(QUICK, scenes)
    with closing(build_venv(config, perceive=False)) as venv:
        venv.reset()
        scatter(venv, 30)
        assert len({len(track) for track in venv.tracks()}) > 1


@pytest.mark.parametrize(
    ("name", "weights", "shape"),
    # torchvision's resnet18 has 11,689,512 weights with a classifier of 513,000; here 512 * 8 + 8 stand in its place
    [("resnet18", 11_689_512 - 513_000 + 4_104, (8, 2, 2)), ("resnet50", 23_655_504, (8, 4, 4))],
)
def test_bases_have_the_size_of_the_networks_they_are_named_after(name, weights, shape):
    base = benchmark_base(name)
    assert sum(parameter.numel() for parameter in base.parameters()) == weights
    codes = base(torch.rand(2, 3, 64, 64))
    assert codes.shape == (2, *shape)
    assert codes.std() > 1e-3  # not dead: denormal numbers would be slower than real ones


def test_the_bundled_base_has_the_shipped_architecture():
    assert BASES[0] == "bundled"
    assert benchmark_base("bundled").out_shape == (8, 8, 8)
    assert benchmark_base("bundled").fingerprint == benchmark_base("bundled").fingerprint


def test_time_is_that_of_all_runs():
    runs = []
    seconds = timed(lambda: runs.append(sum(range(3_000_000))), 3)
    assert len(runs) == 3
    assert 0 < seconds[1] <= seconds[0] * 2


def test_unknown_names_are_refused():
    with pytest.raises(SideAgentsError, match="unknown benchmark 'resnet5', did you mean 'resnet50'"):
        benchmark_train(["resnet5"])
    with pytest.raises(SideAgentsError, match="known: bundled, resnet18, resnet50"):
        benchmark_base("vgg")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "train", "--only", "worker"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "did you mean 'workers'" in done.stderr
