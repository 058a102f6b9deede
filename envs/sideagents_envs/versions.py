"""Versions of what is made and kept: they stand in the names of the files, and are raised when its making changes."""

from __future__ import annotations

NAVMESH_VERSION = 2  # the meaning or the making of the stored arrays
EPISODES_VERSION = 2  # how episodes are drawn in a given walkable space, and the order of the lists
LISTS_VERSION = f"{EPISODES_VERSION}.{NAVMESH_VERSION}"  # of the held-out lists; results say it
