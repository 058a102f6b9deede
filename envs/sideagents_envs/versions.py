"""Versions of what is made and kept: they stand in the names of the files, and are raised when its making changes."""

from __future__ import annotations

NAVMESH_VERSION = 2  # the meaning or the making of the stored arrays
EPISODES_VERSION = 1  # how episodes are drawn in a given walkable space
