"""A tiny dataset and the overrides of an agent that trains in it within seconds, for the tests of whole commands."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from glb import box, quad, write_glb
from sideagents_envs.config import NavMeshConfig
from sideagents_envs.episodes.files import generate_episodes, write_episodes
from sideagents_envs.walk.navmesh import cached_navmesh

SMALL = [
    "workers=1",
    "precision=float32",
    "camera.width=32",
    "camera.height=32",
    "task.max_steps=15",
    "vec.n_envs=4",
    "model.base=random",
    "model.hidden=32",
    "model.goal_history=2",
    "demos.trajectories=8",
    "clone.batch_size=32",
    "clone.epochs=1.0",
    "clone.dagger_frames=0",
    "ppo.frames=128",
    "ppo.n_steps=8",
    "ppo.batch_size=16",
    "ppo.n_epochs=2",
    "ppo.critic_warmup_frames=32",
    "ppo.checkpoint_every_frames=64",
    "eval.n_envs=2",
    "eval.episodes=3",
]


class DropoutSide(nn.Module):
    """A side of a user's own that draws random numbers while it is trained."""

    def __init__(self, out_shape, in_channels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(in_channels, out_shape[0], 3, padding=1), nn.Dropout(0.5))
        self.grid = tuple(out_shape[1:])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        code: torch.Tensor = self.body(nn.functional.adaptive_avg_pool2d(images, self.grid))
        return code


def save_home(path: Path, width: float) -> None:
    """Write a room of `width` x 6 m with a wall half across it."""
    x, z = width / 2, 3.0
    floor = quad([-x, 0, z], [x, 0, z], [x, 0, -z], [-x, 0, -z], color=(0.5, 0.4, 0.3, 1.0))
    walls = [
        box([-x - 0.1, 0, -z], [-x, 2.5, z], color=(0.9, 0.2, 0.2, 1.0)),
        box([x, 0, -z], [x + 0.1, 2.5, z], color=(0.2, 0.9, 0.2, 1.0)),
        box([-x, 0, -z - 0.1], [x, 2.5, -z], color=(0.2, 0.2, 0.9, 1.0)),
        box([-x, 0, z], [x, 2.5, z + 0.1], color=(0.9, 0.9, 0.2, 1.0)),
        box([-x, 0, -0.05], [0.5, 2.5, 0.05], color=(0.7, 0.7, 0.7, 1.0)),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_glb(path, [floor, *walls])


def make_homes(folder: Path) -> list[str]:
    """Write two training buildings, one held out with six episodes; return the overrides of a small agent in them."""
    for split, name, width in (("train", "one", 6.0), ("train", "two", 5.0), ("val", "three", 5.5)):
        save_home(folder / split / f"{name}.glb", width)
    navmesh = cached_navmesh(folder / "val" / "three.glb", NavMeshConfig())
    write_episodes(folder / "episodes" / "val.json.gz", generate_episodes(navmesh, "val/three.glb", 6, seed=1))
    return [*SMALL, f"scenes.dataset={folder}"]


def dataset_of(overrides: list[str]) -> Path:
    """Return the folder of buildings that the overrides name."""
    return Path(dict(word.split("=", 1) for word in overrides)["scenes.dataset"])
