"""Files that environments read: nothing but files is opened, whatever a stranger put in their place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sideagents_envs.episodes import read_episodes
from sideagents_envs.errors import EnvsError, SceneError
from sideagents_envs.files import read_bytes, read_text
from sideagents_envs.gltf import Gltf
from sideagents_envs.scene import scene_digest
from sideagents_envs.stage import find_stage


def test_a_file_is_read_and_an_absent_one_is_for_the_caller_to_explain(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    assert (read_bytes(tmp_path / "a"), read_text(tmp_path / "a")) == (b"hello", "hello")
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(SceneError, match="a: is no UTF-8 text"):
        read_text(tmp_path / "a", SceneError)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "b")
    with pytest.raises(SceneError, match="is a folder"):
        read_bytes(tmp_path, SceneError)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "building": ("a.glb", Gltf),
    "digest": ("a.glb", scene_digest),
    "stage": ("a.stage_config.json", find_stage),
    "episodes": ("a.json.gz", read_episodes),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_no_reader_opens_a_pipe_or_a_device(tmp_path: Path, reader: str, kind: str) -> None:
    name, read = READERS[reader]
    path = tmp_path / name
    {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "folder": Path.mkdir}[kind](path)
    with pytest.raises(EnvsError, match="a file is needed") as caught:
        read(path)
    assert name in str(caught.value)
