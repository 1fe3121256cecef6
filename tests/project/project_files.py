"""Which files belong to the project, for tests that read all of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("diff_rasterizer", "gaussian4d", "generators", "viewer")
_SKIPPED = {
    "build",
    "dist",
    ".git",
    ".venv",
    "venv",
    "__pycache__",
    "node_modules",
    "runs",
    ".pytest_cache",
    ".ruff_cache",
}
_TEXT = {
    ".py",
    ".md",
    ".txt",
    ".toml",
    ".yaml",
    ".yml",
    ".cpp",
    ".cu",
    ".h",
    ".hpp",
    ".cuh",
    ".sh",
    ".json",
    ".cfg",
    ".ts",
    ".mjs",
    ".css",
    ".html",
    "",
}


def project_files() -> list[Path]:
    """Returns every text file of the project: what git tracks or would add, or all files where there is no git."""
    try:
        command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        paths = [ROOT / name for name in names]
    except (OSError, subprocess.CalledProcessError):
        paths = [p for p in ROOT.rglob("*") if not _SKIPPED & set(p.relative_to(ROOT).parts)]
    return sorted(path for path in paths if path.is_file() and path.suffix in _TEXT)


def python_files(package: str) -> list[Path]:
    """Returns the Python files of one package."""
    return sorted(path for path in project_files() if path.suffix == ".py" and path.is_relative_to(ROOT / package))
