"""A picture for which Pillow would start Ghostscript, and a Ghostscript that tells when it is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def ghostscript_in_the_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a `gs` first in the PATH; return the file that it makes."""
    marker = folder / "started"
    program = folder / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{marker}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # where it was found before
    return marker
