"""Importing habitat-lab, with or without habitat-sim."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from sideagents_envs.errors import EnvsError

SIMULATOR_NAME = "SideAgents-v0"
INSTALL_LAB = "pip install 'sideagents[habitat]' (habitat-lab 0.3 with numpy 1.26; tested on Python 3.11)"
INSTALL_SIM = (
    "conda install -c conda-forge -c aihabitat habitat-sim headless (Python 3.9; from source for newer ones); "
    "without a GPU or EGL set habitat.gpu_device_id=-1"
)


def has_habitat_lab() -> bool:
    """Whether habitat-lab is installed."""
    return importlib.util.find_spec("habitat") is not None


def has_habitat_sim() -> bool:
    """Whether habitat-sim is installed."""
    return importlib.util.find_spec("habitat_sim") is not None


def import_habitat() -> ModuleType:
    """Import habitat-lab; where habitat-sim is absent, others stand in for the four modules of it that need it.

    Raises EnvsError, with the remedy, when habitat-lab is absent or cannot be imported.
    """
    if "habitat" in sys.modules:
        return sys.modules["habitat"]
    if not has_habitat_lab():
        raise EnvsError(f"env: habitat needs habitat-lab: {INSTALL_LAB}")
    stand_in()
    try:
        return importlib.import_module("habitat")
    except ImportError as error:
        raise EnvsError(
            f"habitat-lab is installed but cannot be imported ({error}); a missing libGL.so.1 or libEGL.so.1 comes "
            "with the packages libgl1, libglib2.0-0 and libegl1 of the system"
        ) from error


def quiet_gym() -> None:
    """Keep the old gym, which habitat-lab uses and stable-baselines3 imports, from printing its advice every time."""
    if importlib.util.find_spec("gym_notices") is not None:
        importlib.import_module("gym_notices.notices").notices.clear()


def stand_in() -> None:
    """Let `import habitat` find something in the place of the modules that fail without habitat-sim.

    Nothing is imported by it. To be called before habitat-lab is imported, by whomever.
    """
    if not any(isinstance(finder, _StandIns) for finder in sys.meta_path):
        sys.meta_path.insert(0, _StandIns())


class _StandIns(MetaPathFinder, Loader):
    """Finds what stands in for the modules that habitat-lab imports on the way, where habitat-sim is absent."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return where to find these modules, None for all others."""
        if fullname not in _contents() or has_habitat_sim():
            return None
        return ModuleSpec(fullname, self, is_package="__path__" in _contents()[fullname])

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module in."""
        module.__doc__ = "Stands in for a module that needs habitat-sim, which is not installed."
        vars(module).update(_contents()[module.__name__])


def _contents() -> dict[str, dict[str, Any]]:
    """Return what habitat-lab takes from each of the modules."""

    def timing(*_: Any, **__: Any) -> Callable[[Any], Any]:
        return lambda function: function

    def nothing(*_: Any, **__: Any) -> None:
        return None

    class Nothing:
        pass

    return {
        "habitat.sims.habitat_simulator.object_state_machine": {"ObjectStateMachine": Nothing},
        "habitat.core.batch_rendering.env_batch_renderer": {"EnvBatchRenderer": Nothing},
        "habitat.tasks.rearrange": {"__path__": [], "_try_register_rearrange_task": nothing},
        "habitat.tasks.rearrange.rearrange_sim": {"add_perf_timing_func": timing},
    }
