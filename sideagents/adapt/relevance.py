"""`sideagents relevance`: which base helps a task, by the alpha that side-tuning learns (its paper, section 4.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field

from sideagents.adapt.config import AdaptConfig
from sideagents.adapt.run import adapt_run, checked, score_of
from sideagents.errors import ConfigError


class RelevanceConfig(AdaptConfig):
    """What `AdaptConfig` says, once for each of several bases; the method is side-tuning with a learned alpha."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    kind: Literal["relevance"] = "relevance"  # type: ignore[assignment]
    bases: tuple[str, ...] = Field((), description="the bases to rank, as in `model.base`")
    method: str = Field("sidetune", description="side-tuning")


def each_base(config: RelevanceConfig) -> dict[str, AdaptConfig]:
    """Return the checked configuration of each base; raises `ConfigError` for fewer than two, or another method."""
    if len(set(config.bases)) < 2:
        raise ConfigError(f"bases: give two or more to rank, got {list(config.bases)}")
    if config.method != "sidetune" or config.options.get("alpha", "learned") != "learned":
        raise ConfigError("relevance is read off a learned alpha: method must be sidetune, options.alpha learned")
    plain = config.model_dump(exclude={"bases", "kind"})
    found = {}
    for base in dict.fromkeys(config.bases):
        word = "".join(letter if letter.isalnum() else "-" for letter in base)
        found[base] = checked(AdaptConfig.model_validate(plain | {"base": base, "name": f"{config.name}-{word}"}))
    return found


def relevance(configs: Mapping[str, AdaptConfig]) -> list[dict[str, Any]]:
    """Side-tune on each base; return rows `base`, `alpha`, `measure`, `accuracy`, `loss`, `run`, most relevant first.

    Alpha is the weight of the base that training arrives at from 0.5: the higher, the more the task takes from it.
    """
    rows = []
    for base, config in configs.items():
        run, result = adapt_run(config)
        judged = {key: result[key] for key in ("measure", "accuracy", "loss")}
        rows.append({"base": base, "alpha": result["alpha"], **judged, "run": str(run)})
    return sorted(rows, key=lambda row: -float(row["alpha"]))


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the ranking as lines for people."""
    lines = [f"{'base':24}{'alpha':>8}"]
    lines += [f"{row['base']:24}{row['alpha']:>8.3f}  {score_of(row)}" for row in rows]
    return "\n".join(lines)
