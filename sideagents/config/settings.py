"""What every supervised run is told, whatever it learns: where it goes, its seed, where it computes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sideagents.config.typed import NEUTRAL
from sideagents.machine.devices import DEVICES

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # what the name of a run's folder is made of


class RunConfig(BaseModel):
    """Name, folder, seed and machine of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: str = Field("run", pattern=NAME, description="of the run's folder")
    runs: str = Field("runs", description="folder of all runs")
    seed: int = Field(
        1, ge=0, le=2**32 - 1, description="of everything random: weights, order of examples, augmentation, dropout"
    )
    threads: int = Field(0, ge=0, le=256, description="torch threads; 0 leaves torch's choice")
    device: str = Field(
        "auto",
        pattern=DEVICES,
        description="`auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes a GPU when torch sees one",
        json_schema_extra=NEUTRAL,
    )
