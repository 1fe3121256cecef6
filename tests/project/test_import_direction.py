"""Packages import in one direction only, and nothing imports what does not work beside CPU torch."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from project_files import PACKAGES, ROOT, project_files, python_files

MAY_IMPORT = {
    "diff_rasterizer": set(),
    "gaussian4d": {"diff_rasterizer"},
    "generators": {"gaussian4d", "diff_rasterizer"},
    "viewer": {"gaussian4d", "diff_rasterizer"},
}
# Their wheels die at import next to CPU torch, drag torchvision in, or bear a licence we cannot ship.
NEVER = {"torchvision", "torchmetrics", "plyfile", "lpips"}


def imported(source: str, package: str = "") -> set[str]:
    """Returns the top-level modules that Python source imports anywhere, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(package if node.level else (node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__", "require") and isinstance(node.args[0].value, str):
                found.add(node.args[0].value.split(".")[0])
    return found


def test_the_walker_sees_every_kind_of_import() -> None:
    source = (
        "import a.b\nfrom c.d import e\ndef f():\n    import g\n    importlib.import_module('h.i')\nfrom . import j\n"
    )
    assert imported(source, "own") == {"a", "c", "g", "h", "own"}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_back_edge(package: str) -> None:
    files = python_files(package)
    assert files, f"{package} has no files; is the walk broken?"
    allowed = MAY_IMPORT[package] | {package}
    back = {
        str(path.relative_to(ROOT)): sorted(wrong)
        for path in files
        if (wrong := (imported(path.read_text(encoding="utf-8"), package) & set(PACKAGES)) - allowed)
    }
    assert not back, (
        f"{package} may import {sorted(allowed)} only; upper packages register through entry points: {back}"
    )


def test_forbidden_packages_are_imported_nowhere() -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(found)
        for path in project_files()
        if path.suffix == ".py" and (found := imported(path.read_text(encoding="utf-8")) & NEVER)
    }
    assert not wrong


def test_no_requirement_names_a_forbidden_package() -> None:
    for name in ("pyproject.toml", "constraints.txt"):
        path = ROOT / name
        if path.exists():
            assert not [package for package in NEVER if package in path.read_text(encoding="utf-8").lower()], name


def test_relative_imports_stay_inside_their_package() -> None:
    for package in PACKAGES:
        for path in python_files(package):
            depth = len(path.relative_to(ROOT).parts) - 1
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    assert node.level <= depth, f"{path}: line {node.lineno} leads outside {package}"


def test_the_packages_are_all_there() -> None:
    assert all((Path(ROOT) / package / "__init__.py").exists() for package in PACKAGES)
