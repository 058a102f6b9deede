"""One of the processes that are timed together: `python scripts/benchmark_worker.py CONFIG UPDATES OUT`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from benchmarks.bases import benchmark_base
from benchmarks.timing import Trainer, timed
from sideagents.config.typed import load_config
from sideagents.storage.files import write_text
from sideagents_policies import parallel
from sideagents_policies.config import AgentConfig
from sideagents_policies.views.environments import build_venv


def main() -> int:
    """Train; the main process writes the seconds of each update and the frames of one update over all processes."""
    path, updates, out = sys.argv[1:]
    config = load_config(AgentConfig, Path(path), [])
    world = parallel.init("cpu")
    torch.set_num_threads(config.threads)
    base = benchmark_base("bundled", precision=config.precision)
    trainer = Trainer(config, build_venv(config, base=base, world=world), base, world)
    try:
        trainer.warm_up()
        seconds = [float(timed(trainer.update)[0]) for _ in range(int(updates))]
    finally:
        trainer.close()
        parallel.finish()
    if world.is_main:
        write_text(Path(out), json.dumps({"seconds": seconds, "frames": trainer.frames * world.size}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
