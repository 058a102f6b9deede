"""Pictures of figures, written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sideagents.storage.files import write_bytes


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, inches, that no window is opened for."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data.getvalue())
    return path
