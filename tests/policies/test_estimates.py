from __future__ import annotations

from sideagents_policies.agent.checks import default_config, read_config
from sideagents_policies.train.estimates import estimates


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


def test_an_unknown_network_s_shapes_are_not_guessed() -> None:
    assert list(estimates(default_config(["model.base=missing.safetensors"]))) == []
