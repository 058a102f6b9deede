"""What several tests of the library read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from folder_contents import contents
from tiny_bert import tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a tiny BERT."""
    folder = tiny_model(tmp_path_factory.mktemp("tiny"))
    before = contents(folder)
    yield folder
    assert contents(folder) == before, "a test has changed what all tests read"
