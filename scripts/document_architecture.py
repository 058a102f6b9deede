"""Draw the rooms of the packages into docs/architecture.md: `python scripts/document_architecture.py [--figures]`.

A room is a folder of a package; an arrow is an import, one inside a function or for types alone too. `--figures` prints
files and lines of each folder in place of that.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from sideagents.storage.files import write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: scripts/document_architecture.py -->", "<!-- end of rooms -->"
PACKAGES = {
    "sideagents_policies": ROOT / "policies" / "sideagents_policies",
    "sideagents_envs": ROOT / "envs" / "sideagents_envs",
    "sideagents": ROOT / "sideagents",
}
STUDIES = {name: ROOT / "scripts" / name for name in ("benchmarks", "studies")}


def modules() -> dict[str, Path]:
    """Return the file of every module of the packages, and of the studies, by its dotted name."""
    found = {}
    for package, folder in {**PACKAGES, **STUDIES}.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def arrows(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return which of the modules each of them imports, wherever the import stands."""
    return {name: set(_imported(path, files)) - {name} for name, path in files.items()}


def _imported(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from inside & known.keys() or {node.module}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return a way around for each circle that a walk along the arrows meets."""
    found, done, way = [], set(), []

    def walk(name: str) -> None:
        way.append(name)
        for target in sorted(graph[name]):
            if target in way:
                found.append([*way[way.index(target) :], target])
            elif target not in done:
                walk(target)
        done.add(way.pop())

    for name in sorted(graph):
        if name not in done:
            walk(name)
    return found


def rooms(package: str) -> dict[str, set[str]]:
    """Return the rooms of a package and which other rooms each of them imports; what lies in no room is left out."""
    graph = arrows({name: path for name, path in modules().items() if name.split(".")[0] == package})

    def room(name: str) -> str | None:
        parts = name.split(".")
        return parts[1] if len(parts) > 2 or ((PACKAGES[package] / parts[-1]).is_dir() and len(parts) == 2) else None

    found: dict[str, set[str]] = {place: set() for name in graph if (place := room(name))}
    for name, targets in graph.items():
        if place := room(name):
            found[place] |= {other for target in targets if (other := room(target)) and other != place}
    return found


def downwards(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the rooms so that arrows point down the list only, as far as that is possible."""
    left, order = dict(graph), []
    while left:
        free = [name for name in left if not any(name in targets for other, targets in left.items() if other != name)]
        for name in sorted(free or left):
            order.append(name)
            del left[name]
    return order


def drawn() -> str:
    """Return the map as Markdown."""
    lines = []
    for package, folder in PACKAGES.items():
        lines.append(package)
        graph = rooms(package)
        for name in downwards(graph):
            first = ast.get_docstring(ast.parse((folder / name / "__init__.py").read_text(encoding="utf-8"))) or ""
            reads = ", ".join(other for other in downwards(graph) if other in graph[name])
            lines.append(f"  {name + '/':<12} {first.splitlines()[0]}")
            lines += [f"  {'':<12}   -> {reads}"] if reads else []
        alone = ", ".join(path.stem for path in sorted(folder.glob("*.py")) if path.stem != "__init__")
        lines.append(f"  {'':<12} in no room: {alone}")
        lines.append("")
    return "```text\n" + "\n".join(lines[:-1]) + "\n```"


def rendered(page: str) -> str:
    """Return the page with the map made anew; raises ValueError when the page has no place for it."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{PAGE.name}: the lines {BEGIN!r} and {END!r} are missing")
    return f"{before}{BEGIN}\n\n{drawn()}\n\n{END}{after}"


def figures() -> str:
    """Return files and lines of each folder, of each package and of all that goes into the wheel, and the circles."""
    lines, whole = [], 0
    for package, folder in {**PACKAGES, **STUDIES}.items():
        counts: dict[str, list[int]] = {}
        for path in sorted(folder.rglob("*.py")):
            text = path.read_text(encoding="utf-8").splitlines()
            counts.setdefault(str(path.parent.relative_to(ROOT)), []).append(len(text))
        lines += [f"{len(sizes):4} files {sum(sizes):6} lines  {name}" for name, sizes in counts.items()]
        total = sum(map(sum, counts.values()))
        lines.append(f"           {total:6} lines in all of {package}")
        whole += total if package in PACKAGES else 0
    yaml = sum(len(path.read_text().splitlines()) for path in (ROOT / "configs").rglob("*.yaml"))
    return "\n".join(
        [
            *lines,
            f"{whole} lines of Python in the wheel",
            f"{yaml} lines of YAML in configs/",
            f"{len(circles(arrows(modules())))} circles",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figures", action="store_true", help="print files, lines and circles; write nothing")
    if parser.parse_args().figures:
        print(figures())
    else:
        write_text(PAGE, rendered(PAGE.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
