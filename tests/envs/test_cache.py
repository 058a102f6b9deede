"""The cache folder: where compiled kernels go, also from an installation that cannot be written to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sideagents_envs
from sideagents_envs import cache

WHERE = """
import sys
FIRST
import sideagents_envs
assert ("numba" in sys.modules) == bool("FIRST")
from sideagents_envs.sensors import occupancy
print(occupancy.__file__)
print(occupancy.draw_map._cache.cache_path)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two modules in place of ours; one holds a kernel."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "fast.py").write_text("@njit(cache=True)\ndef one(): return 1\n")
    (folder / "slow.py").write_text("def two(): return 2\n")
    monkeypatch.setattr(cache, "__file__", str(folder / "cache.py"))
    monkeypatch.setenv("SIDEAGENTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    return folder


def chosen(monkeypatch: pytest.MonkeyPatch) -> Path | None:
    cache.keep_kernels()
    found = os.environ.get("NUMBA_CACHE_DIR")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    return None if found is None else Path(found)


def test_kernels_are_kept_by_the_modules_that_hold_them(package, tmp_path, monkeypatch):
    first = chosen(monkeypatch)
    assert first is not None
    assert first.is_dir()
    assert first.parent == tmp_path / "cache"
    (package / "slow.py").write_text("def two(): return 22\n")
    assert chosen(monkeypatch) == first
    (package / "fast.py").write_text("@njit(cache=True)\ndef one(): return 11\n")
    assert chosen(monkeypatch) not in (first, None)


def test_a_chosen_folder_stays_and_an_unusable_cache_is_passed_over(package, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file, not a folder")
    assert chosen(monkeypatch) is None
    monkeypatch.setenv("NUMBA_CACHE_DIR", "mine")
    assert chosen(monkeypatch) == Path("mine")


@pytest.mark.parametrize("first", ["", "import numba"])
def test_a_read_only_installation_can_be_imported(tmp_path, first):
    """Neither beside the modules nor in a home folder can numba keep its kernels here."""
    copy = shutil.copytree(
        Path(sideagents_envs.__file__).parent,
        tmp_path / "site" / "sideagents_envs",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for room in (copy, copy / "sensors"):
        (room / "__pycache__").write_text("in the way of a folder")
    nowhere = {"HOME": os.devnull, "XDG_CACHE_HOME": os.devnull, "PYTHONDONTWRITEBYTECODE": "1"}
    own = {"PYTHONPATH": str(copy.parent), "SIDEAGENTS_CACHE": str(tmp_path / "cache")}
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"} | nowhere | own
    done = subprocess.run(
        [sys.executable, "-c", WHERE.replace("FIRST", first)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    module, folder = done.stdout.split()
    assert Path(module).parent == copy / "sensors"
    assert (tmp_path / "cache") in Path(folder).parents
