"""Taskonomy's folders: pixels arrive at the right scale, holes are masked, what is missing is named."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from sideagents.data.targets import TARGETS
from sideagents.data.taskonomy_folder import (
    _read_category,
    data_root,
    list_buildings,
    read_parts,
    read_splits,
    read_taskonomy,
)
from sideagents.errors import SideAgentsError

FOLDERS = {
    "rgb": "rgb",
    "depth": "depth_zbuffer",
    "curvature": "principal_curvature",
    "normals": "normal",
    "edges": "edge_texture",
    "segmentation": "segment_semantic",
    "room": "class_scene",
}


def put(root: Path, kind: str, building: str, view: int, pixels: NDArray[Any], suffix: str = "png") -> Path:
    folder = FOLDERS[kind]
    path = root / folder / building / f"point_3_view_{view}_domain_{folder.split('/')[0]}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == "npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels).save(path)
    return path


def rgb(value: int, size: int = 64) -> NDArray[np.uint8]:
    return np.full((size, size, 3), value, np.uint8)


def one(root: Path, task: str, pixels: NDArray[Any], size: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    put(root, "rgb", "house", 0, rgb(51, pixels.shape[0]))
    put(root, task, "house", 0, pixels)
    return read_taskonomy(root, task, size=size).batch(torch.tensor([0]))


def test_depth_is_logarithmic_metres_and_holes_are_masked(tmp_path: Path) -> None:
    pixels = np.full((64, 64), 512, np.uint16)  # 1 m
    pixels[:, 1:5] = [64, 1024, 8192, 60_000]  # 1/8 m, 2 m, 16 m, 117 m
    pixels[0, 0] = 65_535
    images, target, weight = one(tmp_path, "depth", pixels)
    assert images.shape == (1, 3, 64, 64)
    assert images.unique().tolist() == pytest.approx([51 / 255])
    expected = [-1 / 7, -1.0, 1 / 7, 1.0, 1.0]
    assert target[0, 0, 5, :5].tolist() == pytest.approx(expected, abs=1e-6)
    assert weight[0, 0, 0, 0] == 0
    assert weight.sum() == 64 * 64 - 1


def test_curvature_has_two_channels_with_an_exact_zero(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[..., :2] = 127
    pixels[0, 0, :2] = (255, 63)
    _, target, _ = one(tmp_path, "curvature", pixels)
    assert target.shape == (1, 2, 64, 64)
    assert target[0, :, 0, 0].tolist() == [1.0, -0.5]
    assert target[0, :, 1:].abs().max() == 0


def test_edges_of_16_and_8_bits_agree(tmp_path: Path) -> None:
    _, deep, _ = one(tmp_path / "a", "edges", np.full((64, 64), 65_535 // 5, np.uint16))
    _, flat, _ = one(tmp_path / "b", "edges", np.full((64, 64), 255 // 5, np.uint8))
    assert deep.unique().tolist() == pytest.approx([2 / 5**0.5 - 1])
    assert torch.equal(deep, flat)


def test_the_image_is_its_own_target(tmp_path: Path) -> None:
    put(tmp_path, "rgb", "house", 0, rgb(255))
    for task in ("autoencoding", "denoising"):
        data = read_taskonomy(tmp_path, task)
        images, target, weight = data.batch(torch.tensor([0, 0]))
        assert (images.unique().item(), target.unique().item(), weight.unique().item()) == (1, 1, 1)
        assert (data.raw, data.valid) == (None, None)


def test_npy_targets_are_taken_as_they_are(tmp_path: Path) -> None:
    put(tmp_path, "rgb", "house", 0, rgb(0))
    put(tmp_path, "normals", "house", 0, np.full((64, 64, 3), -0.25, np.float64), "npy")
    _, target, _ = read_taskonomy(tmp_path, "normals").batch(torch.tensor([0]))
    assert target.unique().tolist() == [-0.25]


def test_headers_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "classes.npy"
    np.save(path, np.array([0.25, 0.75], np.float32))
    inside: list[int] = []
    load = np.load

    def slow(*args: Any, **kwargs: Any) -> Any:
        inside.append(1)
        assert len(inside) == 1
        time.sleep(0.002)
        inside.pop()
        return load(*args, **kwargs)

    monkeypatch.setattr(np, "load", slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(_read_category, [path] * 12))
    assert all(one.ravel().tolist() == [0.25, 0.75] for one in found)


def test_a_mirrored_normal_changes_the_sign_of_x(tmp_path: Path) -> None:
    put(tmp_path, "rgb", "house", 0, rgb(0))
    normals = np.zeros((64, 64, 3))
    normals[:, :32, 0], normals[..., 1] = 0.5, 0.25
    put(tmp_path, "normals", "house", 0, normals, "npy")
    data = read_taskonomy(tmp_path, "normals")
    images, target, weight = data.batch(torch.tensor([0, 0]))
    _, mirrored, _ = data.mirror(images, target, weight, torch.tensor([False, True]))
    assert torch.equal(mirrored[0], target[0])
    assert mirrored[1, :, 0, 0].tolist() == [0.0, 0.25, 0.0]
    assert mirrored[1, :, 0, 63].tolist() == [-0.5, 0.25, 0.0]
    assert all(set(task.mirrored_sign) <= {-1.0, 1.0} for task in TARGETS.values())


def test_large_images_shrink_by_area_and_holes_do_not_smear(tmp_path: Path) -> None:
    """A 512x512 Taskonomy image: a hole spreads by two of its pixels, and its 65535 never enters a mean."""
    pixels = np.full((512, 512), 512, np.uint16)
    pixels[:, 256:] = 2048
    pixels[80:96, 80:96] = 65_535
    _, target, weight = one(tmp_path, "depth", pixels)
    metres = 2 ** (target[0, 0] * 3.5 + 0.5)
    assert metres[weight[0, 0] > 0].unique().tolist() == pytest.approx([1.0, 4.0], abs=1e-4)
    assert (weight[0, 0] == 0).nonzero().tolist() == [[10, 10], [10, 11], [11, 10], [11, 11]]
    put(
        tmp_path / "c",
        "rgb",
        "house",
        0,
        np.tile(np.array([[0, 200]], np.uint8).repeat(3).reshape(1, 2, 3), (64, 64, 1)),
    )
    assert read_taskonomy(tmp_path / "c", "autoencoding").images.unique().tolist() == [100]


def test_views_are_matched_and_chosen(tmp_path: Path) -> None:
    for building in ("b", "a"):
        for view in (10, 2, 1):
            put(tmp_path, "rgb", building, view, rgb(view))
            put(tmp_path, "edges", building, view, np.full((64, 64), view, np.uint8))
    put(tmp_path, "rgb", "a", 99, rgb(0))  # no target for this one
    (tmp_path / "rgb" / "a" / "Thumbs.db").write_text("x")
    data = read_taskonomy(tmp_path, "edges")
    assert data.keys == [("a", 3, 1), ("a", 3, 2), ("a", 3, 10), ("b", 3, 1), ("b", 3, 2), ("b", 3, 10)]
    assert data.raw is not None
    assert torch.equal(data.images[:, 0, 0, 0], data.raw[:, 0, 0, 0])
    assert read_taskonomy(tmp_path, "edges", buildings=["b"]).buildings == ["b"]
    assert read_taskonomy(tmp_path, "edges", limit=2).keys == [("a", 3, 1), ("b", 3, 10)]
    assert list_buildings(tmp_path) == ["a", "b"]
    assert data.digest() == read_taskonomy(tmp_path, "edges").digest()
    put(tmp_path, "edges", "b", 2, np.full((64, 64), 3, np.uint8))
    assert data.digest() != read_taskonomy(tmp_path, "edges").digest()


def test_the_omnidata_download_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FOLDERS, "rgb", "rgb/taskonomy")
    monkeypatch.setitem(FOLDERS, "depth", "depth_zbuffer/taskonomy")
    assert one(tmp_path, "depth", np.full((64, 64), 512, np.uint16))[1].mean() == pytest.approx(-1 / 7)


def test_splits_file(tmp_path: Path) -> None:
    path = tmp_path / "train_val_test_tiny.csv"
    path.write_text("id,train,val,test\nallensville,1,0,0\ncorozal,0,1,0\nhanson,1,0,0\n")
    assert read_splits(path) == {"train": ["allensville", "hanson"], "val": ["corozal"], "test": []}
    path.write_text("name,fold\nx,1\n")
    with pytest.raises(SideAgentsError, match="is no split file"):
        read_splits(path)


def test_the_data_root_falls_back_to_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own" / "tiny").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("SIDEAGENTS_DATA", raising=False)
    absent = r"no such folder tiny \(nor below SIDEAGENTS_DATA, which is not set\); `sideagents scenes render"
    with pytest.raises(SideAgentsError, match=absent):
        data_root("tiny")
    (tmp_path / "shared" / "data" / "tiny").mkdir(parents=True)  # beside the project: nothing is looked for there
    with pytest.raises(SideAgentsError, match=absent):
        data_root("tiny")
    monkeypatch.setenv("SIDEAGENTS_DATA", str(tmp_path / "own"))
    assert data_root("tiny") == tmp_path / "own" / "tiny"
    with pytest.raises(SideAgentsError, match=r"no such folder tinny \(nor below .*own\)"):
        data_root("tinny")


def test_what_is_missing_or_broken_is_one_line(tmp_path: Path) -> None:
    def fault(task: str = "depth", **options: Any) -> str:
        with pytest.raises(SideAgentsError) as caught:
            read_taskonomy(tmp_path / "data", task, **options)
        message = str(caught.value)
        assert "\n" not in message
        return message

    assert "no such data folder; `sideagents scenes render" in fault()
    assert "did you mean 'depth'?" in fault("deptth")
    (tmp_path / "data" / "rgb" / "house").mkdir(parents=True)
    assert "holds no BUILDING/point_X" in fault()
    put(tmp_path / "data", "rgb", "house", 0, rgb(0))
    assert "has no folder depth_zbuffer or depth (it has rgb)" in fault()
    assert "omnitools.download rgb depth_zbuffer" in fault()
    put(tmp_path / "data", "depth", "house", 1, np.zeros((64, 64), np.uint16))
    assert "no image has all that is needed (1 rgb, 1 target, 1 mask files" in fault()
    assert "has no images of building 'hose', did you mean 'house'?" in fault(buildings=["hose"])
    path = put(tmp_path / "data", "depth", "house", 0, np.arange(4096, dtype=np.uint16).reshape(64, 64))
    path.write_bytes(path.read_bytes()[:100])
    assert str(path) in fault()
    assert "cannot be read as an image" in fault()
    put(tmp_path / "data", "rgb", "house", 0, np.zeros((64, 64), np.uint8))
    assert "needs 3 channels, got an array of shape (64, 64, 1)" in fault("autoencoding")


def test_an_npy_that_would_run_code_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "rgb", "house", 0, rgb(0))
    path = put(tmp_path, "normals", "house", 0, np.zeros((64, 64, 3)), "npy")
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SideAgentsError, match="holds objects"):
        read_taskonomy(tmp_path, "normals")


def test_class_numbers_are_not_averaged(tmp_path: Path) -> None:
    put(tmp_path, "rgb", "house", 0, rgb(0, 128))
    numbers = np.zeros((128, 128), np.uint8)
    numbers[:, 64:] = 17
    path = put(tmp_path, "segmentation", "house", 0, numbers)
    data = read_taskonomy(tmp_path, "segmentation", size=64)
    assert data.raw is not None
    assert data.raw.shape == (1, 1, 64, 64)
    assert data.raw.unique().tolist() == [0, 17]
    put(tmp_path, "segmentation", "house", 0, numbers + 1)
    with pytest.raises(SideAgentsError, match=rf"{path.name}: segmentation has classes 0..17 in 8 bits, found 18"):
        read_taskonomy(tmp_path, "segmentation")


def test_categories_are_distributions(tmp_path: Path) -> None:
    put(tmp_path, "rgb", "house", 0, rgb(0))
    path = put(tmp_path, "room", "house", 0, np.array([[0.25, 0.75]], np.float32), "npy")
    data = read_taskonomy(tmp_path, "room")
    assert data.outputs == (2,)
    assert data.batch(torch.tensor([0]))[1].flatten().tolist() == [0.25, 0.75]
    for numbers in ([0.25, 0.25], [1.0], [1.5, -0.5], [np.nan, 1.0]):
        np.save(path, np.array(numbers, np.float32))
        with pytest.raises(SideAgentsError, match="must hold the probabilities of two classes or more"):
            read_taskonomy(tmp_path, "room")
    np.save(path, np.array([0.5, 0.5], np.float32))
    put(tmp_path, "rgb", "house", 1, rgb(0))
    put(tmp_path, "room", "house", 1, np.array([0.5, 0.25, 0.25], np.float32), "npy")
    with pytest.raises(SideAgentsError, match="targets are stored in different sizes"):
        read_taskonomy(tmp_path, "room")


def test_parts_share_no_building(tmp_path: Path) -> None:
    for building in range(12):
        put(tmp_path, "rgb", f"house{building:02}", 0, rgb(0))
    train, test = read_parts(tmp_path, "autoencoding")
    assert test.buildings == ["house05"]
    assert len(train) == 11
    assert "house05" not in train.buildings
    with pytest.raises(SideAgentsError, match="building 'house00' is among the training buildings too"):
        read_parts(tmp_path, "autoencoding", held_out=tmp_path)
