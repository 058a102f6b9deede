"""The words that errors are made of."""

from __future__ import annotations

import pytest

from sideagents.errors import first_line, nearest


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("one\ntwo"), "one"), (RuntimeError(""), "RuntimeError"), (AssertionError(), "AssertionError")],
)
def test_first_line_is_the_text_s_or_the_type(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_nearest_names_the_closest_option_or_nothing() -> None:
    assert nearest("curvatur", ["denoising", "curvature"]) == ", did you mean 'curvature'?"
    assert nearest("xyz", ["denoising", "curvature"]) == ""
