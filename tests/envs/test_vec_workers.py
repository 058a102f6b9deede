"""Worker processes: a wrong action leaves them usable, a death is reported, none survives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ended_processes import has_ended, have_ended
from sideagents_envs.errors import EnvsError


def test_wrong_action_in_a_worker_leaves_the_workers_usable(vec):
    env = vec(4, kind="subproc")
    env.reset()
    with pytest.raises(EnvsError, match="integers from 0 to 2"):
        env.step(np.array([0, 9, 0, 9]))
    env.step(np.zeros(4, int))


def test_a_killed_worker_is_reported(vec):
    env = vec(2, kind="subproc")
    env.reset()
    os.kill(env.worker_pids[1], signal.SIGKILL)
    with pytest.raises(EnvsError, match=r"worker 1 has ended \(exit code -9\)"):
        env.step(np.zeros(2, int))


def test_closing_ends_the_workers(vec):
    env = vec(2, kind="subproc")
    pids = env.worker_pids
    assert len(pids) == 2
    env.close()
    assert have_ended(pids, 1.0)


PARENT = """
import sys
import numpy as np
from sideagents_envs import make_vec
from sideagents_envs.config import ScenesConfig
env = make_vec(2, kind="subproc", scenes=ScenesConfig(dataset=sys.argv[1]))
env.reset()
print(*env.worker_pids, flush=True)
while True:
    env.step(np.zeros(2, int))
"""


def test_workers_end_when_the_parent_is_killed(scenes):
    """The script has no `if __name__ == "__main__"`: workers do not run it again."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, scenes.dataset], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(has_ended(pid) for pid in pids)
        time.sleep(0.2)
        parent.send_signal(signal.SIGKILL)
    assert have_ended(pids)
