"""How a side network is built: the choices that a file of it must name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from sideagents.arguments import whole_number
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
        object.__setattr__(self, "reduction", _whole(self.reduction, 1, "reduction is"))
        object.__setattr__(self, "visual", _whole(self.visual, 0, "visual, an image's features or 0 for no images, is"))


def _whole(value: Any, least: int, what: str) -> int:
    """Return a whole number as Python's own; raises `SideAgentsError` for others and smaller ones."""
    found = whole_number(value)
    if found is None or found < least:
        raise SideAgentsError(f"{what} a whole number, at least {least}, got {value!r}")
    return found


def check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raise `SideAgentsError` with the nearest name for a value that is not known."""
    if value not in known:
        raise SideAgentsError(f"unknown {name} {value!r}{nearest(str(value), known)} (known: {', '.join(known)})")
