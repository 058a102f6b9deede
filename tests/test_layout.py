"""The house's shape: imports point down only, light things stay light, the wheel holds what it should."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib

import document_architecture as architecture

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "sideagents": ROOT / "sideagents",
    "sideagents_envs": ROOT / "envs" / "sideagents_envs",
    "sideagents_policies": ROOT / "policies" / "sideagents_policies",
}
SCRIPTS = {"scripts", "studies", "benchmarks", *(path.stem for path in (ROOT / "scripts").glob("*.py"))}
ABOVE = {
    "sideagents": {"sideagents_envs", "sideagents_policies", "gymnasium", "stable_baselines3", *SCRIPTS},
    "sideagents_envs": {"sideagents", "sideagents_policies", *SCRIPTS},
    "sideagents_policies": SCRIPTS,
}
ONLY_VEC = {"torch", "stable_baselines3"}  # in sideagents_envs
OPTIONAL = {"timm", "torchvision", "transformers", "peft", "minari", "habitat", "habitat_sim"}
# subclasses of habitat-lab's classes: only `register()` imports these modules, tests/envs/test_habitat_importing.py
LAZY = {"habitat/lab_simulator.py", "habitat/cameras.py"}


def sources(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield (module, line) of every import, those inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield str(node.module), node.lineno


def at_import(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield (module, line) of the imports that run when the module is imported."""
    kept = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], [])
    for node in kept.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield from imports(node)


def violations(package: str, text: str, name: str) -> list[str]:
    """Return `file:line: module` for every import that `package` must not have."""
    tree = ast.parse(text)
    wrong = [(m, line) for m, line in imports(tree) if m.split(".")[0] in ABOVE[package]]
    if package == "sideagents_envs" and name != "batch/vec.py":
        wrong += [(m, line) for m, line in imports(tree) if m.split(".")[0] in ONLY_VEC]
    if name not in LAZY:
        wrong += [(m, line) for m, line in at_import(tree) if m.split(".")[0] in OPTIONAL]
    return [f"{name}:{line}: {module}" for module, line in wrong]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_down(package: str) -> None:
    found = []
    for path in sources(package):
        found += violations(package, path.read_text(encoding="utf-8"), str(path.relative_to(PACKAGES[package])))
    assert found == []
    assert len(sources(package)) > 5


@pytest.mark.parametrize(
    ("package", "text"),
    [
        ("sideagents", "import gymnasium"),
        ("sideagents", "def f():\n    from stable_baselines3 import PPO"),
        ("sideagents", "from sideagents_envs.config import CameraConfig"),
        ("sideagents_envs", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sideagents"),
        ("sideagents_envs", "import torch"),
        ("sideagents_policies", "import timm"),
    ],
)
def test_a_wrong_arrow_is_noticed(package: str, text: str) -> None:
    assert len(violations(package, text, "x.py")) == 1
    assert violations("sideagents_policies", "def f():\n    import timm", "x.py") == []


def test_no_two_files_import_each_other_in_a_circle() -> None:
    graph = architecture.arrows(architecture.modules())
    assert "sideagents.core.base" in graph["sideagents_policies.agent.checks"]
    assert architecture.circles(graph) == []


def test_a_circle_is_noticed() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert architecture.circles(graph) == [["b", "c", "b"]]


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_are_small_and_read_only_what_lies_below_them(package: str) -> None:
    folders: dict[Path, list[str]] = {}
    for path in sources(package):
        folders.setdefault(path.parent, []).append(path.stem)
    assert {folder.name: len(names) for folder, names in folders.items() if len(names) > 16} == {}
    names = [name for inside in folders.values() for name in inside if name != "__init__"]
    assert sorted({name for name in names if names.count(name) > 1}) == []
    assert architecture.circles(architecture.rooms(package)) == []


def test_the_map_of_the_rooms_is_true() -> None:
    page = architecture.PAGE.read_text(encoding="utf-8")
    assert architecture.rendered(page) == page, "run `python scripts/document_architecture.py`"


def modules_after(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after running `code`."""
    script = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_environments_load_no_torch() -> None:
    loaded = modules_after("import sideagents_envs, sideagents_envs.batch.env, sideagents_envs.episodes.files")
    assert not loaded & {"torch", "stable_baselines3", "sideagents"}


def test_sideagents_loads_no_environment() -> None:
    assert not modules_after("import sideagents") & {"gymnasium", "stable_baselines3", "sideagents_envs"}


def test_help_loads_no_torch() -> None:
    code = "from sideagents_policies.cli.main import main\nassert main(['train', '--help']) == 0"
    assert not modules_after(code) & {"torch", "stable_baselines3", "gymnasium", "numpy", "pydantic"}


def settings() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        tables: dict[str, object] = tomllib.load(file)["tool"]["setuptools"]
    return tables


def test_every_package_is_listed() -> None:
    found = {"sideagents_policies.configs"}
    for package, folder in PACKAGES.items():
        for init in folder.rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(folder).parts]))
    assert set(settings()["packages"]) == found  # type: ignore[call-overload]


def test_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"  # building leaves files behind, so it works on a copy
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("sideagents", "envs", "policies", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        (source / name).write_bytes((ROOT / name).read_bytes() if (ROOT / name).exists() else b"")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    for config in (ROOT / "configs").rglob("*.yaml"):
        assert f"sideagents_policies/configs/{config.relative_to(ROOT / 'configs')}" in names
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


@pytest.mark.parametrize("package", PACKAGES)
def test_images_are_opened_by_the_formats_that_are_meant(package: str) -> None:
    """Pillow tells a format from the content, and for some it starts another program."""
    for path in sources(package):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open"):
                assert "formats" in {word.arg for word in node.keywords}, f"{path}:{node.lineno}"
            if isinstance(node, ast.Call):  # other decoders
                assert ast.unparse(node.func).rpartition(".")[2] not in ("imread", "mimread", "imiter"), path


def test_public_names() -> None:
    for module, names in {
        "sideagents": ("SideTuned", "load_base"),
        "sideagents_envs": ("make_vec",),
        "sideagents_policies": ("SideTunedExtractor", "SideTunedPolicy", "EncodeOnce"),
    }.items():
        for name in names:
            assert getattr(importlib.import_module(module), name) is not None
