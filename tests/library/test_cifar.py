"""CIFAR: original pickles and mosaics are found and read, and no pickle runs code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cifar_files import noise, put_10, put_100, put_mosaics, put_pickle
from shared_data import shared_data
from sideagents.data.cifar import load_cifar
from sideagents.errors import SideAgentsError


def fault(root: Path, split: Any = "train") -> str:
    with pytest.raises(SideAgentsError) as caught:
        load_cifar(root, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_pickles_written_here_are_python_2s(tmp_path: Path) -> None:
    put_100(tmp_path)
    data = (tmp_path / "train").read_bytes()
    assert data.startswith(b"\x80\x02}q\x00(")
    assert b"U\x0bfine_labels" in data
    assert b"_reconstruct\n" in data
    assert b"_codecs" not in data
    table = pickle.loads(data, encoding="bytes")  # as the authors' page says
    assert table[b"data"].shape == (6, 3072)


@pytest.mark.parametrize("folder", [".", "cifar-100-python"])
def test_cifar_100(tmp_path: Path, folder: str) -> None:
    images = put_100(tmp_path / folder)
    train, test = load_cifar(tmp_path, "train"), load_cifar(tmp_path, "test")
    assert torch.equal(train.images, images[:6])
    assert torch.equal(test.images, images[6:])
    assert (train.labels.tolist(), test.labels.tolist()) == ([2, 0, 1, 1, 0, 2], [2, 1, 0])
    assert train.classes == ("apple", "bee", "cup")
    train.images[0] = 0  # its own memory: the file's bytes cannot be written


@pytest.mark.parametrize("folder", [".", "cifar-10-batches-py"])
def test_cifar_10(tmp_path: Path, folder: str) -> None:
    images = put_10(tmp_path / folder)
    train, test = load_cifar(tmp_path, "train"), load_cifar(tmp_path, "test")
    assert torch.equal(train.images, images[:10])
    assert torch.equal(test.images, images[10:])
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 1, 0, 2, 0, 0, 0, 1, 0], [2, 0])
    assert train.classes == ("airplane", "automobile", "bird")


def test_arrays_by_column_and_newer_protocols_are_read(tmp_path: Path) -> None:
    """Someone may have written the tables again, with Python 3."""
    images = put_100(tmp_path)
    by_column = np.asfortranarray(images.view(9, 3072).numpy())
    for protocol in (3, 4, 5):
        (tmp_path / "test").write_bytes(pickle.dumps({"data": by_column, "fine_labels": [0] * 9}, protocol))
        if protocol == 5:
            assert "which no CIFAR holds" in fault(tmp_path, "test")  # arrays with another function behind them
        else:
            read = load_cifar(tmp_path, "test").images
            assert torch.equal(read, images)
            assert read.is_contiguous()


def test_mosaics_are_found(tmp_path: Path) -> None:
    tiles = torch.from_numpy(put_mosaics(tmp_path)).permute(0, 3, 1, 2)
    assert torch.equal(load_cifar(tmp_path, "test").images, tiles[12:])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert "unknown split 'val' (known: train, test)" in fault(tmp_path, "val")
    (tmp_path / "train").mkdir()  # an image folder, not a pickle
    assert "holds no CIFAR (needed: train and meta; data_batch_1, " in fault(tmp_path)
    assert "unpack a Python version of https://www.cs.toronto.edu/~kriz/cifar.html" in fault(tmp_path)
    assert "no such file" in fault(tmp_path / "gone")
    assert "CIFAR is at https://www.cs.toronto.edu/~kriz/cifar.html" in fault(tmp_path / "gone")
    put_10(tmp_path / "ten")
    (tmp_path / "ten" / "data_batch_3").unlink()
    assert "data_batch_3: no such file" in fault(tmp_path / "ten")
    put_100(tmp_path / "hundred")
    (tmp_path / "hundred" / "meta").unlink()
    assert "meta: no such file" in fault(tmp_path / "hundred")


def test_tables_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    put_100(tmp_path)
    path, data = tmp_path / "test", noise(3, 3072)
    cases: dict[str, Any] = {
        "it holds a list, not a dict": [1, 2],
        "has no list of int under 'fine_labels' (is it of another CIFAR?)": {"data": data, "labels": [0, 1, 2]},
        "has no list of int under": {"data": data, "fine_labels": [0, 1, "2"]},
        "data must be an array of bytes (2, 3072), got (3, 3072)": {"data": data, "fine_labels": [0, 1]},
        "data must be an array of bytes (3, 3072), got list": {"data": [0], "fine_labels": [0, 1, 2]},
        "has an array of 'f8', where only bytes (u1) belong": {"data": data / 2, "fine_labels": [0, 1, 2]},
        "labels 0..3 do not fit 3 classes": {"data": data, "fine_labels": [0, 1, 3]},
        f"labels 0..{2**70} do not fit 3 classes": {"data": data, "fine_labels": [0, 1, 2**70]},
    }
    for message, value in cases.items():
        put_pickle(path, value)
        assert message in fault(tmp_path, "test")
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], b"\x00" * 50, b"PK\x03\x04"):
        path.write_bytes(damaged)
        assert f"{path}: is no CIFAR pickle (" in fault(tmp_path, "test")


class Hostile:
    """Would make a file when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduced


@pytest.mark.parametrize("place", ["train", "meta"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, place: str, protocol: int) -> None:
    put_100(tmp_path)
    made = tmp_path / "made"
    for hostile in (
        Hostile(os.mkdir, str(made)),
        Hostile(exec, f"open({str(made)!r}, 'w')"),
        Hostile(np.savez, str(made)),
        Hostile(getattr, Path, "home"),
    ):
        for value in (hostile, {"data": hostile, "fine_labels": [0]}):
            (tmp_path / place).write_bytes(pickle.dumps(value, protocol))
            assert ", which no CIFAR holds" in fault(tmp_path)
            assert f"{tmp_path / place}: is no CIFAR pickle (asks for " in fault(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meta", "test", "train"]
    pickle.loads(pickle.dumps(Hostile(os.mkdir, str(made)), protocol))
    assert made.is_dir()  # and a plain load would have run it


@pytest.mark.parametrize(
    "code",
    [
        b"cnumpy\ndtype.__init__.__globals__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__new__\x93.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"(S'1'\niposix\nsystem\n.",
        b"cnumpy\nndarray\n(dS'pixels'\nI1\nsb.",
        b"\x80\x02Pstranger\n.",
        b"\x80\x02\x82\x01.",
    ],
    ids=["dotted name", "dotted name of protocol 4", "eval", "instance", "state of a class", "persistent", "extension"],
)
def test_by_ways_are_closed(tmp_path: Path, code: bytes) -> None:
    put_100(tmp_path)
    (tmp_path / "test").write_bytes(code)
    assert "is no CIFAR pickle (" in fault(tmp_path, "test")


def test_numpys_own_classes_are_out_of_reach(tmp_path: Path) -> None:
    """An array of objects whose dtype claims to hold none would let bytes pass for pointers."""
    put_100(tmp_path)
    dtype = b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR(I3\nS'|'\nNNNI8\nI8\nI0\ntb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt" + dtype
    (tmp_path / "test").write_bytes(b"(dS'data'\n" + array + b"I00\nS'\\x41\\x41\\x41\\x41\\x41\\x41\\x41\\x41'\ntbs.")
    assert "has an array of 'O8', where only bytes (u1) belong" in fault(tmp_path, "test")


def test_the_real_cifar_100() -> None:
    images = load_cifar(shared_data("cifar100"), "train")
    assert images.images.shape == (50_000, 3, 32, 32)
    assert (images.classes[0], images.classes[-1]) == ("apple", "worm")
    assert images.labels.bincount().tolist() == [500] * 100
    means = [float(images.images[:, channel].float().mean()) / 255 for channel in range(3)]
    assert means == pytest.approx([0.50707516, 0.48654887, 0.44091784], abs=1e-6)  # the published ones
