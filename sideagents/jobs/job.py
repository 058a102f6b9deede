"""What can be run without an environment, as one table: reading, checking and the command line loop over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sideagents.registry import Registry

if TYPE_CHECKING:
    from pydantic import BaseModel

ConfigT = TypeVar("ConfigT", bound="BaseModel")


@dataclass(frozen=True)
class Job(Generic[ConfigT]):
    """One kind of run: its configuration, what of its data is missing, how it runs, and its result for people.

    kind: the verb's name, and what the key `kind` of a configuration says.
    checked: returns a configuration with its data looked up; raises `ConfigError` for unknown names and parts.
    missing: gives one line for everything on disk that a checked configuration needs and that is not there.
    run: `(config, resume)`, and options of its own; returns the run's folder and a result that JSON can hold; with
    `resume` the newest run of that name goes on. Raises `SideAgentsError`.
    table: returns a result as lines for people.
    needs_file: false where overrides alone are a configuration, and a file may leave `kind` out.
    """

    kind: str
    config: type[ConfigT]
    checked: Callable[[ConfigT], ConfigT]
    missing: Callable[[ConfigT], Iterable[str]]
    run: Callable[..., tuple[Path, Any]]
    table: Callable[[Any], str]
    needs_file: bool = True


JOBS: Registry[Job[Any]] = Registry("job")
JOBS.register("pretrain", "sideagents.jobs.pretrain:JOB")
JOBS.register("adapt", "sideagents.jobs.adapt:JOB")
JOBS.register("relevance", "sideagents.jobs.relevance:JOB")
JOBS.register("lifelong", "sideagents.jobs.lifelong:JOB")
JOBS.register("nlp", "sideagents.jobs.nlp:JOB")
