from __future__ import annotations

import subprocess
import sys

import pytest

from sideagents_envs.batch.env import PointNavEnv
from sideagents_envs.config import HabitatConfig
from sideagents_envs.errors import EnvsError
from sideagents_envs.habitat import importing, register


def test_without_habitat_lab_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "has_habitat_lab", lambda: False)
    monkeypatch.delitem(sys.modules, "habitat", raising=False)
    with pytest.raises(EnvsError, match=r"pip install 'sideagents\[habitat\]'") as caught:
        register()
    assert "\n" not in str(caught.value)
    if not importing.has_habitat_sim():
        with pytest.raises(EnvsError, match="conda install"):
            PointNavEnv(habitat=HabitatConfig(), habitat_simulator="habitat_sim")


def test_nothing_of_ours_imports_habitat_by_itself() -> None:
    code = (
        "import sys, sideagents_envs, sideagents_envs.batch.vec, sideagents_envs.habitat, sideagents_policies.cli.main;"
        "sys.exit(any(name.split('.')[0] in ('habitat', 'habitat_sim') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not importing.has_habitat_lab(), reason="habitat-lab is not installed (the `habitat` extra)")
def test_habitat_lab_may_be_imported_before_registering() -> None:
    if importing.has_habitat_sim():
        pytest.skip("habitat-sim is installed: nothing stands in for it")
    code = "import sideagents_envs, habitat; from sideagents_envs.habitat import register; register()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not importing.has_habitat_lab(), reason="habitat-lab is not installed (the `habitat` extra)")
def test_habitat_lab_is_imported_silently_without_habitat_sim() -> None:
    if importing.has_habitat_sim():
        pytest.skip("habitat-sim is installed: nothing stands in for it")
    code = "from sideagents_envs.habitat import register; register(); import habitat; print(habitat.Env.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("Env\n", "")
