"""Readers of a stranger's files: no pipe is waited on, no device read, nothing unpacked or decoded without a limit."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foreign_program import POSTSCRIPT, ghostscript_in_the_path
from sideagents_envs.errors import EpisodeError, SceneError
from sideagents_envs.reading import decoded, read_regular, shortened, unpacked


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "none: no such file; a map is needed"),
        ("file/below", "file/below: no such file"),
        ("folder", "folder: is a folder; a map is needed"),
        (".", "is a folder"),
        ("pipe", "pipe: is a pipe or a device; a map is needed"),
        ("/dev/zero", "/dev/zero: is a pipe or a device"),
        ("link", "link: is a pipe or a device"),
        ("large", "large: has 2 MB; a map has at most 1 MB"),
        ("n\0ul", "cannot be the name of a file"),
        ("\ud800", "cannot be the name of a file"),
        ("n" * 5000, "cannot be read (File name too long)"),
    ],
)
def test_only_regular_files_of_a_size_are_read(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "large").write_bytes(bytes(2**21))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(SceneError) as caught:
        read_regular(tmp_path / name, "a map", 2**20, SceneError)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read_regular(tmp_path / "file", "a map", 2**20, SceneError) == b"content"


def test_unpacking_ends_at_a_limit() -> None:
    bomb = gzip.compress(bytes(2**24), mtime=0)
    assert unpacked(Path("F"), bomb, 2**24, EpisodeError) == bytes(2**24)
    with pytest.raises(EpisodeError, match="F: holds more than 16 MB when unpacked"):
        unpacked(Path("F"), gzip.compress(bytes(2**24 + 1), mtime=0), 2**24, EpisodeError)
    assert unpacked(Path("F"), b"plain", 3, EpisodeError) == b"plain"
    with pytest.raises(EpisodeError, match="cut off or damaged"):
        unpacked(Path("F"), bomb[:200], 2**24, EpisodeError)


def picture(kind: str, size: tuple[int, int] = (4, 3)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (9, 8, 7)).save(file, kind)
    return file.getvalue()


def test_pictures_are_of_three_kinds_and_of_a_size() -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        assert decoded(picture(kind), 12).shape == (3, 4, 3)
    with pytest.raises(ValueError, match="none of PNG, JPEG, WEBP"):
        decoded(picture("BMP"), 12)
    with pytest.raises(ValueError, match="4 x 3 pixels, but 11 are left"):
        decoded(picture("PNG"), 11)
    with pytest.raises(ValueError, match=r"truncated|cannot"):
        decoded(picture("PNG", (64, 64))[:60], 10**6)
    header = bytearray(picture("PNG"))
    header[16:24] = np.array([60_000, 60_000], ">u4").tobytes()
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match="exceeds limit"):
        decoded(bytes(header), 10**12)


def test_no_picture_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = ghostscript_in_the_path(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="none of"):
        decoded(POSTSCRIPT, 10**6)
    assert not marker.exists()


def test_a_strangers_value_is_short_in_an_error() -> None:
    nest: list[object] = []
    for _ in range(100_000):
        nest = [nest]
    assert shortened(nest) == "list"
    assert len(shortened("x" * 10**6)) < 80
    assert shortened([1, 2]) == "[1, 2]"
    while nest:  # taken apart from outside: Python would recurse
        nest = nest.pop()  # type: ignore[assignment]
