"""The bundled buildings: 72 for training, 14 + 14 held out, made on first use; and where a run's buildings lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from sideagents_envs.buildings.generator import GENERATOR_VERSION, make_building
from sideagents_envs.cache import cache_dir
from sideagents_envs.config import NavMeshConfig, ScenesConfig
from sideagents_envs.errors import EnvsError, SceneError, nearest

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


def building_seed(name: str) -> int:
    """Return the fixed seed of a bundled building. Raises SceneError for an unknown name."""
    if name not in BUILDING_NAMES:
        raise SceneError(f"there is no bundled building {name!r}{nearest(name, BUILDING_NAMES)}")
    return BUILDING_NAMES.index(name)


def bundled_root() -> Path:
    """Return the folder of the bundled buildings; the generator's version stands in its name."""
    return cache_dir() / f"buildings-v{GENERATOR_VERSION}"


def episodes_file(split: str) -> Path:
    """Return the path of the fixed episode list of a held-out split."""
    return bundled_root() / "episodes" / f"{split}.json.gz"


def _check_split(split: str) -> None:
    if split not in BUNDLED_SPLITS:
        raise EnvsError(f"there is no split {split!r}{nearest(split, BUNDLED_SPLITS)}; allowed: train, val, test")


def _missing(splits: Iterable[str]) -> list[Path]:
    """Return the buildings that are not there yet."""
    wanted = [bundled_root() / split / f"{name}.glb" for split in splits for name in BUNDLED_SPLITS[split]]
    return [p for p in wanted if not (p.exists() and p.with_name(f"{p.stem}.stage_config.json").exists())]


def ensure_bundled(splits: Sequence[str] = ("train", "val", "test"), progress: bool = True) -> Path:
    """Make the buildings of these splits that are missing, and held-out episode lists; return the root folder.

    Files are `{split}/{name}.glb` with `{name}.stage_config.json` beside them, and `episodes/{val,test}.json.gz`.
    Each is written under a temporary name and renamed, and has the same bytes whoever makes it: two processes may run
    at once. `progress` shows a bar on stderr while something is made. Raises EnvsError for an unknown split.
    """
    for split in splits:
        _check_split(split)
    todo = _missing(splits)
    bar = tqdm(total=len(todo), desc="making buildings", unit="building", disable=not (progress and todo))
    with bar:
        for path in todo:
            make_building(building_seed(path.stem), path)
            bar.update()
    for split in splits:
        if split in HELD_OUT and not episodes_file(split).exists():
            _make_episodes(split, progress)
    return bundled_root()


def _make_episodes(split: str, progress: bool) -> None:
    """Write the fixed episode list of a held-out split."""
    # Imported here: navigation costs a second of compiling that a mere look-up of names should not pay.
    from sideagents_envs.episodes import Episode, generate_episodes, write_episodes
    from sideagents_envs.navmesh import cached_navmesh

    episodes: list[Episode] = []
    names = BUNDLED_SPLITS[split]
    for name in tqdm(names, desc=f"{split} episodes", unit="building", disable=not progress):
        navmesh = cached_navmesh(bundled_root() / split / f"{name}.glb", NavMeshConfig())
        made = generate_episodes(
            navmesh, f"{split}/{name}.glb", EPISODES_PER_BUILDING, building_seed(name), first_id=len(episodes)
        )
        episodes.extend(made)
    write_episodes(episodes_file(split), episodes)


def scenes_root(config: ScenesConfig, split: str, progress: bool = True) -> list[Path]:
    """Return the `.glb` files of a split, sorted by name as they are numbered; bundled ones are made when missing.

    `config.dataset` is "bundled" or a folder that holds `{split}/*.glb`; `config.buildings` limits how many training
    buildings are used. Raises EnvsError for an unknown split and SceneError when a folder has no such buildings.
    """
    if config.dataset == "bundled":
        _check_split(split)
        root = ensure_bundled((split,), progress)
        paths = [root / split / f"{name}.glb" for name in BUNDLED_SPLITS[split]]
    else:
        folder = Path(config.dataset).expanduser() / split
        paths = sorted(folder.glob("*.glb"))
        if not paths:
            raise SceneError(
                f"{folder}: no .glb buildings here (scenes.dataset must be 'bundled' or a folder with {{split}}/*.glb)"
            )
    if split == "train" and config.buildings:
        paths = paths[: config.buildings]
    return paths
