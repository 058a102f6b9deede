"""Configurations of training without an environment, read for the job that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sideagents.config.typed import load_config
from sideagents.errors import ConfigError
from sideagents.jobs.job import JOBS
from sideagents.storage.files import require
from sideagents_policies.paths import config_kind, config_path


def read_job(kind: str, name: str | None, overrides: Sequence[str] = ()) -> Any:
    """Resolve a configuration of a kind of job, given by file or bundled name, and check it.

    Without a name it is the defaults and the overrides. Raises `ConfigError`.
    """
    job = JOBS.get(kind)
    path = None if name is None else config_path(name)
    if path is not None and (found := config_kind(path)) not in ((kind,) if job.needs_file else (kind, "agent")):
        raise ConfigError(f"{name}: is a configuration of kind {found!r}, one of `kind: {kind}` is needed here")
    return job.checked(load_config(job.config, path, overrides, config_path))


def ready_job(kind: str, name: str | None, overrides: Sequence[str] = ()) -> Any:
    """Do as `read_job`, for who is about to run it: missing data is a `ConfigError` too."""
    config = read_job(kind, name, overrides)
    require(JOBS.get(kind).missing(config))
    return config
