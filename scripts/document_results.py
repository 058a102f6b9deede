"""Write the figures of docs/results into the pages, and draw their pictures: `python scripts/document_results.py`.

docs/results/val/NAME.json, house/NAME.json and habitat/NAME.json are files of `sideagents eval ... --json`, one row of
a table each; navigation_TABLE.jsonl, icifar_TABLE.jsonl, simtaskonomy_TABLE.jsonl, domains.jsonl, vision_TABLE.jsonl
and nlp_TABLE.jsonl are rows of the scripts `reproduce_*.py`; benchmark_*.json are those of `scripts/benchmark.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sideagents.errors import SideAgentsError
from sideagents.language.nlp_plots import plot_memory
from sideagents.storage.files import read_json, write_text
from sideagents_policies.evaluate.compare import comparison_table
from sideagents_policies.evaluate.tables import markdown_table, read_result, results_table
from studies import domains as reproduce_domains
from studies import lifelong as reproduce_lifelong
from studies import nlp as reproduce_nlp
from studies import vision as reproduce_vision
from studies.cells import newest_rows
from studies.navigation import rows_of, table_of

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "ladder.md")
BASELINES = ("expert", "straight", "forward", "random")
METRICS = ("success", "spl", "soft_spl", "nav_reward", "steps")
BASES = ("bundled", "resnet18", "resnet50")


def evaluations(folder: str, results: Path) -> str:
    """Return a table of the results of `eval` in a folder: agents first, then the baselines."""
    files = {path.stem: path for path in sorted((results / folder).glob("*.json"))}
    names = [name for name in files if name not in BASELINES] + [name for name in BASELINES if name in files]
    return results_table({name: read_result(files[name]) for name in names}, METRICS) if names else ""


def without_picture(results: Path) -> str:
    """Return what an ImageNav agent reaches without the picture of its goal, and with it."""
    path = results / "imagenav.json"
    return comparison_table(read_json(path)) if path.is_file() else ""


def relevance(results: Path) -> str:
    """Return bases ranked by the alpha that side-tuning learns beside each."""
    rows = _benchmark(results / "relevance_cifar.json")
    lines = [[row["base"], f"{row['alpha']:.3f}", f"{100 * row['accuracy']:.1f}", f"{row['loss']:.3f}"] for row in rows]
    return markdown_table(["base", "alpha", "accuracy, %", "loss"], lines) if rows else ""


def comparison(table: str, results: Path) -> str:
    """Return one table of the comparison of methods."""
    rows = rows_of(table, results)
    return table_of(rows) if rows else ""


def environment_speed(results: Path) -> str:
    """Return steps per second by image size and building."""
    rows = [row for row in _benchmark(results / "benchmark_env.json") if row["name"].startswith("env_steps_per_second")]
    header = ["pixels, buildings", "steps/s", "lowest", "highest", "triangles"]
    return markdown_table(header, [_speed(row) for row in rows]) if rows else ""


def rendering_speed(results: Path) -> str:
    """Return images per second by building and size: RGB beside the rays alone, and beside rays cast one by one."""
    rows = {(row["scene"], row["name"]): row for row in _benchmark(results / "benchmark_render.json")}
    lines = []
    for (scene, name), row in rows.items():
        way, _, size = name.partition("_images_per_second_")
        if way != "render_rgb":
            continue
        alone, both, single = (
            rows[scene, f"{other}_images_per_second_{size}"]
            for other in ("rays_alone", "render_rgb_depth", "single_rays_rgb")
        )
        rates = [f"{one['value']:,.0f}" for one in (alone, row, both, single)]
        shares = [f"{row['ratio']:.2f}", f"{row['ratio'] / single['ratio']:.2f}"]
        lines.append([scene.replace("_", " "), f"{row['triangles']:,}", size, *rates, *shares])
    header = ["building", "triangles", "pixels", "rays alone", "RGB", "RGB and depth", "RGB, single rays"]
    return markdown_table([*header, "RGB of rays alone", "of single rays"], lines) if lines else ""


def stacks(results: Path) -> str:
    """Return what the expert reaches, and how fast, through each stack in each building."""
    header = ["building", "triangles", "pixels", "stack", "steps/s", "success", "SPL", "steps"]
    lines = [
        [
            row["building"].replace("_", " "),
            f"{row['triangles']:,}",
            str(row["pixels"]),
            row["stack"].replace("_", "-"),
            f"{row['value']:,.0f}",
            f"{row['success']:.2f}",
            f"{row['spl']:.3f}",
            f"{row['steps_per_episode']:.1f}",
        ]
        for row in _benchmark(results / "benchmark_stacks.json")
    ]
    return markdown_table(header, lines) if lines else ""


def training_speed(results: Path) -> str:
    """Return frames per second of PPO beside its limit, then the other rows of the benchmark."""
    rows = {row["name"]: row for row in _benchmark(results / "benchmark_train.json")}
    if not rows:
        return ""
    header = ["base", "base once, frames/s", "base inside", "limit of the parts", "share of the limit", "speed-up"]
    kinds = ("encode_once_fps", "base_inside_fps", "limit_fps", "fraction_of_limit", "speedup")
    digits = (0, 0, 0, 2, 2)
    lines = [
        [base, *(f"{rows[f'ppo_{kind}_{base}']['value']:.{n}f}" for kind, n in zip(kinds, digits, strict=True))]
        for base in BASES
    ]
    alone = f"Forward passes of the base for each environment step: {rows['base_forwards_per_env_step']['value']:.2f}."
    one, two, ratio = (rows[f"ppo_workers_{name}"]["value"] for name in ("1_fps", "2_fps", "speedup"))
    together = f"One training process: {one:.0f} frames/s, two: {two:.0f}, {ratio:.2f} times as many."
    return f"{markdown_table(header, lines)}\n\n{alone} {together}"


def adaptation_cost(results: Path) -> str:
    """Return what a training step of each method costs beside fine-tuning."""
    rows = {row["name"]: row for row in _benchmark(results / "benchmark_adapt.json")}
    names = [name.removeprefix("adapt_step_ms_") for name in rows if name.startswith("adapt_step_ms_")]
    if not names:
        return ""
    lines = []
    for name in names:
        step, kept = rows[f"adapt_step_ms_{name}"], rows[f"adapt_activation_mb_{name}"]["value"]
        peak, total = rows[f"adapt_peak_mb_{name}"]["value"], rows[f"adapt_total_mb_{name}"]["value"]
        weights = rows[f"adapt_trainable_{name}"]["value"]
        spread = f"{step['value']:.0f} [{step['low']:.0f}, {step['high']:.0f}]"
        lines.append(
            [name, spread, f"{step['ratio']:.2f}", f"{kept:.1f}", f"{peak:.1f}", f"{total:.1f}", f"{weights:,}"]
        )
    sizes = ["kept for the backward pass, MB", "peak, MB", "and weights and momentum, MB"]
    header = ["method", "ms a step", "of fine-tuning", *sizes, "trained weights"]
    table = markdown_table(header, lines)
    if "adapt_cached_codes" not in rows:
        return table
    cached = rows["adapt_cached_codes"]
    about = f"of the paper's four-layer side beside a ResNet-44, batch {cached['batch']}"
    said = f"With the base's codes computed before, a training step {about}, is {_faster(cached)}."
    if "adapt_cached_epoch" in rows:
        said += f" Where readouts alone are trained, a whole epoch is {_faster(rows['adapt_cached_epoch'])}."
    return f"{table}\n\n{said}"


def _faster(row: dict[str, Any]) -> str:
    return f"{row['value']:.1f} times as fast [{row['low']:.1f}, {row['high']:.1f}]"


def language_cost(results: Path) -> str:
    """Return memory and time of a T5's training step by each method."""
    header = [
        "method",
        "total, GB",
        "weights",
        "gradients, AdamW",
        "activations",
        "saved",
        "saved above weights",
        "process, GB",
        "s a step",
    ]
    lines = [
        [
            row["method"],
            f"{row['peak_bytes_total'] / 1e9:.2f}",
            *(f"{row[key] / 1e9:.2f}" for key in ("weight_bytes", "state_bytes", "activation_bytes")),
            *(f"{100 * row[key]:.0f} %" for key in ("saved_total", "saved_above_weights")),
            f"{row['rss_bytes'] / 1e9:.2f}",
            f"{row['seconds_per_step']:.1f}",
        ]
        for row in _benchmark(results / "benchmark_nlp.json")
    ]
    return markdown_table(header, lines) if lines else ""


def vision(table: str, results: Path) -> str:
    """Return one table of transfer or of the analyses."""
    return reproduce_vision.table_of(table, newest_rows(results / f"vision_{table}.jsonl"))


BLOCKS: dict[str, Callable[[Path], str]] = {
    "val": lambda results: evaluations("val", results),
    "imagenav": without_picture,
    "house": lambda results: evaluations("house", results),
    "bc": lambda results: comparison("bc", results),
    "ppo": lambda results: comparison("ppo", results),
    "demos": lambda results: comparison("demos", results),
    "env": environment_speed,
    "render": rendering_speed,
    "stacks": stacks,
    "habitat": lambda results: evaluations("habitat", results),
    "train": training_speed,
    "icifar": lambda results: reproduce_lifelong.table_of("icifar", results),
    "simtaskonomy": lambda results: reproduce_lifelong.table_of("simtaskonomy", results),
    "domains": lambda results: reproduce_domains.table_of(newest_rows(results / "domains.jsonl")),
    **{table: lambda results, table=table: vision(table, results) for table in reproduce_vision.TABLES},
    "relevance": relevance,
    "adapt": adaptation_cost,
    "nlp": language_cost,
    **reproduce_nlp.SHOWN,
}


def rendered(page: str, results: Path = RESULTS) -> str:
    """Return the page with what stands between `<!-- NAME -->` and `<!-- /NAME -->` made anew from the results."""
    for name, make in BLOCKS.items():
        first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = page.partition(first)
        if found:
            _, closed, after = rest.partition(last)
            if not closed:
                raise ValueError(f"{first} has no {last}")
            page = f"{before}{first}\n\n{make(results) or 'Not measured yet.'}\n\n{last}{after}"
    return page


def draw(results: Path = RESULTS, folder: Path = ROOT / "docs" / "img") -> list[Path]:
    """Draw the pictures of what is measured, and return their paths."""
    drawn = []
    if rows := _benchmark(results / "benchmark_nlp.json"):
        drawn.append(plot_memory(rows, folder / "ladder_memory.png"))
    if (results / "nlp_curves.jsonl").is_file():
        drawn.append(reproduce_nlp.plot(results, folder / "nlp_curves.png"))
    with suppress(SideAgentsError):  # before a method is measured in every domain
        drawn.append(reproduce_domains.plot(newest_rows(results / "domains.jsonl"), folder / "domains.png"))
    for name in reproduce_lifelong.COMPARISONS:
        if (results / f"{name}_methods.jsonl").is_file():
            drawn.append(reproduce_lifelong.plot(name, results, folder / f"{name}.png"))
    return drawn


def _benchmark(path: Path) -> list[dict[str, Any]]:
    return list(read_json(path)) if path.is_file() else []


def _speed(row: dict[str, Any]) -> list[str]:
    speeds = (f"{row[key]:,.0f}" for key in ("value", "low", "high"))
    return [row["name"].removeprefix("env_steps_per_second_").replace("_", " "), *speeds, f"{row['triangles']:,}"]


if __name__ == "__main__":
    for path in PAGES:
        write_text(path, rendered(path.read_text()))
    for path in draw():
        print(f"wrote {path.relative_to(ROOT)}")
