"""The nerfstudio plugin as far as it can be tested without nerfstudio: `scripts/check_nerfstudio.sh` tries the rest."""

from __future__ import annotations

import ast
import importlib.util
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("group", ["nerfstudio.method_configs", "nerfstudio.dataparser_configs"])
def test_entry_points_name_what_is_there(group: str) -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][group]
    assert points
    for value in points.values():
        module, _, name = value.partition(":")
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text())
        assigned = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}  # type: ignore[attr-defined]
        assert name in assigned


def test_the_dataparser_does_not_import_what_asks_for_dataparsers() -> None:
    """nerfstudio loads dataparsers while it imports its data managers: needing those would be a circle."""
    source = (ROOT / "gaussian4d" / "interop" / "nerfstudio" / "dataparser.py").read_text()
    modules = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in modules if name and ("datamanagers" in name or "pipelines" in name)]
    assert "method" not in modules and "model" not in modules
