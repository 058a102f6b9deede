"""`sideagents relevance`: which base helps a task, by the alpha that side-tuning learns (its paper, section 4.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from sideagents.adaptation.adapt_config import AdaptConfig, for_domain
from sideagents.adaptation.adapt_plots import plot_relevance
from sideagents.errors import ConfigError
from sideagents.jobs.adapt import adapt_run, checked, located, missing_data, score_of
from sideagents.jobs.job import Job
from sideagents.run.folder import RunFolder
from sideagents.storage.files import write_json


class RelevanceConfig(AdaptConfig):
    """What `AdaptConfig` says, once for each of several bases; the method is side-tuning with a learned alpha."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    kind: Literal["relevance"] = Field(  # type: ignore[assignment]
        "relevance", description="what the file is for"
    )
    bases: tuple[str, ...] = Field((), description="the bases to rank, as in `model.base`")
    method: str = Field("sidetune", description="side-tuning")


def each_base(config: RelevanceConfig) -> dict[str, AdaptConfig]:
    """Return the checked configuration of each base; raises `ConfigError` for fewer than two, or another method."""
    return {base: checked(one) for base, one in _each(config).items()}


def _each(config: RelevanceConfig) -> dict[str, AdaptConfig]:
    if len(set(config.bases)) < 2:
        raise ConfigError(f"bases: give two or more to rank, got {list(config.bases)}")
    if config.method != "sidetune" or config.options.get("alpha", "learned") != "learned":
        raise ConfigError("relevance is read off a learned alpha: method must be sidetune, options.alpha learned")
    plain = for_domain(config).model_dump(exclude={"bases", "kind"})
    found = {}
    for base in dict.fromkeys(config.bases):
        word = "".join(letter if letter.isalnum() else "-" for letter in base)
        found[base] = AdaptConfig.model_validate(plain | {"base": base, "name": f"{config.name}-{word}"})
    return found


def relevance(
    config: RelevanceConfig, configs: Mapping[str, AdaptConfig], resume: bool = False
) -> tuple[Path, list[dict[str, Any]]]:
    """Side-tune on each base of `each_base(config)`; return the ranking's folder and its rows, most relevant first.

    Rows: `base`, `alpha`, `measure`, `accuracy`, `loss`, `run`. Alpha is the weight of the base that training arrives
    at from 0.5: the higher, the more the task takes from it. Each base has a run of its own; `resume` goes on with the
    newest one of each base that has begun. Raises `SideAgentsError`.
    """
    rows = []
    for base, one in configs.items():
        begun = resume and any(Path(one.runs).glob(f"{one.name}_*/checkpoints/step_*"))
        run, result = adapt_run(one, resume=begun)
        measured = {key: result[key] for key in ("measure", "accuracy", "loss")}
        rows.append({"base": base, "alpha": result["alpha"], **measured, "run": str(run)})
    rows.sort(key=lambda row: -float(row["alpha"]))
    with RunFolder.working(Path(config.runs).expanduser(), config.name, config) as folder:
        write_json(folder.path / "result.json", rows)
        plot_relevance(rows, folder.path / "plots" / "relevance.png")
    return folder.path, rows


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the ranking as lines for people."""
    lines = [f"{'base':24}{'alpha':>8}"]
    lines += [f"{row['base']:24}{row['alpha']:>8.3f}  {score_of(row)}" for row in rows]
    return "\n".join(lines)


def _checked(config: RelevanceConfig) -> RelevanceConfig:
    each_base(config)
    return config


def _missing(config: RelevanceConfig) -> Iterable[str]:
    return dict.fromkeys(line for one in _each(config).values() for line in missing_data(located(one)))


def _run(config: RelevanceConfig, resume: bool = False) -> tuple[Path, list[dict[str, Any]]]:
    return relevance(config, each_base(config), resume)


JOB = Job("relevance", RelevanceConfig, _checked, _missing, _run, table_of)
