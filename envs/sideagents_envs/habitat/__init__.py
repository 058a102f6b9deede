"""Habitat: our simulator inside habitat-lab, habitat-sim where it is installed, the same PointNav on both.

Nothing here imports habitat-lab until it is used; without it every use raises an error with the line that installs it.
"""

from sideagents_envs.habitat.registering import register

__all__ = ["register"]
