"""The picture of memory has a bar for each method."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from sideagents.language.nlp_plots import plot_memory


def row(method: str, weights: float, state: float, activations: float) -> dict[str, object]:
    return {"method": method, "weight_bytes": weights, "state_bytes": state, "activation_bytes": activations}


def test_more_methods_make_a_taller_picture(tmp_path: Path) -> None:
    rows = [row("full", 1e9, 3e9, 4e9), row("lst", 1e9, 1e7, 2e9), row("lora", 1e9, 1e7, 4e9)]
    short = plot_memory(rows[:2], tmp_path / "two.png")
    tall = plot_memory(rows, tmp_path / "three.png")
    with Image.open(short) as two, Image.open(tall) as three:
        assert three.height > two.height
        assert three.width == two.width
        colours = three.convert("RGB").getcolors(1 << 20)
    assert colours is not None
    assert len([1 for count, _ in colours if count > 2000]) >= 3  # ground and two large parts
