"""Point navigation over habitat-lab as a gymnasium environment."""

from __future__ import annotations

from typing import Any

from sideagents_envs.batch.env import PointNavEnv
from sideagents_envs.config import HabitatConfig


class HabitatPointNavEnv(PointNavEnv):
    """`PointNavEnv` on a `habitat.Env`: same observations, actions, reward and `info`.

    `habitat` names habitat-lab's YAML and overrides for it, `habitat_simulator` the simulator (`auto`, `habitat_sim`,
    `sideagents`); the other arguments are those of `PointNavEnv`. habitat-lab's environment is `batch.lab[0]`.
    Raises EnvsError when habitat-lab is absent.
    """

    def __init__(self, split: str = "train", *, habitat: HabitatConfig | None = None, **options: Any) -> None:
        super().__init__(split, habitat=habitat or HabitatConfig(), **options)
