"""Configurations of `adapt` and `lifelong` that take seconds, for a folder of CIFAR's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sideagents.adaptation.adapt_config import AdaptConfig
from sideagents.jobs import adapt, lifelong
from sideagents.lifelong.lifelong_config import LifelongConfig

OPTIONS: dict[str, dict[str, Any]] = {"sidetune": {"side": "fcn4"}}


def adapt_config(data: Path, runs: Path, **changes: Any) -> AdaptConfig:
    method = changes.get("method", "features")
    values: dict[str, Any] = {
        "data": str(data), "runs": str(runs), "base": "cifar:resnet20", "method": method, "epochs": 3,
        "batch_size": 16, "learning_rate": 0.01, "threads": 1, "device": "cpu", "options": OPTIONS.get(method, {}),
        "cache": str(data / "codes"),
    }  # fmt: skip
    return adapt.checked(AdaptConfig.model_validate(values | changes))


def lifelong_config(data: Path, runs: Path, **changes: Any) -> LifelongConfig:
    values: dict[str, Any] = {
        "data": str(data), "runs": str(runs), "cache": str(data / "codes"), "tasks": 2, "steps": 8, "batch_size": 16,
        "base": "cifar:resnet20", "learning_rate": 0.01, "threads": 1, "device": "cpu", "ewc": {"samples": 4},
    }  # fmt: skip
    return lifelong.checked(LifelongConfig.model_validate(values | changes))
