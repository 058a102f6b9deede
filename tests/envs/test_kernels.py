"""Compiled functions: said when it happens, kept for all equal installations, each compiled for one kind of call."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import sideagents_envs
from mesh_shapes import two_storeys
from sideagents_envs.walk.navmesh import NavMesh

LINE = "compiling the simulator (once on this machine, up to a minute)\n"
PROGRAM = "import numpy, sideagents_envs.kernels as k; assert k.wide(numpy.int32(3)) == 3"
MODULES = ("kernels", "walk.clearance", "walk.geodesic", "walk.motion", "walk.points", "walk.voxels")


def said(cache: Path, package: Path, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA", "SIDEAGENTS"))}
    kept |= {"SIDEAGENTS_CACHE": str(cache), "PYTHONPATH": str(package), **environment}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=kept, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr


def test_compiling_is_said_when_it_happens_and_shared_by_equal_installations(tmp_path: Path) -> None:
    here = Path(sideagents_envs.__file__).parent
    assert said(tmp_path / "other", here.parent, RANK="1") == ""  # the first of several processes says it
    assert said(tmp_path / "third", here.parent, SIDEAGENTS_TOLD_OF_COMPILING="1") == ""
    cache = tmp_path / "cache"
    assert said(cache, here.parent) == LINE
    assert said(cache, here.parent) == ""
    copy = shutil.copytree(here, tmp_path / "site" / here.name, ignore=shutil.ignore_patterns("__pycache__"))
    assert said(cache, copy.parent) == ""
    (copy / "errors.py").write_text((copy / "errors.py").read_text() + "\n# no kernel is in it\n")
    assert said(cache, copy.parent) == ""
    (copy / "walk" / "points.py").write_text((copy / "walk" / "points.py").read_text() + "\n# kernels are in it\n")
    assert said(cache, copy.parent) == LINE


def test_each_kernel_is_compiled_for_one_kind_of_call() -> None:
    """A second kind, such as a 32-bit integer or a constant, is seconds of a user's first start."""
    navmesh = NavMesh.from_mesh(*two_storeys())
    points = navmesh.sample(np.random.default_rng(0), 20)
    navmesh.distance_field(points[0]).values(points)
    navmesh.try_steps(points, points + 0.2)
    navmesh.snap(points[0] + 0.3)
    navmesh.topdown(0.5, 0.0)
    found = {}
    for module in MODULES:
        for name, kernel in vars(importlib.import_module(f"sideagents_envs.{module}")).items():
            if hasattr(kernel, "nopython_signatures") and name not in ("wide",):
                found[f"{module}.{name}"] = len(kernel.nopython_signatures)
    assert len(found) > 25
    assert {name: count for name, count in found.items() if count > 1} == {}
