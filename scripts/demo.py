"""The demonstration: clone, improve, evaluate on held-out buildings, show. What `make demo` runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from sideagents.errors import SideAgentsError
from sideagents_policies.agent.checks import read_config
from sideagents_policies.config import AgentConfig
from sideagents_policies.evaluate.evaluation import evaluate_baseline, play_run
from sideagents_policies.evaluate.plot import plot_runs
from sideagents_policies.evaluate.tables import results_table
from sideagents_policies.evaluate.typical import record_typical, told
from sideagents_policies.guard import guarded
from sideagents_policies.train.cloning import clone
from sideagents_policies.train.reinforcement import train
from sideagents_policies.train.session import under_launcher

BASELINES = ("expert", "straight", "forward", "random")
FIRST_EPISODES = 28  # of the first table: two in each held-out building
_COLUMNS = ("success", "spl", "nav_reward", "steps")


def demo(name: str = "pointnav/demo", overrides: tuple[str, ...] = ()) -> int:
    """Run the demonstration with a configuration; return 0.

    Imitates the expert and shows what that gave: a table for agent and baselines on the same held-out episodes, and a
    film. Then improves the agent by DAgger and PPO, shows the same of it, and says where film and plot were written.
    """
    began = time.monotonic()
    if under_launcher():
        raise SideAgentsError("the demonstration starts its own processes: run it without torchrun")

    def minutes() -> str:
        return f"{(time.monotonic() - began) / 60:.1f} min"

    config = read_config(name, list(overrides))
    agent = clone(_with_clone(config, dagger_frames=0))
    _show(agent, config, f"imitating {minutes()}", min(FIRST_EPISODES, config.eval.episodes or FIRST_EPISODES))
    print(f"{minutes()} so far; now it learns from its own mistakes (DAgger), then from reward (PPO)", flush=True)
    if config.clone.dagger_frames:
        agent = clone(_with_clone(config, epochs=0.0), demos=agent / "demos", init=agent)
    agent = train(config, init=agent)
    _show(agent, config, f"trained {minutes()}")
    print(f"plot:  {plot_runs([agent], agent / 'plots' / 'curves.png')}")
    print(f"{minutes()} in all; go on with `sideagents --help`")
    return 0


def _show(agent: Path, config: AgentConfig, label: str, episodes: int | None = None) -> None:
    """Evaluate an agent and the baselines on the first of the held-out episodes, print that, and film the agent."""
    played = play_run(agent, episodes=episodes)
    results = {label: played.result}
    results |= {name: evaluate_baseline(name, config, episodes=episodes, show=False) for name in BASELINES}
    print(f"\n{results_table(results, _COLUMNS)}\n\n{told(played.rows)}")
    print(f"video: {record_typical(agent, played.rows)}", flush=True)


def _with_clone(config: AgentConfig, **changes: float) -> AgentConfig:
    return config.model_copy(update={"clone": config.clone.model_copy(update=changes)})


if __name__ == "__main__":
    sys.exit(guarded(demo))
