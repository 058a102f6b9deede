"""About 300 damaged or hostile buildings and episode files, seeded: each is refused in one line and leaves nothing."""

from __future__ import annotations

import gzip
import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glb import Builder, box, quad
from hostile import refused, refused_by_command
from sideagents_envs.config import NavMeshConfig
from sideagents_envs.episodes.files import generate_episodes, read_episodes, write_episodes
from sideagents_envs.errors import EnvsError
from sideagents_envs.scenes.scene import load_scene
from sideagents_envs.walk.navmesh import cached_navmesh
from sideagents_policies.cli.main import main
from small_agent import SMALL, save_home

COUNT = 150
NEST: list[Any] = []
for _ in range(200):
    NEST = [NEST]
# what may stand in the place of any value of a JSON tree
ODD: list[Any] = [
    None, True, -1, 0, 1, 7, 10**6, 10**9, 10**15, -(10**12), 2**31, 2**32, 2**63, 2**64, 10**400, 0.5, -0.0, 1e38,
    1e308, -1e308, float("nan"), float("inf"), "", "x", "\0", "\ud800", "../../etc/passwd", "/dev/zero", "n" * 5000,
    "data:,", "data:;base64,!!!!", "file:///etc/passwd", "é", [], {}, [[]], [None], [1, 2, 3], {"": 0}, {"a": {"b": 1}},
    ["x"] * 1000, [1e308] * 16, [0] * 16, list(range(100)), NEST,
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value of a tree."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield (*path, key)
        yield from places(part, (*path, key))


def changed(tree: Any, dice: random.Random) -> Any:
    """Return a copy of a tree in which one to three values are odd, missing or there twice."""
    tree = json.loads(json.dumps(tree))
    for _ in range(dice.randint(1, 3)):
        ways = list(places(tree))
        if not ways:
            break
        *way, key = dice.choice(ways)
        holder = tree
        for step in way:
            holder = holder[step]
        action = dice.random()
        if action < 0.75:
            holder[key] = dice.choice(ODD)
        elif action < 0.9:
            del holder[key]
        elif isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[key] = [holder[key]] * 2
    return tree


def bitten(data: bytes, dice: random.Random) -> bytes:
    """Return bytes that are cut, flipped, repeated or overwritten somewhere."""
    at, action = dice.randrange(len(data)), dice.random()
    if action < 0.3:
        return data[:at]
    if action < 0.6:
        return data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :]
    if action < 0.8:
        return data[:at] + dice.randbytes(dice.choice((1, 4, 64))) + data[at:]
    return data[:at] + dice.choice((b"\0", b"\xff", b"[", b"9")) * dice.choice((4, 400)) + data[at + 4 :]


def house() -> Builder:
    """A small textured building with everything in its tree that is read."""
    texture = np.arange(48).reshape(4, 4, 3)
    parts = [
        quad(
            [-2, 0, 2], [2, 0, 2], [2, 0, -2], [-2, 0, -2], texture=texture, extras={"category": "floor", "room": "r"}
        ),
        box([-2, 0, -2], [2, 2, -1.9], name="wall", children=[box([0, 0, 0], [0.1, 1, 0.1])]),
        quad([-2, 2, 2], [2, 2, 2], [2, 2, -2], [-2, 2, -2], unlit=True, vertex_colors=np.full((4, 3), 99, np.uint8)),
    ]
    parts[1].transform = {"translation": [0, 0, 0.1], "rotation": [0, 0, 0, 1], "scale": [1, 1, 1]}
    parts[0].texture_info = {
        "extensions": {"KHR_texture_transform": {"scale": [2, 2], "offset": [0, 0], "rotation": 0}}
    }
    builder = Builder()
    builder.tree["scenes"][0]["nodes"] = [builder.node(part) for part in parts]
    builder.tree["extensionsRequired"] = ["KHR_texture_transform"]
    return builder


def buildings() -> Iterator[bytes]:
    """Yield damaged buildings without end: odd trees, and bytes that are cut or overwritten."""
    dice, good = random.Random(1), house().data()
    while True:
        if dice.random() < 0.7:
            builder = house()
            builder.tree = changed(builder.tree, dice)
            yield glb(builder)
        else:
            data = bytearray(bitten(good, dice))
            if len(data) >= 12 and dice.random() < 0.8:  # the header's total is mended: the damage is found further in
                data[8:12] = struct.pack("<I", len(data))
            yield bytes(data)


def glb(builder: Builder) -> bytes:
    """Pack a tree that may be anything (`Builder.data` wants its buffers as they are)."""
    text = json.dumps({"buffers": [{"byteLength": len(builder.binary)}], **builder.tree}).encode()
    text += b" " * (-len(text) % 4)
    binary = bytes(builder.binary) + b"\0" * (-len(builder.binary) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def lists(rows: list[Any]) -> Iterator[bytes]:
    """Yield damaged episode files without end."""
    dice = random.Random(2)
    good = gzip.compress(json.dumps({"episodes": rows}).encode(), mtime=0)
    while True:
        if dice.random() < 0.7:
            text = json.dumps(changed({"episodes": rows}, dice)).encode()
            yield gzip.compress(text, mtime=0) if dice.random() < 0.8 else text
        else:
            yield bitten(good, dice)


def unreadable(files: Iterator[bytes], path: Path, read: Callable[[Path], object]) -> Iterator[bytes]:
    """Yield `COUNT` files that `read` refuses by an error of ours; any other error ends the test."""
    found: set[bytes] = set()
    while len(found) < COUNT:
        data = next(files)
        path.write_bytes(data)
        try:
            read(path)
        except EnvsError:
            if data not in found:
                found.add(data)
                yield data
    path.unlink()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a building and six episodes in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDEAGENTS_TOLD_OF_COMPILING", "1")
    save_home(tmp_path / "val" / "three.glb", 5.5)
    navmesh = cached_navmesh(tmp_path / "val" / "three.glb", NavMeshConfig())
    write_episodes(tmp_path / "good.json.gz", generate_episodes(navmesh, "val/three.glb", 6, seed=1))
    return tmp_path


def evaluation(here: Path, file: str) -> list[str]:
    return ["eval", "--agent", "expert", *SMALL, f"scenes.dataset={here}", "--episodes-file", str(here / file)]


def test_damaged_buildings(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = here / "house.glb"
    for number, data in enumerate(unreadable(buildings(), path, load_scene)):
        path.write_bytes(data)
        words = ["scenes", "check", str(path)]
        if number % 10 == 0:
            words = ["scenes", "episodes", str(path), "--out", str(here / "out.json.gz")]
        refused(words, here, capfd)


def test_damaged_buildings_that_can_be_read_are_judged(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, files, judged = here / "house.glb", buildings(), 0
    while judged < 10:
        path.write_bytes(next(files))
        try:
            load_scene(path)
        except EnvsError:
            continue
        judged += 1
        code = main(["scenes", "check", str(path)])
        err = capfd.readouterr().err
        assert (code, err.count("\n")) in ((0, 0), (2, 1)), err


def test_damaged_episode_files(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with gzip.open(here / "good.json.gz") as file:
        rows = json.load(file)["episodes"][:3]
    path = here / "bad.json.gz"
    main(evaluation(here, path.name))  # imports what an evaluation needs, which may take longer than a refusal may
    for data in unreadable(lists(rows), path, read_episodes):
        path.write_bytes(data)
        refused(evaluation(here, path.name), here, capfd, "bad.json.gz")


def postscript(folder: Path) -> bytes:
    builder = house()
    builder.tree["images"][0]["bufferView"] = builder.view(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"
    )
    program = folder / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{folder / 'hacked'}'\n")
    program.chmod(0o755)
    return builder.data()


def shared(count: int) -> bytes:
    builder = house()
    builder.tree["nodes"] = [{"mesh": 0}] * count
    builder.tree["scenes"][0]["nodes"] = list(range(count))
    return builder.data()


def pipe(path: Path) -> None:
    os.mkfifo(path)


COMMANDS: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "a folder": (lambda here: ["scenes", "check", "."], "is a folder"),
    "the root": (lambda here: ["scenes", "check", "/"], "is a folder"),
    "a device": (lambda here: ["scenes", "check", "/dev/zero"], "is a pipe or a device"),
    "a pipe": (lambda here: [pipe(here / "p.glb") or "scenes", "check", "p.glb"], "is a pipe or a device"),
    "postscript": (lambda here: made(here, "ps.glb", postscript(here)), "it is none of PNG"),
    "too many nodes": (lambda here: made(here, "many.glb", shared(200_001)), "more than 200,000 nodes"),
    "nested stage": (lambda here: made(here, "n.stage_config.json", b"[" * 100_000), "is not JSON"),
    "odd stage": (lambda here: made(here, "n.stage_config.json", b'{"render_asset": "\\ud800"}'), "name of a file"),
    "episodes without end": (
        lambda here: made(
            here, "e.json.gz", gzip.compress(b" " * 2**27, 1, mtime=0) * 2, evaluation(here, "e.json.gz")
        ),
        "holds more than 128 MB",
    ),
    "a pipe of episodes": (
        lambda here: [pipe(here / "e.json.gz") or "eval", *evaluation(here, "e.json.gz")[1:]],
        "is a pipe or a device",
    ),
}


def made(here: Path, name: str, data: bytes, words: list[str] | None = None) -> list[str]:
    (here / name).write_bytes(data)
    return words or ["scenes", "check", name]


@pytest.mark.parametrize("case", COMMANDS)
def test_as_real_commands(here: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    words, message = COMMANDS[case]
    monkeypatch.setenv("PATH", f"{here / 'bin'}{os.pathsep}{os.environ['PATH']}")
    refused_by_command(words(here), here, message)
