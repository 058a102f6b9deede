"""Write the figures of docs/results into README.md: `python scripts/document_results.py`.

docs/results/val/NAME.json are files of `sideagents eval ... --json`; the table has one row for each.
"""

from __future__ import annotations

from pathlib import Path

from sideagents.run.files import write_text
from sideagents_policies.tables import read_result, results_table

ROOT = Path(__file__).resolve().parents[1]
FIRST, LAST = "<!-- results -->", "<!-- /results -->"
ORDER = ("expert", "straight", "forward", "random")
TEXT = """\
{episodes} episodes of `val`, in 14 buildings never trained in; means with 95 % bootstrap intervals over the episodes.
Actions are sampled. The files in [docs/results/val](docs/results/val) hold seeds and checkpoints; made by
`sideagents eval RUN --split val --json FILE` and `sideagents eval --agent expert --split val --json FILE`."""


def rendered(page: str) -> str:
    """Return the page with the table between its markers."""
    files = {path.stem: path for path in sorted((ROOT / "docs" / "results" / "val").glob("*.json"))}
    names = [name for name in files if name not in ORDER] + [name for name in ORDER if name in files]
    results = {name: read_result(files[name]) for name in names}
    text = TEXT.format(episodes=max(result["episodes"] for result in results.values()))
    table = results_table(results, ("success", "spl", "soft_spl", "nav_reward", "steps"))
    before, _, rest = page.partition(FIRST)
    _, _, after = rest.partition(LAST)
    return f"{before}{FIRST}\n\n{text}\n\n{table}\n\n{LAST}{after}"


if __name__ == "__main__":
    write_text(ROOT / "README.md", rendered((ROOT / "README.md").read_text()))
