"""How a side network is built: the choices that a file of it must name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from sideagents.errors import SideAgentsError, nearest

Orientation = Literal["paper", "code"]
Mix = Literal["none", "residual"]
Block = Literal["transformer", "adapter"]
Fusion = Literal["gate", "cross_attention"]
Down = Literal["linear", "slice"]

_CHOICES: dict[str, Any] = {"orientation": Orientation, "mix": Mix, "block": Block, "fusion": Fusion, "down": Down}


@dataclass(frozen=True)
class Design:
    """What `LadderModel.from_backbone` takes beside the layers; raises `SideAgentsError` for what it does not know."""

    reduction: int = 8
    orientation: Orientation = "paper"
    mix: Mix = "none"
    block: Block = "transformer"
    fusion: Fusion = "gate"
    down: Down = "linear"
    visual: int = 0
    train_pooler: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), get_args(choices))
        if not isinstance(self.reduction, int) or self.reduction < 1:
            raise SideAgentsError(f"reduction is a whole number, at least 1, got {self.reduction!r}")
        if self.visual < 0:
            raise SideAgentsError(f"visual is the number of an image's features, 0 for no images, got {self.visual}")


def check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raise `SideAgentsError` with the nearest name for a value that is not known."""
    if value not in known:
        raise SideAgentsError(f"unknown {name} {value!r}{nearest(str(value), known)} (known: {', '.join(known)})")
