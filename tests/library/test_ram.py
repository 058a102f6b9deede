"""Memory is asked of the machine and its control groups, never assumed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sideagents import ram as machine
from sideagents.errors import ConfigError


def test_it_is_at_most_what_the_machine_has() -> None:
    assert 0 < machine.memory_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("limit", "expected"), [("1000000\n", 10**6), ("max\n", 10**9), ("9" * 19, 10**9), (None, 10**9)]
)
def test_the_limit_of_a_control_group_counts(
    limit: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "memory.max"
    if limit is not None:
        file.write_text(limit)
    monkeypatch.setattr(machine, "_physical", lambda: 10**9)
    monkeypatch.setattr(machine, "_groups", lambda: [tmp_path / "absent", file])
    assert machine.memory_bytes.__wrapped__() == expected


def test_what_does_not_fit_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_bytes", lambda: 23 * 10**9)
    machine.require_memory(23 * 10**9, "the rollout", "")
    with pytest.raises(
        ConfigError, match=r"^the rollout takes 115\.0 GB, the machine has 23\.0 GB of memory: lower it$"
    ):
        machine.require_memory(115 * 10**9, "the rollout", "lower it")
