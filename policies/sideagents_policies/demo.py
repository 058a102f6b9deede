"""The demonstration: clone, improve, evaluate on held-out buildings, show. What `make demo` runs."""

from __future__ import annotations

import time

from sideagents.errors import SideAgentsError
from sideagents_policies.checks import read_config
from sideagents_policies.clone import clone
from sideagents_policies.enjoy import record
from sideagents_policies.evaluate import evaluate_baseline, evaluate_run
from sideagents_policies.plot import plot_runs
from sideagents_policies.session import under_launcher
from sideagents_policies.tables import results_table
from sideagents_policies.train import train

BASELINES = ("expert", "straight", "forward", "random")
_COLUMNS = ("success", "spl", "nav_reward", "steps")


def demo(name: str = "pointnav/demo", overrides: tuple[str, ...] = ()) -> int:
    """Run the demonstration with a configuration; return 0.

    Prints one table for agent and baselines on the same held-out episodes, and where video and plot were written.
    """
    began = time.monotonic()
    if under_launcher():
        raise SideAgentsError("the demonstration starts its own processes: run it without torchrun")
    config = read_config(name, list(overrides))
    trained = train(config, init=clone(config))
    minutes = (time.monotonic() - began) / 60
    results = {f"trained {minutes:.1f} min": evaluate_run(trained)}
    results |= {baseline: evaluate_baseline(baseline, config) for baseline in BASELINES}
    video = record(trained)
    plot = plot_runs([trained], trained / "plots" / "curves.png")
    print(f"\n{results_table(results, _COLUMNS)}\n\nvideo: {video}\nplot:  {plot}")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes in all; go on with `sideagents --help`")
    return 0
