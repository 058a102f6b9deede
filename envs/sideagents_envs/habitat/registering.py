"""Registering our simulator with habitat-lab."""

from sideagents_envs.habitat.importing import import_habitat


def register() -> None:
    """Register our simulator with habitat-lab as `SideAgents-v0`; again and again if wanted.

    Raises EnvsError when habitat-lab is not installed.
    """
    import_habitat()
    import sideagents_envs.habitat.lab_simulator  # noqa: F401 - registers itself when imported
