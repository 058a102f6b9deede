"""Write the figures of the shipped bases into docs/bases.md: `python scripts/document_bases.py`.

They come from the cards beside the weights, and from the rows of the linear probe in docs/results.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sideagents.bases import SHIPPED, load_base, read_card
from sideagents.bases.loading import WEIGHTS_FOLDER
from sideagents.storage.files import write_text
from sideagents_policies.evaluate.tables import markdown_table, marked, with_note
from studies.cells import read_rows

PAGE = Path(__file__).resolve().parents[1] / "docs" / "bases.md"
PROBE = PAGE.parent / "results" / "bases_probe.jsonl"
FIRST, LAST = "<!-- bases -->", "<!-- /bases -->"
HEADER = ["base", "images", "buildings", "held-out loss", "mean image", "below it", "weights", "multiply-adds", "file"]
ABSENT = "This checkout holds no weights: `make bases` makes them."
PROBE_HEADER = ["code", "expert's next action"]
PROBED = """\
Accuracy of a linear readout of code, goal and their product, trained on states in training buildings, measured in
those of `val`; `goal` has no code, `pixels` and `random` are the untrained controls. The rows are in
[bases_probe.jsonl](results/bases_probe.jsonl)."""


def rendered(page: str, folder: Path = WEIGHTS_FOLDER, probe: Path = PROBE) -> str:
    """Return the page with the figures of the cards in `folder` and of the rows in `probe` between its markers."""
    before, _, rest = page.partition(FIRST)
    _, marker, after = rest.partition(LAST)
    if not marker:
        raise ValueError(f"{PAGE.name} must have the markers {FIRST} and {LAST}")
    return f"{before}{FIRST}\n{table(folder)}{probe_table(folder, probe)}{LAST}{after}"


def table(folder: Path) -> str:
    """Return the cards as Markdown: figures, then the picture of each base that has one."""
    paths = [folder / f"{name}.safetensors" for name in SHIPPED if (folder / f"{name}.json").is_file()]
    if not paths:
        return f"\n{ABSENT}\n\n"
    figures = markdown_table(HEADER, [_row(path, read_card(path)) for path in paths])
    pictures = [path.with_suffix(".png") for path in paths if path.with_suffix(".png").is_file()]
    shown = "".join(f"\n![{p.stem}: input, target, prediction]({_link(p)})\n" for p in pictures)
    return (
        f"\n{figures}\n\nLosses are mean squared errors on buildings never trained on, targets in [-1, 1].\n{shown}\n"
    )


def probe_table(folder: Path, path: Path) -> str:
    """Return how well each code tells the expert's next action; rows of other weights than those here are left out."""
    hashes = {"goal": "goal"} | {name: load_base(name).fingerprint[:12] for name in ("pixels", "random")}
    cards = [folder / f"{name}.json" for name in SHIPPED]
    hashes |= {card.stem: read_card(card)["fingerprint"][:12] for card in cards if card.is_file()}
    found = {row["cell"]["code"]: row for row in read_rows(path)}
    shown = {name: found[name] for name in hashes if _is_of(found.get(name), hashes[name])}
    lines = [[marked(f"`{name}`", row), f"{row['accuracy']:.3f}"] for name, row in shown.items()]
    return f"{with_note(markdown_table(PROBE_HEADER, lines), shown.values())}\n\n{PROBED}\n\n" if lines else ""


def _is_of(row: dict[str, Any] | None, fingerprint: str) -> bool:
    """Tell whether a row is of these weights: its hash begins with them, the version of the lists follows."""
    return row is not None and row["config_hash"].split()[0] == fingerprint


def _row(path: Path, card: dict[str, Any]) -> list[str]:
    data = card["data"]
    return [
        f"`{card['name']}`",
        f"{data['images']:,}",
        str(len(data["buildings"])),
        f"{card['held_out_loss']:.4f}",
        f"{card['mean_image_loss']:.4f}",
        f"{card['reduction_percent']:.1f} %",
        f"{card['weights'] / 1e6:.2f} M",
        f"{card['multiply_adds'] / 1e6:.1f} M",
        f"{path.stat().st_size / 1e6:.2f} MB",
    ]


def _link(path: Path) -> str:
    return Path(os.path.relpath(path, PAGE.parent)).as_posix()


if __name__ == "__main__":
    write_text(PAGE, rendered(PAGE.read_text(encoding="utf-8")))
