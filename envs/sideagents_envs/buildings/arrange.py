"""Placing of furniture."""

from __future__ import annotations

from dataclasses import dataclass, field

from sideagents_envs.buildings.dice import Dice
from sideagents_envs.buildings.layout import Plan, Rect, Room
from sideagents_envs.buildings.solids import Item

VARIANTS = {"painting": 4, "rug": 2, "books": 2}


@dataclass
class Furnished:
    """What stands in a room: items, footprints (cm) and lamp positions (m)."""

    items: list[Item] = field(default_factory=list)
    footprints: list[Rect] = field(default_factory=list)
    lamps: list[tuple[float, float, float]] = field(default_factory=list)


def furnish(dice: Dice, plan: Plan, room: Room) -> Furnished:
    x, z = (room.inner.x0 + room.inner.x1) / 200, (room.inner.z0 + room.inner.z1) / 200
    return Furnished(lamps=[(x, 2.2, z)])
