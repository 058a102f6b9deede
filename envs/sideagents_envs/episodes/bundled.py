"""The bundled buildings: 72 for training, 14 + 14 held out, made on first use; and where a run's buildings lie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from sideagents_envs.buildings.generator import GENERATOR_VERSION, make_building
from sideagents_envs.cache import cache_dir
from sideagents_envs.config import NavMeshConfig, ScenesConfig
from sideagents_envs.errors import EnvsError, SceneError, nearest
from sideagents_envs.versions import LISTS_VERSION

EPISODES_PER_BUILDING = 71  # 14 buildings x 71 = 994, as in Gibson's val split
# fmt: off
_TREES = (
    "Amber", "Birch", "Cedar", "Dawn", "Elder", "Fern", "Granite", "Hazel", "Ivory", "Juniper",
    "Kestrel", "Larch", "Maple", "Nettle", "Olive", "Pebble", "Quartz", "Rowan", "Saffron", "Thistle",
)
# fmt: on
_PLACES = ("brook", "court", "croft", "fold", "gate", "hearth", "holm", "mead", "stead", "wick")


def _names() -> list[str]:
    """Return a hundred distinct names, a building's seed being its place in the list."""
    return [tree + _PLACES[(i + 2 * lap + i // 10) % 10] for lap in range(5) for i, tree in enumerate(_TREES)]


BUILDING_NAMES = tuple(_names())
BUNDLED_SPLITS: dict[str, tuple[str, ...]] = {
    "train": BUILDING_NAMES[:72],
    "val": BUILDING_NAMES[72:86],
    "test": BUILDING_NAMES[86:],
}
HELD_OUT = ("val", "test")
_WORTH_HELP = 8  # with fewer buildings to make, starting a second process costs more than it saves


def building_seed(name: str) -> int:
    """Return the fixed seed of a bundled building. Raises SceneError for an unknown name."""
    if name not in BUILDING_NAMES:
        raise SceneError(f"there is no bundled building {name!r}{nearest(name, BUILDING_NAMES)}")
    return BUILDING_NAMES.index(name)


def bundled_root() -> Path:
    """Return the folder of the bundled buildings; the generator's version stands in its name."""
    return cache_dir() / f"buildings-v{GENERATOR_VERSION}"


def episodes_root() -> Path:
    """Return the folder of the held-out episodes: they change with the walkable space and with how they are drawn."""
    return bundled_root() / f"episodes-v{LISTS_VERSION}"


def episodes_file(split: str) -> Path:
    """Return the path of the fixed episode list of a held-out split."""
    return episodes_root() / f"{split}.json.gz"


def _building_file(split: str, name: str) -> Path:
    return bundled_root() / split / f"{name}.glb"


def _episodes_part(split: str, name: str) -> Path:
    return episodes_root() / split / f"{name}.json.gz"


def _check_split(split: str) -> None:
    if split not in BUNDLED_SPLITS:
        raise EnvsError(f"there is no split {split!r}{nearest(split, BUNDLED_SPLITS)}; allowed: train, val, test")


def _is_made(split: str, name: str) -> bool:
    """Return True when a building, its stage config and, if it is held out, its episodes are there."""
    path = _building_file(split, name)
    made = path.exists() and path.with_name(f"{name}.stage_config.json").exists()
    return made and (split not in HELD_OUT or _episodes_part(split, name).exists())


def _make(split: str, name: str) -> None:
    """Make one building, and its episodes if it is held out."""
    path = _building_file(split, name)
    if not (path.exists() and path.with_name(f"{name}.stage_config.json").exists()):
        make_building(building_seed(name), path)
    if split in HELD_OUT:
        # Imported here: walkable space compiles for a second, which making training buildings need not pay.
        from sideagents_envs.episodes.files import generate_episodes, write_episodes
        from sideagents_envs.episodes.ground import on_ground
        from sideagents_envs.scenes.scene import load_scene
        from sideagents_envs.walk.navmesh import cached_navmesh

        navmesh = cached_navmesh(path, NavMeshConfig())
        first = BUNDLED_SPLITS[split].index(name) * EPISODES_PER_BUILDING
        scene_id = f"{split}/{name}.glb"
        episodes = generate_episodes(navmesh, scene_id, EPISODES_PER_BUILDING, building_seed(name), first_id=first)
        write_episodes(_episodes_part(split, name), on_ground(episodes, load_scene(path)))


def make_missing(todo: Sequence[Sequence[str]], bar: tqdm[NoReturn] | None = None) -> None:
    """Make each (split, name) of `todo` that is not there when its turn comes."""
    for split, name in todo:
        if not _is_made(split, name):
            _make(split, name)
        if bar is not None:
            bar.update(sum(_is_made(*job) for job in todo) - bar.n)


def help_out() -> None:
    """Be the second process: make what argv[1] lists, and end when the first one does, however that happens."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    make_missing(json.loads(sys.argv[1]))


def _end_with_parent() -> None:
    os.read(0, 1)  # returns when the parent is gone: nothing is ever written to this pipe
    os._exit(1)


@contextmanager
def _helper(todo: Sequence[Sequence[str]]) -> Iterator[int]:
    """Run a second process that works through `todo` from its end, until the two meet; yield its process id.

    A process of its own rather than multiprocessing, which would import the user's script again.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", "from sideagents_envs.episodes import bundled; bundled.help_out()", json.dumps(todo)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        try:
            yield process.pid
            process.wait()
        finally:
            process.kill()


def ensure_bundled(
    splits: Sequence[str] = ("train", "val", "test"), progress: bool = True, training: Collection[str] | None = None
) -> Path:
    """Make the buildings of these splits that are missing, and held-out episode lists; return the root folder.

    training: which buildings of the split `train` are needed; None: all.

    Files are `{split}/{name}.glb` with `{name}.stage_config.json` beside them, and `episodes-vE.N/{val,test}.json.gz`
    (also split by building, `episodes-vE.N/val/{name}.json.gz`; E and N are EPISODES_VERSION and NAVMESH_VERSION).
    Each is written under a temporary name and renamed, and has the same bytes whoever makes it: several processes may
    do this at once. With much to do a second process helps.
    `progress` shows a bar on stderr while something is made. Raises EnvsError for an unknown split.
    """
    for split in splits:
        _check_split(split)
    needed = [
        (split, name)
        for split in splits
        for name in BUNDLED_SPLITS[split]
        if split != "train" or training is None or name in training
    ]
    todo = [job for job in needed if not _is_made(*job)]
    with (
        tqdm(total=len(todo), desc="making buildings", unit="building", disable=not (progress and todo)) as bar,
        _helper(todo[::-1]) if len(todo) >= _WORTH_HELP else nullcontext(),
    ):
        make_missing(todo, bar)
    make_missing(todo)  # whatever a helper that died has left
    for split in splits:
        if split in HELD_OUT and not episodes_file(split).exists():
            _join_episodes(split)
    return bundled_root()


def _join_episodes(split: str) -> None:
    """Write the fixed episode list of a held-out split from those of its buildings, which it visits in turn."""
    from sideagents_envs.episodes.files import dealt, read_episodes, write_episodes

    parts = [read_episodes(_episodes_part(split, name)) for name in BUNDLED_SPLITS[split]]
    write_episodes(episodes_file(split), dealt(chain.from_iterable(parts)))


def dataset_name(config: ScenesConfig) -> str:
    """Return what results say of their buildings: `bundled-vN` with the generator's version, or the folder's name."""
    return f"bundled-v{GENERATOR_VERSION}" if config.folder is None else config.folder.resolve().name


def scenes_root(config: ScenesConfig, split: str, progress: bool = True) -> list[Path]:
    """Return the `.glb` files of a split, sorted by name as they are numbered; bundled ones are made when missing.

    `config.dataset` is "bundled" or a folder that holds `{split}/*.glb`; `config.buildings` limits how many training
    buildings are used. Raises EnvsError for an unknown split and SceneError when a folder has no such buildings.
    """
    dataset = config.folder
    if dataset is None:
        _check_split(split)
        names = BUNDLED_SPLITS[split]
        kept = chosen_buildings(names, config, f"{config.dataset!r}") if split == "train" else list(names)
        root = ensure_bundled((split,), progress, training=kept)
        return [root / split / f"{name}.glb" for name in kept]
    folder = dataset / split
    paths = sorted(folder.glob("*.glb"))
    if not paths:
        raise SceneError(
            f"{folder}: no .glb buildings here (scenes.dataset must be 'bundled' or a folder with {{split}}/*.glb)"
        )
    if split != "train":
        return paths
    kept = chosen_buildings([path.stem for path in paths], config, f"{config.dataset!r}")
    return [path for path in paths if path.stem in kept]


def chosen_buildings(names: Sequence[str], config: ScenesConfig, where: str) -> list[str]:
    """Return the training buildings that `only` and `buildings` leave; raises SceneError for a name not among them."""
    for name in config.only:
        if name not in names:
            raise SceneError(f"{where}: has no training building {name!r}{nearest(name, names)} (scenes.only)")
    kept = [name for name in names if name in config.only] if config.only else list(names)
    return kept[: config.buildings or None]
