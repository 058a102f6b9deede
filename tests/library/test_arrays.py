"""Arrays and packed texts of strangers: what a header declares is held against what is there."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sideagents.errors import CheckpointError
from sideagents.storage import arrays
from sideagents.storage.arrays import read_npy, read_npz, read_packed
from troubles import Hostile


def header(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    """Return the header of an .npy that declares a shape, without any numbers."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return path


def test_what_numpy_writes_is_read(tmp_path: Path) -> None:
    wanted = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(3), "c": np.array(["x", "yy"]), "d": np.zeros((0, 4))}
    np.savez_compressed(tmp_path / "a.npz", **wanted)
    found = read_npz(tmp_path / "a.npz")
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
        np.save(tmp_path / f"{name}.npy", array)
        np.testing.assert_array_equal(read_npy(tmp_path / f"{name}.npy"), array)
    assert set(read_npz(tmp_path / "a.npz", ["b"])) == {"b"}
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.save(tmp_path / "f.npy", fortran)
    np.testing.assert_array_equal(read_npy(tmp_path / "f.npy"), fortran)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a header of 10^12 rows": (lambda p: archive(p, a=header((10**12, 4)) + b"1234"), "declares float64"),
    "a header of 10^30 rows": (lambda p: archive(p, a=header((10**30,)) + b"1234"), "declares float64"),
    "fewer rows than there are": (lambda p: archive(p, a=header((1,)) + bytes(16)), "8 bytes; there are 16"),
    "rows below zero": (lambda p: archive(p, a=header((-1,)) + bytes(16)), "there are 16"),
    "objects": (lambda p: np.savez(p, a=np.array([Hostile()])), "holds objects"),
    "another array": (lambda p: archive(p, b=header((1,)) + bytes(8)), "'a'"),
    "no array": (lambda p: archive(p, a=b"hello"), "is cut off or is not"),
    "no archive": (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(40)), "is cut off or is not"),
    "no bytes": (lambda p: p.write_bytes(b""), "is cut off or is not"),
    "a folder": (lambda p: p.mkdir(), "is a folder"),
    "a pipe": (lambda p: os.mkfifo(p), "is a pipe"),
    "a device": (lambda p: p.symlink_to("/dev/zero"), "is a device"),
    "nothing": (lambda p: None, "no such file"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_archive_is_one_line(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    path = tmp_path / "a.npz"
    make(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_npz(path, ["a"], error=CheckpointError)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_an_array_alone_is_held_against_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for data in (header((10**12,)), header((2,)) + bytes(9), b"", header((2,), "|O") + bytes(16)):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="is cut off or no array"):
            read_npy(path, CheckpointError)


def test_arrays_that_the_memory_does_not_hold_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10**6))  # 8 MB in 8 kB
    monkeypatch.setattr(arrays, "memory_bytes", lambda: 10**7)
    with pytest.raises(CheckpointError, match=r"take more than 0\.0 GB"):
        read_npz(tmp_path / "a.npz", error=CheckpointError)


@pytest.mark.parametrize("packing", ["gzip", "xz"])
def test_packed_texts_are_unpacked_up_to_a_size(packing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pack = tmp_path / "a", gzip.compress if packing == "gzip" else lzma.compress
    path.write_bytes(pack(b"hello"))
    assert read_packed(path, packing) == b"hello"  # type: ignore[arg-type]
    path.write_bytes(pack(b"hello" * 1000)[:-12])
    with pytest.raises(CheckpointError, match=f"is cut off or not packed by {packing}"):
        read_packed(path, packing, CheckpointError)  # type: ignore[arg-type]
    monkeypatch.setattr(arrays, "TEXT_BYTES", 2**22)
    path.write_bytes(pack(b" " * 2**24))
    with pytest.raises(CheckpointError, match="holds more than 4 MB of text"):
        read_packed(path, packing, CheckpointError)  # type: ignore[arg-type]
