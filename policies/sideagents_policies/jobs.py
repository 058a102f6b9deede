"""Configurations of training without an environment: how each kind is read, and what of its data is absent.

What a kind needs is imported when one is read, so that no other verb waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sideagents.errors import ConfigError
from sideagents_policies.paths import config_kind, config_path, load_named

if TYPE_CHECKING:
    from pydantic import BaseModel

    from sideagents.adapt.adapt_config import AdaptConfig
    from sideagents.jobs.relevance import RelevanceConfig
    from sideagents.language.nlp_config import NlpConfig
    from sideagents.lifelong.lifelong_config import LifelongConfig


def read_lifelong(name: str, overrides: Sequence[str] = ()) -> LifelongConfig:
    """Resolve and check a configuration for a sequence of tasks; raises `ConfigError`."""
    from sideagents.jobs.lifelong import checked
    from sideagents.lifelong.lifelong_config import LifelongConfig

    return checked(load_named(LifelongConfig, _of_kind(name, "lifelong"), overrides))


def read_adapt(name: str, overrides: Sequence[str] = ()) -> AdaptConfig:
    """Resolve and check a configuration for adapting to one data set; raises `ConfigError`."""
    from sideagents.adapt.adapt_config import AdaptConfig
    from sideagents.jobs.adapt import checked

    return checked(load_named(AdaptConfig, _of_kind(name, "adapt"), overrides))


def read_nlp(name: str, overrides: Sequence[str] = ()) -> NlpConfig:
    """Resolve and check a configuration for adapting a language model; raises `ConfigError`."""
    from sideagents.jobs.nlp import checked
    from sideagents.language.nlp_config import NlpConfig

    return checked(load_named(NlpConfig, _of_kind(name, "nlp"), overrides))


def read_relevance(name: str, overrides: Sequence[str] = ()) -> RelevanceConfig:
    """Resolve and check a configuration for ranking bases; raises `ConfigError`."""
    from sideagents.jobs.relevance import RelevanceConfig, each_base

    config = load_named(RelevanceConfig, _of_kind(name, "relevance"), overrides)
    each_base(config)
    return config


def absent_data(config: Any) -> Iterable[str]:
    """Return one line for everything on disk that a configuration of a job needs and that is not there."""
    if config.kind == "adapt":
        from sideagents.jobs.adapt import absent_data as absent_of_adapt

        return absent_of_adapt(config)
    if config.kind == "lifelong":
        from sideagents.jobs.lifelong import absent_data as absent_of_lifelong

        return absent_of_lifelong(config)
    if config.kind == "nlp":
        from sideagents.jobs.nlp import absent_data as absent_of_nlp

        return absent_of_nlp(config)
    from sideagents.jobs.relevance import each_base

    return dict.fromkeys(line for one in each_base(config).values() for line in absent_data(one))


READERS: dict[str, Callable[[str, Sequence[str]], BaseModel]] = {
    "adapt": read_adapt,
    "lifelong": read_lifelong,
    "nlp": read_nlp,
    "relevance": read_relevance,
}  # kinds of configurations that are not an agent's


def _of_kind(name: str, kind: str) -> str:
    if (found := config_kind(config_path(name))) != kind:
        raise ConfigError(f"{name}: is a configuration of kind {found!r}, one of `kind: {kind}` is needed here")
    return name
