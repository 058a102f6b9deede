import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset_on_disk import make_dataset
from ended_processes import still_alive
from sideagents_policies import parallel

WORKER = Path(__file__).parents[1] / "parallel_worker.py"
TOLERANCE = 5e-5  # float32 sums are taken in another order; a step of Adam is 3e-3


def run(out, processes, dataset, mode):
    out.mkdir()
    arguments = [str(WORKER), str(out), "4", mode, *([] if dataset is None else [dataset])]
    if processes == 1:
        subprocess.run([sys.executable, *arguments], check=True, timeout=120)
    else:
        assert parallel.launch(processes, arguments) == 0
    return [dict(np.load(out / f"rank{rank}.npz")) for rank in range(processes)]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("mode", ["train", "warmup"])
def test_two_processes_equal_one_with_the_union_of_their_environments(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("SIDEAGENTS_CACHE", str(tmp_path / "cache"))
    dataset = make_dataset(tmp_path / "buildings").dataset
    (single,) = run(tmp_path / "one", 1, dataset, mode)
    one, two = run(tmp_path / "two", 2, dataset, mode)
    assert single["frames"] == one["frames"] == two["frames"] == 64
    assert single["updates"] == one["updates"] == two["updates"]
    assert 2 < single["updates"] < 40  # the divergence has stopped an update in all of them
    names = [name for name in single if single[name].dtype == np.float32]
    assert len(names) > 20
    for name in names:
        assert np.array_equal(one[name], two[name]), name
        difference = np.abs(one[name] - single[name])
        # where a gradient is nearly zero Adam's step hangs on the last bits, which differ between equal runs as well
        assert (difference > TOLERANCE).mean() < 0.02, name
        assert difference.max() < 1e-3, name


def test_a_step_of_cloning_is_that_of_all_labelled_frames(tmp_path):
    """Seven of eight frames of the first process are labelled, two of eight of the second."""
    (single,) = run(tmp_path / "one", 1, None, "clone")
    one, two = run(tmp_path / "two", 2, None, "clone")
    assert single["statistics"][0] > 0.5
    for name in single:
        assert np.array_equal(one[name], two[name]), name
        assert np.allclose(one[name], single[name], rtol=0.0, atol=TOLERANCE), name


def test_processes_of_unequal_size_are_refused(tmp_path, capfd):
    assert parallel.launch(2, [str(WORKER), str(tmp_path), "4", "uneven"]) == 2
    assert "differ in n_steps * n_envs: 16 here, 24 on average" in capfd.readouterr().err


def test_one_dying_process_stops_all_with_its_code(tmp_path, capfd):
    started = time.monotonic()
    code = parallel.launch(2, [str(WORKER), str(tmp_path), "4", "die"])
    assert code in (parallel.LOST, 7)  # LOST: the other one noticed first
    assert time.monotonic() - started < 60
    assert (tmp_path / "ready0").exists()
    assert not (tmp_path / "rank0.npz").exists()
    captured = capfd.readouterr().err
    assert "stopping all" in captured
    assert "Traceback" not in captured
    assert "gloo" not in captured  # nor a place in its source
    assert not still_alive(tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("exit(2)", "exit(3)", 2),  # who was lost says why, a moment later than who lost it
        ("exit(7)", "exit(3)", 7),
        ("exit(2)", "exit(4)", 2),
        ("exit(3)", "exit(4)", parallel.DIVERGED),
        ("on_signal(2)", "exit(4)", 2),
        ("exit(3)", "exit(3)", parallel.LOST),
    ],
)
def test_the_cause_of_an_end_counts_and_not_what_comes_of_it(first, second, code, monkeypatch, capfd):
    monkeypatch.setattr(parallel, "_CAUSE_S", 10.0 if "exit" in first else 1.0)
    program = (
        "import os, signal, time\n"
        "def exit(code): os._exit(code)\n"
        "def on_signal(code): signal.signal(signal.SIGTERM, lambda *_: exit(code)) and None or time.sleep(30)\n"
        f"if os.environ['RANK'] == '1': {second}\n"
        f"time.sleep(0.5 if 'exit' in {first!r} else 0.0)\n{first}"
    )
    assert parallel.launch(2, ["-c", program]) == code
    assert ("stopping all" in capfd.readouterr().err) == (code not in (2, parallel.DIVERGED))


def test_the_others_wait_longer_than_a_timeout(tmp_path):
    assert parallel.launch(2, [str(WORKER), str(tmp_path), "4", "wait"]) == 0


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_orphan_is_left_when_the_launching_process_dies(tmp_path, how):
    program = (
        f"from sideagents_policies.parallel import launch; launch(2, [{str(WORKER)!r}, {str(tmp_path)!r}, '4', 'hang'])"
    )
    launcher = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("pid*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)  # past the start of the watch
    launcher.send_signal(how)
    launcher.wait(timeout=30)
    assert still_alive(tmp_path) == []


def test_alone_nothing_is_averaged_or_waited_for():
    world = parallel.init("cpu")
    assert (world.rank, world.size, world.is_main, world.device) == (0, 1, True, torch.device("cpu"))
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    assert parallel.average_gradients([parameter], torch.tensor([3.0])).tolist() == [3.0]
    assert parameter.grad.tolist() == [1.0, 2.0]
    assert parallel.all_sum(torch.tensor([4.0])).tolist() == [4.0]
    parallel.require_equal("anything", 3)
    assert "RANK" not in os.environ
