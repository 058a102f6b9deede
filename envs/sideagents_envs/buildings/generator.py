"""`make_building`: plan, shell, furniture, textures and light from a seed, written as one `.glb`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sideagents_envs.buildings import arrange, fronts, textures
from sideagents_envs.buildings.dice import Dice
from sideagents_envs.buildings.glb import Node, write_glb
from sideagents_envs.buildings.layout import Plan, Room, make_plan
from sideagents_envs.buildings.lighting import Light, bake
from sideagents_envs.buildings.shell import door_items, outside_item, room_items
from sideagents_envs.buildings.solids import Item, Paint
from sideagents_envs.buildings.textures import Rgb, Texture, hsv, shade_of
from sideagents_envs.cache import atomic_path

GENERATOR_VERSION = 1


def _room_colors(dice: Dice, rank: int, count: int, base: int) -> tuple[list[Rgb], list[Rgb]]:
    """Return wall and floor colours of a room; hues are spread over the circle so that rooms differ."""
    hue = base + 360 * rank // count + dice.integer(-12, 12)
    saturation, value = dice.integer(8, 52), dice.integer(66, 96)
    wall = hsv(hue, saturation, value)
    second = dice.choose((shade_of(wall, 78), hsv(hue + 35, saturation, value - 12), hsv(hue, saturation // 3, 95)))
    kind = dice.integer(0, 3)
    if kind == 0:
        floor = hsv(dice.integer(18, 38), dice.integer(35, 62), dice.integer(42, 80))
    elif kind == 1:
        floor = hsv(dice.integer(0, 359), dice.integer(3, 14), dice.integer(45, 90))
    else:
        floor = hsv(hue + dice.integer(80, 280), dice.integer(20, 50), dice.integer(42, 82))
    return [wall, second, shade_of(wall, 60)], [floor, shade_of(floor, dice.choose((62, 74, 128)))]


def _dress(dice: Dice, plan: Plan) -> dict[str, Texture]:
    """Return the building's textures: a wall and a floor for each room, and the neutral ones of furniture."""
    base = dice.integer(0, 359)
    ranks = dice.shuffled(range(len(plan.rooms)))
    walls = dice.shuffled(textures.WALLS)
    floors = dice.shuffled(textures.FLOORS)
    made: dict[str, Texture] = {}
    for room, rank in zip(plan.rooms, ranks, strict=True):
        wall, floor = _room_colors(dice, rank, len(plan.rooms), base)
        made[f"wall_{room.index}"] = walls[room.index % len(walls)](dice, wall)
        made[f"floor_{room.index}"] = floors[room.index % len(floors)](dice, floor)
    for name, draw in fronts.THINGS.items():
        for k in range(arrange.VARIANTS.get(name, 1)):
            made[f"{name}_{k}" if name in arrange.VARIANTS else name] = draw(dice)
    return made


def _nodes(items: list[Item], light: Light, room: str, made: dict[str, Texture], counts: dict[str, int]) -> list[Node]:
    """Bake the light and turn items into nodes."""
    nodes: list[Node] = []
    colors = bake([p for item in items for p in item.parts], light)
    for item in items:
        instance = counts.get(item.category, 0)
        counts[item.category] = instance + 1
        points = np.concatenate([p.points for p in item.parts])
        uv = np.concatenate([p.uv / made[p.texture].period_m for p in item.parts])
        starts = np.cumsum([0] + [len(p.points) for p in item.parts])
        faces: dict[str, list[NDArray[np.int64]]] = {}
        for part, start in zip(item.parts, starts, strict=False):
            faces.setdefault(part.texture, []).append(part.faces + start)
        nodes.append(
            Node(
                name=f"{room}/{item.category}_{instance}",
                extras={"category": item.category, "instance": instance, "room": room},
                points=np.round(points, 4).astype("<f4"),
                uv=np.round(np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1), 4).astype("<f4"),
                colors=colors[: len(points)],
                faces={texture: np.concatenate(pieces) for texture, pieces in faces.items()},
            )
        )
        colors = colors[len(points) :]
    return nodes


def _room_light(dice: Dice, room: Room, furnished: arrange.Furnished, tilt: tuple[float, float, float]) -> Light:
    """Return the light of a room: its own warmth and brightness."""
    warmth = dice.integer(-10, 14) / 100
    color = (1.0 + warmth, 1.0, 1.0 - warmth)
    level = dice.integer(40, 66) / 100
    power = dice.integer(55, 95) / 100 / (0.5 + 0.5 * len(furnished.lamps))
    lamps = [(x, y, z, power, color) for x, y, z in furnished.lamps]
    ambient = (level * (1.0 + warmth / 2), level, level * (1.0 - warmth / 2))
    return Light(ambient, tilt, lamps, room.inner, furnished.footprints)


def building_nodes(seed: int) -> tuple[list[Node], dict[str, Texture], Plan]:
    """Return a building's nodes, textures and floor plan."""
    dice = Dice(GENERATOR_VERSION, seed)
    plan = make_plan(dice)
    made = _dress(dice, plan)
    tilt = (dice.integer(-12, 12) / 100, 0.08, dice.integer(-12, 12) / 100)
    trim_color = dice.choose((hsv(30, 8, 95), hsv(26, 55, 45), hsv(210, 12, 30), hsv(20, 65, 30), hsv(0, 0, 88)))
    trim = Paint(dice.choose(("smooth", "wood")), tuple(c / 255 for c in trim_color))  # type: ignore[arg-type]
    nodes: list[Node] = []
    counts: dict[str, int] = {}
    lights = []
    for room in plan.rooms:
        furnished = arrange.furnish(dice, plan, room)
        light = _room_light(dice, room, furnished, tilt)
        lights.append(light)
        ceiling = Paint("smooth", (0.93, 0.92, 0.90))
        vault = min(room.inner.size) < 200 and dice.chance(60)
        shell = room_items(
            room, Paint(f"wall_{room.index}"), Paint(f"floor_{room.index}"), ceiling, dice.chance(55), vault
        )
        nodes += _nodes(shell + furnished.items, light, room.name, made, counts)
    for door in plan.doors:
        first = plan.rooms[door.rooms[0]]
        frame = door_items(door, plan.wall, trim, Paint(f"floor_{first.index}"))
        nodes += _nodes(frame, lights[first.index], first.name, made, counts)
    open_air = Light((0.9, 0.9, 0.9), tilt, (), plan.footprint.grown(500))
    nodes += _nodes(
        outside_item(plan, Paint("wall_0"), Paint("smooth", (0.5, 0.5, 0.52))), open_air, "outside", made, counts
    )
    return nodes, made, plan


def make_building(seed: int, path: Path) -> None:
    """Write the building of a seed to `path` (`.glb`) and `NAME.stage_config.json` beside it.

    The same seed gives the same bytes on every machine. Y is up, the floor lies at y = 0, units are metres. Each node
    is one object and carries `extras` {"category", "instance", "room"}.
    """
    nodes, made, _ = building_nodes(seed)
    write_glb(path, nodes, made)
    config = {"render_asset": path.name, "up": [0, 1, 0], "front": [0, 0, -1]}
    with atomic_path(path.with_name(f"{path.stem}.stage_config.json")) as temporary:
        temporary.write_text(json.dumps(config) + "\n")
