"""Taskonomy's folder layout (Zamir et al. 2018), for the real data set and for images rendered from buildings.

    ROOT/rgb/BUILDING/point_X_view_Y_domain_rgb.png
    ROOT/TASK/BUILDING/point_X_view_Y_domain_TASK.png (or .npy)

A level `taskonomy` between task and building, as the Omnidata download has it, is found too. Targets: `TARGETS`.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sideagents.data.image_set import ImageSet, Key
from sideagents.data.images import UNREADABLE, open_image
from sideagents.data.targets import INVALID_DEPTH, TARGETS, Target
from sideagents.errors import ConfigError, SideAgentsError, first_line, nearest
from sideagents.run.progress import Progress
from sideagents.storage.arrays import read_npy
from sideagents.storage.files import find_data, missing_folder, read_text

Array = NDArray[Any]

_FILE = re.compile(r"point_(\d+)_view_(\d+)_domain_\w+\.(?:png|npy)")
_ONE_AT_A_TIME = Lock()  # numpy reads headers by ast.literal_eval, which Python 3.11 does not let threads do at once
_HELD_OUT_SHARE = 10  # without a split, every tenth building is held out
_DILATE = 2 / 512  # invalid pixels spread by two pixels of Taskonomy's 512: the rim of a hole is not to be trusted
_REMEDY = (
    "`sideagents scenes render --out FOLDER` makes such a folder from buildings; Taskonomy itself comes by "
    "`omnitools.download rgb {tasks} --components taskonomy --subset tiny` (docs.omnidata.vision)"
)


def data_root(name: str) -> Path:
    """Return a data folder: as given when it exists, else below `data_folder()`; raises `SideAgentsError`."""
    found = Path(find_data(name))
    if found.is_dir():
        return found
    raise SideAgentsError(f"{missing_folder(found)}; {_REMEDY.format(tasks='depth_zbuffer ...')}")


def read_taskonomy(
    root: Path,
    task: str,
    *,
    buildings: Collection[str] | None = None,
    size: int = 64,
    limit: int = 0,
) -> ImageSet:
    """Read all images that have RGB and the task's target, resized to `size` x `size` pixels.

    `buildings` limits to these, `limit` (0 = no limit) to that many images, spread evenly. Raises `SideAgentsError`
    with one line that says what is missing and where to get it.
    """
    if task not in TARGETS:
        raise SideAgentsError(f"unknown task {task!r}{nearest(task, TARGETS)} (known: {', '.join(TARGETS)})")
    target = TARGETS[task]
    wanted = " ".join(target.folders[:1]) or "rgb"
    if not root.is_dir():
        raise SideAgentsError(f"{root}: no such data folder; {_REMEDY.format(tasks=wanted)}")
    files = {"rgb": _task_files(root, ("rgb",), wanted)}
    if target.folders:
        files["target"] = _task_files(root, target.folders, wanted)
    if target.masked:
        mask = _find_task(root, ("mask_valid",)) or _find_task(root, ("depth_zbuffer", "depth"))
        files |= {"mask": _files(mask)} if mask else {}
    keys = _common_keys(root, files, buildings)
    if limit and len(keys) > limit:
        keys = [keys[int(index)] for index in np.linspace(0, len(keys) - 1, limit)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, Progress(len(keys), f"reading {task}", unit="image") as shown:
        read: list[tuple[Array, Array | None, Array | None]] = []
        for sample in pool.map(lambda key: _read_sample(files, key, target, size), keys):
            read.append(sample)
            shown.update()
    return ImageSet(
        target,
        torch.from_numpy(np.stack([image for image, _, _ in read])),
        _stack([raw for _, raw, _ in read], root),
        None
        if read[0][2] is None
        else torch.from_numpy(np.stack([valid for _, _, valid in read if valid is not None])),
        keys,
    )


def read_parts(
    root: Path,
    task: str,
    *,
    held_out: Path | None = None,
    splits: Path | None = None,
    size: int = 64,
    images: int = 0,
    held_out_images: int = 0,
) -> tuple[ImageSet, ImageSet]:
    """Read training and held-out images; no building is in both.

    held_out: another folder with the held-out buildings; without it those of the part `val` of the split file, or
    every tenth building. images, held_out_images: at most so many, spread evenly, 0 = all. Raises
    `SideAgentsError`, `ConfigError` where there are too few buildings or one is in both.
    """
    train: list[str] | None = None
    apart: list[str] | None = None
    if held_out is None:
        known = list_buildings(root)
        if splits is not None:
            parts = read_splits(splits)
            train, apart = ([name for name in parts.get(part, []) if name in known] for part in ("train", "val"))
        else:
            apart = known[_HELD_OUT_SHARE // 2 :: _HELD_OUT_SHARE] or known[-1:]
            train = [name for name in known if name not in apart]
        if not train or not apart:
            raise ConfigError(
                f"data {root}: {len(train)} training and {len(apart)} held-out buildings; give a folder with held-out "
                "buildings, or splits=FILE.csv, or make images of more buildings"
            )
    first = read_taskonomy(root, task, buildings=train, size=size, limit=images)
    second = read_taskonomy(held_out or root, task, buildings=apart, size=size, limit=held_out_images)
    shared = sorted(set(first.buildings) & set(second.buildings))
    if shared:
        raise ConfigError(f"held_out {held_out}: building {shared[0]!r} is among the training buildings too")
    return first, second


def list_buildings(root: Path) -> list[str]:
    """Return the names of the buildings that have RGB images; raises `SideAgentsError` when there is none."""
    return sorted({building for building, _, _ in _task_files(root, ("rgb",), "rgb")})


def read_splits(path: Path) -> dict[str, list[str]]:
    """Read Taskonomy's split file (CSV: id,train,val,test with 0 and 1); raises `SideAgentsError` for another."""
    rows = list(csv.DictReader(read_text(path).splitlines()))
    splits = [name for name in ("train", "val", "test") if rows and name in rows[0]]
    if not splits or "id" not in rows[0]:
        raise SideAgentsError(f"{path}: is no split file (its first line must be id,train,val,test)")
    return {split: [row["id"] for row in rows if row[split] == "1"] for split in splits}


def _find_task(root: Path, folders: tuple[str, ...]) -> Path | None:
    for name in folders:
        if (root / name).is_dir():
            return root / name
    return None


def _task_files(root: Path, folders: tuple[str, ...], wanted: str) -> dict[Key, Path]:
    found = _find_task(root, folders)
    if found is None:
        has = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) or "no folder"
        raise SideAgentsError(
            f"{root}: has no folder {' or '.join(folders)} (it has {has}); {_REMEDY.format(tasks=wanted)}"
        )
    files = _files(found)
    if not files:
        raise SideAgentsError(f"{found}: holds no BUILDING/point_X_view_Y_domain_Z.png; {_REMEDY.format(tasks=wanted)}")
    return files


def _files(folder: Path) -> dict[Key, Path]:
    """Return the path of every (building, point, view) below a task's folder."""
    if (folder / "taskonomy").is_dir():
        folder = folder / "taskonomy"
    found: dict[Key, Path] = {}
    for building in sorted(path for path in folder.iterdir() if path.is_dir()):
        for entry in os.scandir(building):
            match = _FILE.fullmatch(entry.name)
            if match:
                found[building.name, int(match[1]), int(match[2])] = Path(entry.path)
    return found


def _common_keys(root: Path, files: dict[str, dict[Key, Path]], buildings: Collection[str] | None) -> list[Key]:
    known = {building for building, _, _ in files["rgb"]}
    for building in buildings or ():
        if building not in known:
            raise SideAgentsError(f"{root}: has no images of building {building!r}{nearest(building, sorted(known))}")
    keys = set.intersection(*(set(table) for table in files.values()))
    if buildings is not None:
        keys = {key for key in keys if key[0] in set(buildings)}
    if not keys:
        counts = ", ".join(f"{len(table)} {kind}" for kind, table in files.items())
        raise SideAgentsError(f"{root}: no image has all that is needed ({counts} files, but not of the same views)")
    return sorted(keys)


def _read_sample(
    files: dict[str, dict[Key, Path]], key: Key, target: Target, size: int
) -> tuple[Array, Array | None, Array | None]:
    """Return image uint8 (3, S, S), raw target (C, S, S) or None, validity bool (1, S, S) or None."""
    valid = _read_valid(files["mask"][key]) if "mask" in files else None
    image = _resize(_read(files["rgb"][key], 3), size, None)
    raw = None
    if "target" in files:
        raw = _read_target(files["target"][key], target, size, valid)
    if valid is not None:
        valid = _resize(valid.astype(np.uint8) * 255, size, None) >= 128
    return image, raw, valid


def _read_target(path: Path, target: Target, size: int, valid: Array | None) -> Array:
    if target.kind == "category":
        return _read_category(path)
    if target.kind == "map":
        return _resize(_read(path, target.channels), size, valid)
    numbers = _read(path, 1)
    if numbers.dtype != np.uint8 or int(numbers.max(initial=0)) >= target.channels:
        limit = f"{target.name} has classes 0..{target.channels - 1} in 8 bits"
        raise SideAgentsError(f"{path}: {limit}, found {numbers.max(initial=0)} as {numbers.dtype}")
    nearest_one = Image.fromarray(numbers[0]).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(nearest_one)[None]


def _load(path: Path) -> Array:
    with _ONE_AT_A_TIME:
        return read_npy(path)


def _read_category(path: Path) -> Array:
    """Return a distribution over classes as float32 (classes, 1, 1)."""
    numbers = _load(path)
    try:
        found = numbers.astype(np.float32).reshape(-1, 1, 1)
    except (TypeError, ValueError) as error:
        raise SideAgentsError(f"{path}: cannot be read as numbers ({first_line(error)})") from None
    if found.size < 2 or not np.isfinite(found).all() or abs(float(found.sum()) - 1.0) > 1e-2 or found.min() < 0:
        raise SideAgentsError(f"{path}: must hold the probabilities of two classes or more, which sum to 1")
    return np.asarray(found)


def _read(path: Path, channels: int) -> Array:
    """Return an image as (channels, H, W): uint8, uint16 or float32 as in the file."""
    try:
        if path.suffix == ".npy":
            pixels = _load(path)
        else:
            with open_image(path) as image:
                pixels = np.asarray(image)
    except SideAgentsError:
        raise
    except UNREADABLE as error:
        raise SideAgentsError(f"{path}: cannot be read as an image ({first_line(error)})") from None
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] < channels:
        raise SideAgentsError(f"{path}: needs {channels} channels, got an array of shape {pixels.shape}")
    if pixels.dtype == np.int32:  # how Pillow may open 16-bit images
        pixels = pixels.astype(np.uint16)
    if pixels.dtype not in (np.uint8, np.uint16, np.float16, np.float32, np.float64):
        raise SideAgentsError(f"{path}: pixels must be 8-bit, 16-bit or float, got {pixels.dtype}")
    kept = np.moveaxis(pixels[:, :, :channels], 2, 0)
    return np.ascontiguousarray(kept.astype(np.float32) if kept.dtype.kind == "f" else kept)


def _read_valid(path: Path) -> Array:
    """Return bool (1, H, W): false where a depth image says that nothing was hit, and close to it."""
    pixels = _read(path, 1)
    valid = np.asarray(pixels < INVALID_DEPTH if pixels.dtype == np.uint16 else pixels > 0)
    reach = round(_DILATE * valid.shape[1])
    if reach == 0 or valid.all():
        return valid
    invalid = torch.from_numpy(~valid).float()[None]
    return np.asarray(torch.nn.functional.max_pool2d(invalid, 2 * reach + 1, 1, reach)[0].numpy() == 0)


def _resize(pixels: Array, size: int, valid: Array | None) -> Array:
    """Return (C, size, size) of the same type: means over the area, of valid pixels alone when they are given."""
    if pixels.shape[1:] == (size, size):
        return pixels
    weight = np.ones_like(pixels[:1], dtype=np.float32) if valid is None else valid.astype(np.float32)
    total = _shrink(weight[0], size)
    planes = [_shrink(plane.astype(np.float32) * weight[0], size) / np.maximum(total, 1e-6) for plane in pixels]
    resized: Array = np.stack(planes)
    if pixels.dtype.kind == "f":
        return resized
    return np.asarray(np.rint(resized).clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype))


def _shrink(plane: Array, size: int) -> Array:
    return np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BOX))


def _stack(arrays: list[Array | None], root: Path) -> Tensor | None:
    found = [array for array in arrays if array is not None]
    if not found:
        return None
    kinds = {array.dtype for array in found}
    if len({array.shape for array in found}) > 1:
        raise SideAgentsError(f"{root}: targets are stored in different sizes")
    if len(kinds) > 1:
        raise SideAgentsError(f"{root}: targets are stored in different types ({', '.join(sorted(map(str, kinds)))})")
    stacked = torch.from_numpy(np.stack(found))
    return stacked.half() if stacked.is_floating_point() else stacked
