from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest

from sideagents import ram as machine
from sideagents.errors import ConfigError
from sideagents_policies.agent.checks import default_config, read_config
from sideagents_policies.cli.main import main
from sideagents_policies.demos.store import FrameStore
from sideagents_policies.train.estimates import cloning_too_large, estimates
from sideagents_policies.views.plan import agent_base, observation_space, stacked_keys


def test_the_paper_s_settings_are_estimated_without_the_weights() -> None:
    rollout, cloning, disk = estimates(read_config("habitat/gibson"))
    # 5 x 512 steps of a 256 x 256 image, a code of 8 x 16 x 16 (three more before the first), a map, goals
    assert rollout == "memory of PPO's rollout: 579 MB"
    assert 5 * (512 * (3 * 256 * 256 + 3 * 84 * 84) + 515 * 4 * 8 * 16 * 16) / 579e6 > 0.99
    assert cloning == "disk for cloning's frames: about 59.79 GB"
    assert disk == "disk for demonstrations: at most 14 MB, before compression"


def test_each_process_has_its_share() -> None:
    words = ["demos.trajectories=1000", "demos.images=true", "clone.dagger_frames=0"]
    alone, shared = (list(estimates(default_config([*words, f"workers={n}"]))) for n in (1, 2))
    assert shared[0] == f"{alone[0]} in each of 2 processes"
    assert shared[1].endswith("in each of 2 processes")
    assert alone[2] == shared[2] == "disk for demonstrations: at most 740 MB, before compression"


def test_check_says_what_cloning_would_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["demos.trajectories=1000", "vec.n_envs=4", "workers=1", "clone.dagger_frames=0"]
    words.append(f"runs={tmp_path / 'runs'}")
    config = default_config(words)
    assert list(cloning_too_large(config)) == []
    base = agent_base(config)
    space, stacks = observation_space(config, base), stacked_keys(config, base)
    kept = 60_000 * FrameStore.frame_bytes(space, stacks)
    monkeypatch.setattr(machine, "memory_bytes", lambda: kept // 2)
    (line,) = cloning_too_large(config)
    with pytest.raises(ConfigError) as caught:  # what cloning says of as many frames
        FrameStore(space, 60_000, stacks, gap=4)
    assert str(caught.value) == line
    assert line.startswith("the frames to learn from takes ")
    two = default_config([*words, "workers=2"])  # each keeps half, on one machine
    assert [found[:40] for found in cloning_too_large(two)] == [line[:40]]
    fewer = default_config([*words, "demos.trajectories=100", "clone.dagger_frames=20000"])
    assert list(cloning_too_large(fewer)) == []
    dagger = default_config([*words, "demos.trajectories=100", "clone.dagger_frames=60000"])
    assert [found[:25] for found in cloning_too_large(dagger)] == [line[:25]]

    monkeypatch.setattr(machine, "memory_bytes", lambda: 10**5)
    found = list(cloning_too_large(default_config([*words, "demos.images=true"])))
    assert found[0].startswith("what is collected for one file of demonstrations takes ")
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: usage(1000))
    (line,) = cloning_too_large(default_config([*words, "demos.images=false", "clone.frames_in=disk"]))
    assert line.startswith(f"{tmp_path / 'runs'}: the frames to learn from takes ")
    assert not (tmp_path / "runs").exists()
    capsys.readouterr()
    assert main(["check", "pointnav/demo", *words, "demos.images=true"]) == 0
    assert f"# too large: {found[0]}" in capsys.readouterr().out


def test_an_unknown_network_s_shapes_are_not_guessed() -> None:
    assert list(estimates(default_config(["model.base=missing.safetensors"]))) == []
