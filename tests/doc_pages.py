"""The pages of the documentation, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md") if (ROOT / name).is_file())]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`([^`\n]+)`")
PLACEHOLDER = re.compile(r"\[.*|.*\.\.\.\]?")  # of a synopsis such as `sideagents pretrain [CONFIG.yaml] ...`


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text()) if language in languages]


def shell_lines(page: Path) -> Iterator[list[str]]:
    """Yield the words of every command in the page's shell blocks, without comments and prompts."""
    for text in blocks(page, "sh", "bash", "console"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                yield words


def quoted(page: Path) -> Iterator[list[str]]:
    """Yield the words behind `sideagents` of every command line in the page, in blocks and in running text."""
    for words in shell_lines(page):
        if "sideagents" in words:
            yield words[words.index("sideagents") + 1 :]
    for text in INLINE.findall(FENCE.sub("", page.read_text())):
        words = text.split()
        if words[0] == "sideagents" and len(words) > 1:
            yield [word for word in words[1:] if not PLACEHOLDER.fullmatch(word)]


def pages(chosen: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", chosen, ids=lambda page: page.stem)
