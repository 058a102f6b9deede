"""Navigation agents: stable-baselines3 extractors and policies, PPO, behaviour cloning, evaluation, command line."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sideagents_policies.agent.extractor import SideTunedExtractor as SideTunedExtractor
    from sideagents_policies.agent.policy import PerEnvNoise as PerEnvNoise
    from sideagents_policies.agent.policy import SideTunedPolicy as SideTunedPolicy
    from sideagents_policies.agent.ppo import SideTunedPPO as SideTunedPPO
    from sideagents_policies.evaluate.habitat_agent import HabitatAgent as HabitatAgent
    from sideagents_policies.views.encode import EncodeOnce as EncodeOnce
    from sideagents_policies.views.stack import ExpertLabels as ExpertLabels
    from sideagents_policies.views.stack import StackKeys as StackKeys

# habitat-lab brings the old gym, which stable-baselines3 imports where it is and which prints its advice every time.
# sideagents_envs does the same for itself, and would be too late here.
if find_spec("gym_notices") is not None:
    import_module("gym_notices.notices").notices.clear()

# Loaded on first use: `sideagents --help` must not wait for torch.
_HOMES = {
    "EncodeOnce": "views.encode",
    "ExpertLabels": "views.stack",
    "HabitatAgent": "evaluate.habitat_agent",
    "PerEnvNoise": "agent.policy",
    "SideTunedExtractor": "agent.extractor",
    "SideTunedPPO": "agent.ppo",
    "SideTunedPolicy": "agent.policy",
    "StackKeys": "views.stack",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
